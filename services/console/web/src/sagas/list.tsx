import { Workflow } from "lucide-preact";
import { Link, useLocation, useSearch } from "wouter-preact";
import { Status } from "../cause/page";
import { ask, query } from "../lib/api";
import { useLive, useLoad } from "../lib/load";
import type { Page, Saga } from "../lib/types";
import { Empty, Failed, Scroll, Skeleton, Tag, Time } from "../parts/basics";
import { Bar } from "../parts/status";

const STATUSES = ["running", "compensating", "failed", "compensated", "completed", "pending"];
const TYPES = ["task-handover", "member-offboarding", "capacity-release"];
const PAGE = 50;

export function SagasPage() {
  const [, navigate] = useLocation();
  const given = new URLSearchParams(useSearch());
  const wanted = {
    business_key: given.get("key"),
    status: given.get("status"),
    type: given.get("type"),
    cursor: given.get("cursor"),
    limit: PAGE,
  };
  const path = query("/api/projector/queries/sagas", wanted);
  const loaded = useLoad(path, (signal) => ask<Page<Saga>>(path, { signal }));
  useLive((event) => event.aggregate_type === "saga", loaded.follow);
  const look = (changes: Record<string, string>) => {
    const next = { key: given.get("key"), status: given.get("status"), type: given.get("type"), ...changes };
    navigate(query("/sagas", next), { replace: true });
  };
  const sagas = loaded.value?.items;
  // A suite may have sagas of its own: the types that were found are offered too.
  const types = new Set([...TYPES, ...(sagas ?? []).map(({ type }) => type), given.get("type") ?? ""]);
  return (
    <>
      <Bar title="Sagas" />
      <main id="main" class="main stack" tabIndex={-1}>
        <form
          class="row wrap"
          onSubmit={(event) => {
            event.preventDefault();
            look({ key: String(new FormData(event.currentTarget).get("key")).trim() });
          }}
        >
          <div class="search">
            <input
              class="input bare"
              name="key"
              type="search"
              aria-label="Business key"
              placeholder="Business key, such as a task id"
              defaultValue={given.get("key") ?? ""}
            />
          </div>
          <select
            class="input"
            aria-label="Status"
            value={given.get("status") ?? ""}
            onChange={(event) => look({ status: event.currentTarget.value })}
          >
            <option value="">Any status</option>
            {STATUSES.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
          <select
            class="input"
            aria-label="Type"
            value={given.get("type") ?? ""}
            onChange={(event) => look({ type: event.currentTarget.value })}
          >
            <option value="">Any type</option>
            {[...types].filter(Boolean).map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
          <button type="submit" class="button">
            Search
          </button>
        </form>
        {loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />}
        {!sagas && !loaded.problem && <Skeleton />}
        {sagas?.length === 0 && (
          <Empty title="No sagas found" icon={<Workflow size={28} strokeWidth={1.5} />}>
            <p>A saga starts, for example, when a task is handed over or when a member leaves.</p>
          </Empty>
        )}
        {sagas && sagas.length > 0 && (
          <Scroll label="Sagas" panel>
            <table class="table sagas">
              <thead>
                <tr>
                  <th>Saga</th>
                  <th>Business key</th>
                  <th>Status</th>
                  <th>Steps</th>
                  <th>Reason</th>
                  <th>Started</th>
                </tr>
              </thead>
              <tbody>
                {sagas.map((saga) => (
                  <tr key={saga.id}>
                    <td>
                      <Link href={`/sagas/${saga.id}`}>
                        <b>{saga.type}</b>
                      </Link>
                      <div class="quiet mono cut id">{saga.id}</div>
                    </td>
                    <td class="cut key">{saga.business_key ?? "–"}</td>
                    <td>
                      <span class="row">
                        <Status status={saga.status} /> {saga.suspended && <Tag tone="warn">suspended</Tag>}
                      </span>
                    </td>
                    <td>
                      <Dots saga={saga} />
                    </td>
                    <td class="quiet why">
                      {saga.waits_for ? `waiting for ${saga.waits_for.join(" or ")}` : saga.reason}
                    </td>
                    <td class="quiet">
                      <Time at={saga.created_at} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        )}
        <div class="row">
          {wanted.cursor && (
            <Link class="button" href={query("/sagas", { ...Object.fromEntries(given), cursor: null })}>
              Newest
            </Link>
          )}
          {loaded.value?.next && (
            <Link
              class="button"
              href={query("/sagas", { ...Object.fromEntries(given), cursor: loaded.value.next })}
            >
              Older
            </Link>
          )}
        </div>
      </main>
    </>
  );
}

/** The steps at a glance. */
function Dots({ saga }: { saga: Saga }) {
  return (
    <span
      class="dots"
      role="img"
      aria-label={saga.steps.map((step) => `${step.name}: ${step.status}`).join(", ")}
    >
      {saga.steps.map((step) => (
        <i key={step.name} data-step={step.status} title={`${step.name}: ${step.status}`} />
      ))}
    </span>
  );
}
