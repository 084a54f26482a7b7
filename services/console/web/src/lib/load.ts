import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "./api";
import { connection, listen, onRejoin } from "./live";
import { whole } from "./reading";
import type { AnnalsEvent } from "./types";

export interface Loaded<T> {
  value: T | undefined;
  problem: Problem | null;
  loading: boolean;
  reload: () => void;
}

/** Something to be had from the services, loaded anew when `key` changes or `reload` is called: a load that runs
 *  comes to its end first. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, set] = useState<{ key: string; value?: T; problem: Problem | null; loading: boolean }>({
    key,
    problem: null,
    loading: true,
  });
  const latest = useRef(load);
  latest.current = load;
  const start = useRef(() => {});
  useEffect(() => {
    const aborting = new AbortController();
    const { signal } = aborting;
    const run = whole(async () => {
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
    start.current = run;
    run();
    return () => aborting.abort();
  }, [key]);
  const reload = useCallback(() => start.current(), []);
  const live = connection.value === "live";
  useEffect(() => {
    if (live && state.problem?.passes) reload();
  }, [live]);
  const own = state.key === key;
  return {
    value: own ? state.value : undefined,
    problem: own ? state.problem : null,
    loading: state.loading,
    reload,
  };
}

/** Have `call` run, soon, after events that matter; many at once count as one. */
export function useLive(matters: (event: AnnalsEvent) => boolean, call: () => void, wait = 250): void {
  const latest = useRef({ matters, call });
  latest.current = { matters, call };
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const soon = () => {
      if (timer === undefined)
        timer = setTimeout(() => {
          timer = undefined;
          latest.current.call();
        }, wait);
    };
    const ends = [
      listen((event) => {
        if (latest.current.matters(event)) soon();
      }),
      onRejoin(soon),
    ];
    return () => {
      clearTimeout(timer);
      for (const end of ends) end();
    };
  }, [wait]);
}

/** Again and again, while the page is looked at. */
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
