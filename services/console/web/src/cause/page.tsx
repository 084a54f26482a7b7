import { GitBranch, Search } from "lucide-preact";
import { useState } from "preact/hooks";
import { Link, useLocation } from "wouter-preact";
import { ask, pages, query } from "../lib/api";
import { count, idOf } from "../lib/format";
import { useEvery, useLive, useLoad } from "../lib/load";
import type { AnnalsEvent, Delivery, Page, Saga } from "../lib/types";
import { Empty, Failed, Skeleton, Tag, Time } from "../parts/basics";
import { Bar } from "../parts/status";
import { chainOf } from "./model";
import { Picture } from "./picture";

const MOST = 2000;
const CHAINS = 50;
const SOON = 400;
const LATELY = 60_000;
const LATER = 3000;

/** The events and deliveries of the newest chains that something belongs to. */
interface Found {
  events: AnnalsEvent[];
  deliveries: Delivery[];
  /** Says which part is shown; null if everything is. */
  only: string | null;
  /** Correlation ids of the chains whose last events are missing. */
  cut: ReadonlySet<string>;
}

export function CausePage({ params }: { params: { kind?: string; id?: string } }) {
  const { kind, id } = params;
  return (
    <>
      <Bar title="Causes" />
      <main id="main" class="main cause" tabIndex={-1}>
        {kind && id ? <Cause kind={kind} id={idOf(id)} /> : <Choose />}
      </main>
    </>
  );
}

function Cause({ kind, id }: { kind: string; id: string }) {
  const loaded = useLoad(`${kind}/${id}`, (signal) => find(kind, id, signal));
  const ids = new Set(loaded.value?.events.map((event) => event.correlation_id));
  const matters = (event: AnnalsEvent) => ids.has(event.correlation_id) || event.aggregate_id === id;
  useLive(matters, loaded.follow, SOON);
  const found = loaded.value;
  // A delivery is logged a moment after its event. No event reports that, nor what becomes of the delivery.
  useLive(matters, loaded.reload, LATER);
  useEvery(LATER, () => {
    if (found?.deliveries.some(isBeingSent)) loaded.reload();
  });
  const failed = loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!found) return failed ?? <Skeleton lines={10} />;
  if (found.events.length === 0) {
    return (
      failed ?? (
        <Empty title="Nothing found">
          <p>
            No event belongs to the {kind} <code>{id}</code>. If it is new, it may not be visible yet.
          </p>
          <Link class="button" href="/causes">
            Search again
          </Link>
        </Empty>
      )
    );
  }
  const chain = chainOf(found.events, found.deliveries, found.cut);
  return (
    <>
      {failed}
      <Picture chain={chain} only={found.only} kind={kind} id={id} />
    </>
  );
}

/** Whether a delivery is being sent, or about to be. One that has been due for longer than `LATELY` is held
 *  up, for as long as an operator wants. While it is `sending`, `due` is when it may be tried again. */
const isBeingSent = ({ status, due }: Delivery) => {
  const waited = Date.now() - new Date(due).getTime();
  return waited < LATELY && (status === "sending" || (status === "pending" && waited >= 0));
};

