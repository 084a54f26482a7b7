import { ask, query } from "./api";

/** So many positions are waited for before something is read, one of each lane among them; of more, the newest. */
const AWAITED = 72;

/** Have something read that is read whole: once at a time, and once more for what came meanwhile.
 *
 *  `position` is of what changed it, and is waited for: one that is visible says nothing of those before it. What could
 *  not be read is still wanted, and is read with what is wanted next. What is there is read once, though a position is
 *  not visible yet, at first and where one wants it `anyway`.
 */
export function whole(read: () => Promise<void>): (position?: string, anyway?: boolean) => Promise<void> {
  let positions: string[] = [];
  let wanted = false;
  let shown = false;
  let running: Promise<void> | undefined;
  const run = async () => {
    try {
      while (wanted) {
        const awaited = positions;
        [positions, wanted] = [[], false];
        try {
          try {
            // One after the other: those that are not visible yet shall not take all of a browser's connections.
            for (const position of awaited) await visible(position);
          } catch (error) {
            if (!shown) await read(); // what is there is better than what was
            shown = true;
            throw error;
          }
          await read();
          shown = true;
        } catch (error) {
          positions = [...awaited, ...positions].slice(-AWAITED);
          throw error;
        }
      }
    } finally {
      running = undefined;
    }
  };
  return (position, anyway = false) => {
    wanted = true;
    if (anyway) shown = false;
    if (position && !positions.includes(position)) positions = [...positions, position].slice(-AWAITED);
    // Not at once: what is asked for in the same breath is read together.
    running ??= Promise.resolve().then(run);
    return running;
  };
}

/** Return when queries see what is at a position. */
async function visible(position: string): Promise<void> {
  await ask(query("/api/projector/queries/members", { limit: 1, position }));
}
