import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "./api";
import { connection, listen, onRejoin } from "./live";
import { coalesced } from "./reading";
import type { AnnalsEvent } from "./types";

export interface Loaded<T> {
  value: T | undefined;
  problem: Problem | null;
  loading: boolean;
  reload: () => void;
  /** Load again, once queries see the events at these positions. */
  follow: (positions: string[]) => void;
}

const AGAIN = 5000;
/** The most positions of events that a load waits for; of more, it takes the newest. Where so much happens,
 *  the next load comes soon anyway. */
const AWAITED = 8;

/** Load something from the services. It is loaded again when `key` changes, which aborts a running load, and
 *  when `reload` or `follow` is called, which lets a running load end first. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, set] = useState<{ key: string; value?: T; problem: Problem | null; loading: boolean }>({
    key,
    problem: null,
    loading: true,
  });
  const latest = useRef(load);
  latest.current = load;
  const start = useRef((_positions: string[]) => {});
  useEffect(() => {
    const aborting = new AbortController();
    const { signal } = aborting;
    const run = coalesced(async () => {
      if (signal.aborted) return;
      set((old) => (old.key === key ? { ...old, loading: true } : { key, problem: null, loading: true }));
      try {
        const value = await latest.current(signal);
        if (!signal.aborted) set({ key, value, problem: null, loading: false });
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Problem)) throw error;
        set((old) => ({ ...old, key, problem: error, loading: false }));
      }
    });
    let timer: ReturnType<typeof setTimeout> | undefined;
    // If a position is not visible in time, what is there is shown, and the position is waited for later.
    start.current = async (positions) => {
      clearTimeout(timer);
      try {
        await Promise.all((positions.length ? positions : [undefined]).map((one) => run(one, true)));
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        clearTimeout(timer);
        if (error.isTemporary && !signal.aborted) timer = setTimeout(() => start.current([]), AGAIN);
      }
    };
    start.current([]);
    return () => {
      clearTimeout(timer);
      aborting.abort();
    };
  }, [key]);
  const reload = useCallback(() => start.current([]), []);
  const follow = useCallback((positions: string[]) => start.current(positions), []);
  const live = connection.value === "live";
  useEffect(() => {
    if (live && state.problem?.isTemporary) reload();
  }, [live]);
  const own = state.key === key;
  return {
    value: own ? state.value : undefined,
    problem: own ? state.problem : null,
    loading: state.loading,
    reload,
    follow,
  };
}

/** Run `call` within `wait` ms of an event that matters, once for all events that arrive until then. It
 *  receives the newest position of each of their streams. */
export function useLive(
  matters: (event: AnnalsEvent) => boolean,
  call: (positions: string[]) => void,
  wait = 250,
): void {
  const latest = useRef({ matters, call });
  latest.current = { matters, call };
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const reached = new Map<string, string>();
    let rejoined: string[] = [];
    const soon = () => {
      timer ??= setTimeout(() => {
        timer = undefined;
        const positions = [...rejoined, ...[...reached.values()].slice(-AWAITED)];
        reached.clear();
        rejoined = [];
        latest.current.call(positions);
      }, wait);
    };
    const ends = [
      listen((event) => {
        if (!latest.current.matters(event)) return;
        // Deleted first, so that the newest position is the last one in the map.
        reached.delete(event.stream);
        reached.set(event.stream, event.position);
        soon();
      }),
      // One position per lane: the stream does not send the events before it in that lane.
      onRejoin((position) => {
        rejoined = position.split(",");
        soon();
      }),
    ];
    return () => {
      clearTimeout(timer);
      for (const end of ends) end();
    };
  }, [wait]);
}

/** Run `call` every `ms` milliseconds while the page is visible. */
export function useEvery(ms: number, call: () => void): void {
  const latest = useRef(call);
  latest.current = call;
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") latest.current();
    }, ms);
    return () => clearInterval(timer);
  }, [ms]);
}
