import { ask, query } from "./api";

/** The most positions that a read waits for; of more, it takes the newest. Enough for one of each of the 64
 *  lanes. */
const AWAITED = 72;

/** Return a function that asks for `read`, which reads a whole list. One `read` runs at a time; all requests
 *  that arrive meanwhile share the next.
 *
 *  `position` is that of the event that changed the list. `read` waits until queries see every position asked
 *  for, because one that is visible says nothing about those before it. If one does not become visible in
 *  time, the request fails and its positions are waited for again with the next. Even then `read` runs once,
 *  the first time or if the caller asks for that with `anyway`.
 */
export function coalesced(read: () => Promise<void>): (position?: string, anyway?: boolean) => Promise<void> {
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
            // One after the other: requests that wait must not take all of the browser's connections.
            for (const position of awaited) await visible(position);
          } catch (error) {
            if (!shown) await read(); // incomplete data is better than none, or than old data
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
    // Deferred, so that all requests of the same tick share one read.
    running ??= Promise.resolve().then(run);
    return running;
  };
}

/** Wait until queries see the event at a position. */
async function visible(position: string): Promise<void> {
  await ask(query("/api/projector/queries/members", { limit: 1, position }));
}