/** Find the chains that a task, member, stream, event, command, saga or correlation id belongs to. */
async function find(kind: string, id: string, signal: AbortSignal): Promise<Found> {
  // For a stream, the newest first.
  const correlations = new Set<string>();
  let more = false;
  // The id of a saga's command begins with `saga:` and the saga's id.
  const saga = kind === "saga" ? id : /^saga:([^/]+)/.exec(id)?.[1];
  if (kind === "task" || kind === "member" || kind === "stream") {
    const stream = kind === "stream" ? id : `${kind}-${id}`;
    const path = query("/api/projector/queries/events", { stream, limit: 500, backwards: "true" });
    const own = await pages<AnnalsEvent>(path, { most: MOST, signal });
    more = Boolean(own.next);
    for (const event of own.items) correlations.add(event.correlation_id);
  } else if (kind === "event") {
    const event = await ask<AnnalsEvent>(`/api/projector/queries/events/${encodeURIComponent(id)}`, {
      signal,
    });
    correlations.add(event.correlation_id);
  } else if (saga) {
    const { correlation_id } = await ask<Saga>(`/api/projector/queries/sagas/${encodeURIComponent(saga)}`, {
      signal,
    });
    correlations.add(correlation_id ?? saga);
  } else {
    correlations.add(id);
  }
  const shown = [...correlations].slice(0, CHAINS);
  const bounds = { most: MOST, signal };
  const each = await Promise.all(
    shown.map(async (correlation_id) => {
      const given = { correlation_id, limit: 500 };
      return {
        correlation_id,
        events: await pages<AnnalsEvent>(query("/api/projector/queries/events", given), bounds),
        deliveries: await pages<Delivery>(query("/api/notification/deliveries", given), bounds),
      };
    }),
  );
  const all = more ? "" : ` of ${count(correlations.size)}`;
  const cut = each.filter(({ events }) => events.next).map(({ correlation_id }) => correlation_id);
  const only = [
    (more || correlations.size > shown.length) && `the newest ${shown.length}${all} chains`,
    cut.length > 0 && `the first ${count(MOST)} events of a chain`,
    each.some(({ deliveries }) => deliveries.next) && `the newest ${count(MOST)} notifications of a chain`,
  ];
  return {
    events: each.flatMap(({ events }) => events.items),
    deliveries: each.flatMap(({ deliveries }) => deliveries.items),
    only: only.filter(Boolean).join(", ") || null,
    cut: new Set(cut),
  };
}

const KINDS = ["task", "event", "command", "saga", "member", "correlation"];

function Choose() {
  const [, navigate] = useLocation();
  const [kind, setKind] = useState("task");
  const recent = useLoad("recent", (signal) =>
    ask<Page<Saga>>("/api/projector/queries/sagas?limit=8", { signal }),
  );
  useLive((event) => event.aggregate_type === "saga", recent.follow, 1000);
  return (
    <div class="choose stack">
      <div class="stack intro">
        <h2>What led to what?</h2>
        <p class="quiet">
          Commands lead to events, and events to sagas and notifications. Choose a task, an event, a command
          or a saga to see everything that led to it and everything that it led to, in one timeline.
        </p>
      </div>
      <form
        class="row wrap"
        onSubmit={(event) => {
          event.preventDefault();
          const id = String(new FormData(event.currentTarget).get("id")).trim();
          if (id) navigate(`/causes/${kind}/${encodeURIComponent(id)}`);
        }}
      >
        <select
          class="input"
          aria-label="Type"
          value={kind}
          onChange={(event) => setKind(event.currentTarget.value)}
        >
          {KINDS.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        <div class="search">
          <Search size={15} aria-hidden="true" />
          <input class="input" name="id" aria-label="Id" placeholder="Id" required />
        </div>
        <button type="submit" class="button primary">
          View causes
        </button>
      </form>
      {recent.problem && <Failed problem={recent.problem} retry={recent.reload} />}
      {!recent.value && !recent.problem && <Skeleton />}
      {recent.value && recent.value.items.length === 0 && (
        <Empty title="No saga has run yet" icon={<GitBranch size={28} strokeWidth={1.5} />}>
          <p>Hand a task over to somebody to see here what follows from it.</p>
        </Empty>
      )}
      {recent.value && recent.value.items.length > 0 && (
        <section class="panel">
          <header>
            <h3>Latest sagas</h3>
          </header>
          <ul>
            {recent.value.items.map((saga) => (
              <li key={saga.id}>
                <Link class="pick" href={`/causes/saga/${saga.id}`}>
                  <span class="grow cut">
                    <b>{saga.type}</b> <span class="quiet">{saga.business_key}</span>
                  </span>
                  <Status status={saga.status} />
                  <span class="quiet small when">
                    <Time at={saga.created_at} />
                  </span>
                </Link>
              </li>
            ))}
          </ul>
        </section>
      )}
    </div>
  );
}

const TONES: Record<string, string> = {
  completed: "ok",
  running: "accent",
  pending: "accent",
  compensating: "warn",
  compensated: "warn",
  failed: "bad",
};

export function Status({ status }: { status: string }) {
  return <Tag tone={TONES[status]}>{status}</Tag>;
}
