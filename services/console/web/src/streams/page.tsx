import { History } from "lucide-preact";
import { useState } from "preact/hooks";
import { Link, useLocation, useSearch } from "wouter-preact";
import { ask, Problem, query } from "../lib/api";
import { count, idOf, moment, precise } from "../lib/format";
import { useLive, useLoad } from "../lib/load";
import type { AnnalsEvent, Data, Page } from "../lib/types";
import { Empty, Failed, Skeleton, Tag, TraceLink, Values } from "../parts/basics";
import { Bar } from "../parts/status";
import { VirtualList } from "../parts/virtual";
import { Difference } from "./difference";

const PAGE = 500;
const MOST = 5000;
const ROW = 46;

export function StreamsPage({ params }: { params: { stream?: string } }) {
  const [, navigate] = useLocation();
  const { stream } = params;
  return (
    <>
      <Bar title="Streams" />
      <main id="main" class="main stack" tabIndex={-1}>
        <form
          class="row wrap"
          onSubmit={(event) => {
            event.preventDefault();
            const wanted = String(new FormData(event.currentTarget).get("stream")).trim();
            if (wanted) navigate(`/streams/${encodeURIComponent(wanted)}`);
          }}
        >
          <div class="search">
            <History size={15} aria-hidden="true" />
            <input
              key={stream}
              class="input"
              name="stream"
              aria-label="Stream"
              placeholder="Stream, such as task-report"
              defaultValue={stream ?? ""}
              required
            />
          </div>
          <button type="submit" class="button">
            Show
          </button>
        </form>
        {stream ? <Stream name={idOf(stream)} key={stream} /> : <Recent />}
      </main>
    </>
  );
}

/** Fetch the latest events of a stream, the newest first, page by page until there are `MOST`. */
async function history(name: string, signal: AbortSignal): Promise<AnnalsEvent[]> {
  const all: AnnalsEvent[] = [];
  let to: number | undefined;
  do {
    const path = query(events(name), { to, backwards: "true", limit: PAGE });
    const { items, next } = await ask<{ items: AnnalsEvent[]; next?: number | null }>(path, { signal });
    all.push(...items);
    // A projector of the previous release does not say whether there are more.
    if (next === null || items.length === 0) break;
    to = (items[items.length - 1] as AnnalsEvent).version - 1;
  } while (to > 0 && all.length < MOST);
  return all;
}

async function eventAt(name: string, version: number, signal: AbortSignal): Promise<AnnalsEvent | undefined> {
  const path = query(events(name), { from: version, to: version });
  return (await ask<Page<AnnalsEvent>>(path, { signal })).items[0];
}

const events = (name: string) => `/api/projector/queries/streams/${encodeURIComponent(name)}/events`;

/** Fetch an aggregate's state at a version; null if it did not exist, or if no state of its kind is kept. */
async function stateAt(name: string, version: number, signal: AbortSignal): Promise<Data | null> {
  if (version === 0) return null;
  try {
    const path = query(`/api/projector/queries/streams/${encodeURIComponent(name)}/state`, { version });
    return await ask<Data>(path, { signal });
  } catch (error) {
    if (error instanceof Problem && (error.status === 404 || error.status === 400)) return null;
    throw error;
  }
}

