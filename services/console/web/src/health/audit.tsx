import { ScrollText } from "lucide-preact";
import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { ask, query } from "../lib/api";
import { precise } from "../lib/format";
import { useLoad } from "../lib/load";
import type { Page } from "../lib/types";
import { Empty, Failed, Scroll, Skeleton, TraceLink, Turn } from "../parts/basics";

interface Entry {
  time: string;
  user: string | null;
  type: string;
  stream: string;
  version: number;
  event_id: string;
  correlation_id: string;
  trace_id: string | null;
  session: string | null;
  client: string | null;
}

const asked = (wanted: Record<string, string>, cursor: string | null) =>
  query("/api/projector/queries/audit", { ...wanted, cursor, limit: 100 });

export function Audit() {
  const [wanted, look] = useState<Record<string, string>>({});
  const [cursor, turn] = useState<string | null>(null);
  const path = asked(wanted, cursor);
  const loaded = useLoad(path, (signal) => ask<Page<Entry>>(path, { signal }));
  const items = loaded.value?.items;
  return (
    <>
      <form
        class="row wrap"
        onSubmit={(event) => {
          event.preventDefault();
          const given = Object.fromEntries(
            [...new FormData(event.currentTarget)].map(([name, value]) => [name, String(value)]),
          );
          turn(null);
          look(given);
          // The same search again: the user wants the newest entries.
          if (asked(given, null) === path) loaded.reload();
        }}
      >
        <input class="input narrow" name="user" aria-label="User" placeholder="User" />
        <input class="input narrow" name="type" aria-label="Event type" placeholder="Event type" />
        <input class="input narrow" name="stream" aria-label="Stream" placeholder="Stream" />
        <button type="submit" class="button">
          Search
        </button>
        <button
          type="button"
          class="button"
          onClick={(event) => {
            const form = event.currentTarget.form as HTMLFormElement;
            form.reset();
            (form.elements.namedItem("type") as HTMLInputElement).value = "operation.requested";
            form.requestSubmit();
          }}
        >
          Show operations
        </button>
        <span class="grow" />
        <a
          class="button"
          href={query("/api/projector/queries/audit/export", { ...wanted, format: "csv" })}
          download="audit.csv"
          title="The last line of the file says “end” and the number of entries. Without it, the file is incomplete."
        >
          Export
        </a>
      </form>
      {loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />}
      {!items && !loaded.problem && <Skeleton />}
      {items?.length === 0 && (
        <Empty title="No entries found" icon={<ScrollText size={28} strokeWidth={1.5} />}>
          <p>The audit trail records every change: who made it, when, from where and in which trace.</p>
        </Empty>
      )}
      {items && items.length > 0 && (
        <Scroll label="Audit trail" panel>
          <table class="table">
            <thead>
              <tr>
                <th>Time</th>
                <th>User</th>
                <th>Event</th>
                <th>Stream</th>
                <th>Address</th>
                <th>Trace</th>
              </tr>
            </thead>
            <tbody>
              {items.map((one) => (
                <tr key={one.event_id}>
                  <td class="number">{precise(one.time)}</td>
                  <td>{one.user ?? <span class="quiet">none</span>}</td>
                  <td>
                    <Link href={`/causes/event/${one.event_id}`}>{one.type}</Link>
                  </td>
                  <td class="cut key">
                    <Link href={`/streams/${one.stream}?version=${one.version}`}>{one.stream}</Link>
                  </td>
                  <td>{one.client ?? "–"}</td>
                  <td>
                    <TraceLink id={one.trace_id} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      <Turn cursor={cursor} next={loaded.value?.next} turn={turn} />
    </>
  );
}
