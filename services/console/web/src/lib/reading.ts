/** Have something read that is read whole: once at a time, and once more for what came meanwhile.
 *
 *  `position` is of what changed it. Of each lane the newest is waited for; of several lanes one after the other, as a
 *  query waits for one. What could not be read is still wanted, and is read with what is wanted next.
 */
export function whole(read: (position?: string) => Promise<void>): (position?: string) => Promise<void> {
  const wanted = new Map<string, string | undefined>();
  let running: Promise<void> | undefined;
  const run = async () => {
    try {
      for (const [lane, position] of wanted) {
        wanted.delete(lane);
        try {
          await read(position);
        } catch (error) {
          if (!wanted.has(lane)) wanted.set(lane, position);
          throw error;
        }
      }
    } finally {
      running = undefined;
    }
  };
  return (position) => {
    wanted.set(position?.split("-")[0] ?? "", position);
    // Not at once: what is asked for in the same breath is read together.
    running ??= Promise.resolve().then(run);
    return running;
  };
}