function Stream({ name }: { name: string }) {
  const [, navigate] = useLocation();
  const given = Number(new URLSearchParams(useSearch()).get("version")) || null;
  const loaded = useLoad(name, (signal) => history(name, signal));
  useLive((event) => event.stream === name, loaded.reload);
  const [against, setAgainst] = useState<number | null>(null);
  const newest = loaded.value;
  const last = newest?.[0]?.version ?? 0;
  const version = Math.min(given ?? last, last);
  const listed = newest?.find((one) => one.version === version);
  const fetched = useLoad(newest && !listed ? `${name}/${version}` : "", (signal) =>
    newest && !listed ? eventAt(name, version, signal) : Promise.resolve(undefined),
  );
  const event = listed ?? fetched.value;
  const other = against ?? version - 1;
  const states = useLoad(newest ? `${name}/${version}/${other}` : "", (signal) =>
    newest
      ? Promise.all([stateAt(name, version, signal), stateAt(name, other, signal)])
      : Promise.resolve([null, null] as [Data | null, Data | null]),
  );
  const [kept, keep] = useState<[Data | null, Data | null] | undefined>(undefined);
  if (states.value && states.value !== kept) keep(states.value as [Data | null, Data | null]);

  if (loaded.problem && !newest) {
    return loaded.problem.status === 404 ? (
      <Empty title="Stream not found" icon={<History size={28} strokeWidth={1.5} />}>
        <p>
          The name of a stream is <code>task-</code>, <code>member-</code> or <code>saga-</code>, followed by
          the id.
        </p>
      </Empty>
    ) : (
      <Failed problem={loaded.problem} retry={loaded.reload} />
    );
  }
  if (!newest) return <Skeleton lines={9} />;
  const show = (wanted: number) =>
    navigate(`/streams/${encodeURIComponent(name)}?version=${wanted}`, { replace: true });
  // While the state of this version loads, that of the previous one is shown. If loading fails, neither is.
  const [now, before] = states.value ?? (states.problem ? undefined : kept) ?? [null, null];
  return (
    <div class="stream">
      <section class="panel" aria-label="Events">
        <header>
          <h3 class="cut">{name}</h3>
          <span class="quiet small number">
            {newest.length < last && "the newest "}
            {count(newest.length)}
            {newest.length < last && ` of ${count(last)}`} {last === 1 ? "event" : "events"}
          </span>
        </header>
        {loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />}
        <div class="list versions" style={{ height: `${newest.length * ROW + 1}px` }}>
          <VirtualList
            label="Events"
            items={newest}
            rowHeight={ROW}
            keyOf={(one) => one.event_id}
            row={(one) => (
              <button
                type="button"
                class="version"
                aria-pressed={one.version === version}
                onClick={() => show(one.version)}
              >
                <span class="quiet number">v{one.version}</span>
                <span class="cut">
                  <span class="cut">{one.event_type}</span>
                  <span class="small quiet cut">
                    {moment(one.timestamp)} {one.user_id && `by ${one.user_id}`}
                  </span>
                </span>
              </button>
            )}
          />
        </div>
      </section>
      <div class="stack">
        <section class="panel pad slider" aria-label="Through time">
          <div class="row spread wrap">
            <b>
              {event?.event_type} <span class="quiet number">v{version}</span>
            </b>
            <span class="quiet small number">{event && precise(event.timestamp)}</span>
          </div>
          {fetched.problem && <Failed problem={fetched.problem} retry={fetched.reload} />}
          <input
            type="range"
            min={1}
            max={Math.max(1, last)}
            value={version}
            aria-label="Version"
            aria-valuetext={
              event ? `version ${version}: ${event.event_type}, ${precise(event.timestamp)}` : ""
            }
            onInput={(input) => show(Number(input.currentTarget.value))}
          />
          {event && (
            <div class="row wrap small">
              <Link href={`/causes/event/${event.event_id}`}>View causes</Link>
              <span class="quiet">·</span>
              <TraceLink traceparent={event.traceparent} />
            </div>
          )}
        </section>
        <section class="panel">
          <header>
            <h3>What changed</h3>
            <label class="row small">
              <span class="quiet">since version</span>
              <input
                class="input"
                type="number"
                min={0}
                max={last}
                title="0: before the first event"
                value={other}
                onChange={(change) => {
                  const wanted = change.currentTarget.valueAsNumber;
                  setAgainst(Number.isNaN(wanted) ? null : Math.min(Math.max(Math.trunc(wanted), 0), last));
                }}
              />
              {against !== null && (
                <button type="button" class="button" onClick={() => setAgainst(null)}>
                  Previous version
                </button>
              )}
            </label>
          </header>
          {states.problem ? (
            <Failed problem={states.problem} retry={states.reload} />
          ) : (
            <Difference before={before} now={now} />
          )}
        </section>
        <section class="panel">
          <header>
            <h3>State at this version</h3>
            {now === null && <Tag>{states.problem ? "not available" : "no state is kept: event data"}</Tag>}
          </header>
          <div class="pad">
            {now ? <Values value={now} /> : event && !states.problem && <Values value={event.data} />}
          </div>
        </section>
      </div>
    </div>
  );
}

function Recent() {
  const loaded = useLoad("recent", async (signal) => {
    const since = new Date(Date.now() - 3_600_000 * 24).toISOString();
    const { items } = await ask<Page<AnnalsEvent>>(
      query("/api/projector/queries/events", { from: since, backwards: "true", limit: 500 }),
      { signal },
    );
    const streams = new Map<string, AnnalsEvent>();
    for (const event of items) if (!streams.has(event.stream)) streams.set(event.stream, event);
    return [...streams.values()].slice(0, 20);
  });
  useLive(() => true, loaded.follow, 1000);
  if (loaded.problem) return <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!loaded.value) return <Skeleton />;
  if (loaded.value.length === 0) {
    return (
      <Empty title="No events in the last 24 hours" icon={<History size={28} strokeWidth={1.5} />}>
        <p>Everything that ever happened to a task, a member or a saga is in its stream.</p>
      </Empty>
    );
  }
  return (
    <section class="panel">
      <header>
        <h3>Latest changes</h3>
      </header>
      <ul>
        {loaded.value.map((event) => (
          <li key={event.stream}>
            <Link class="pick" href={`/streams/${event.stream}`}>
              <span class="grow cut">
                <b>{event.stream}</b> <span class="quiet">{event.event_type}</span>
              </span>
              <span class="quiet small number">v{event.version}</span>
              <span class="quiet small when">{moment(event.timestamp)}</span>
            </Link>
          </li>
        ))}
      </ul>
    </section>
  );
}
