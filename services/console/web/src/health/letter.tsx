import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { ask, Problem } from "../lib/api";
import { useLoad } from "../lib/load";
import type { AnnalsEvent, Data, Json } from "../lib/types";
import { Dialog, Failed, Field, Skeleton, Tag, Time, TraceLink, Values } from "../parts/basics";
import { WithReason } from "../parts/reason";
import { tellProblem } from "../parts/toasts";
import type { DeadLetter } from "./letters";

interface Full extends DeadLetter {
  stack: string;
  raw: string | null;
  history: { action: string; user: string | null; reason: string | null; at: string }[];
  waiting: number;
  events: AnnalsEvent[];
}

type Doing = "edit" | "replay" | "discard" | null;

/** One dead letter: why it failed, what waits behind it, and what can be done about it. */
export function Letter({ letter, close }: { letter: DeadLetter; close: () => void }) {
  const path = `/api/${letter.service}/dead-letters/${letter.id}`;
  const loaded = useLoad(path, (signal) => ask<Full>(path, { signal }));
  const [doing, setDoing] = useState<Doing>(null);
  const [tried, setTried] = useState<Data | null>(null);
  const full = loaded.value;
  const first = full?.events[0];
  // The version that the operator has seen. By now another event may be the first that waits.
  const version = full?.version ?? letter.version;
  // The operation may have been refused because another event waits first by now: read the dead letter again.
  const back = () => {
    setDoing(null);
    loaded.reload();
  };

  if (doing === "edit" && full) {
    const text = full.kind === "raw" ? (full.raw ?? "") : JSON.stringify(first?.data ?? {}, null, 2);
    return (
      <WithReason
        title="Edit the data for this consumer"
        action="Save"
        close={back}
        run={async (reason, form) => {
          const given = String(form.get("data"));
          await ask(`${path}/data`, {
            method: "PUT",
            body: full.kind === "raw" ? { reason, raw: given } : { reason, version, data: parse(given) },
          });
        }}
      >
        <p class="quiet">The stored event does not change. Only this consumer sees the edited data.</p>
        <Field label={full.kind === "raw" ? "Text" : "Data"}>
          <textarea class="input code" name="data" rows={12} defaultValue={text} spellcheck={false} />
        </Field>
      </WithReason>
    );
  }
  if (doing === "replay" || doing === "discard") {
    const discards = doing === "discard";
    return (
      <WithReason
        title={discards ? "Discard this event" : "Replay this sequence"}
        action={discards ? "Discard" : "Replay"}
        danger={discards}
        close={back}
        run={async (reason) => {
          const body = discards ? { reason, version } : { reason };
          await ask(`${path}/${doing}`, { method: "POST", body });
          close();
        }}
      >
        <p class="quiet">
          {discards
            ? "The consumer skips this event, and continues with the events that wait behind it."
            : "The consumer handles this event again, and then the events that wait behind it, in order."}
        </p>
      </WithReason>
    );
  }
  const dryRun = async () => {
    try {
      setTried(await ask<Data>(`${path}/dry-run`, { method: "POST" }));
    } catch (error) {
      tellProblem(error, "Could not try out the replay");
    }
  };
  return (
    <Dialog
      drawer
      title={letter.stream || "Unreadable message"}
      close={close}
      footer={
        <>
          <button type="button" class="button danger" onClick={() => setDoing("discard")}>
            Discard
          </button>
          <span class="grow" />
          <button type="button" class="button" onClick={dryRun}>
            Try out
          </button>
          <button type="button" class="button" onClick={() => setDoing("edit")} disabled={!full}>
            Edit
          </button>
          <button type="button" class="button primary" onClick={() => setDoing("replay")}>
            Replay
          </button>
        </>
      }
    >
      <div class="problem">
        <b>{letter.group}</b>
        <span>{letter.reason}</span>
      </div>
      {tried && (
        <section class="stack tight" aria-label="Dry run">
          <span class="row">
            <span class="label">A replay would</span>
            <Tag tone={tried.would === "fail" ? "bad" : "ok"}>{String(tried.would)}</Tag>
          </span>
          <Values value={tried as Json} />
        </section>
      )}
      {loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />}
      {!full && !loaded.problem && <Skeleton />}
      {full && (
        <>
          <dl class="facts">
            <dt>Consumer</dt>
            <dd>
              {full.consumer} of {letter.service}
            </dd>
            <dt>Event</dt>
            <dd>
              {full.event_type} v{full.version}{" "}
              {full.stream && (
                <Link href={`/streams/${full.stream}?version=${full.version}`}>View in stream</Link>
              )}
            </dd>
            <dt>Attempts</dt>
            <dd class="number">{full.attempts}</dd>
            <dt>Waiting behind it</dt>
            <dd class="number">{Math.max(0, full.waiting - 1)}</dd>
            <dt>Parked</dt>
            <dd>
              <Time at={full.parked_at} />
            </dd>
            <dt>Trace</dt>
            <dd>
              <TraceLink id={full.trace_id} />
            </dd>
          </dl>
          {(first || full.raw) && (
            <div>
              <span class="label">{full.raw ? "Text" : "Data"}</span>
              <Values value={(full.raw ?? first?.data ?? null) as Json} />
            </div>
          )}
          {full.stack && (
            <details>
              <summary class="label">Stack trace</summary>
              <pre class="json">{full.stack}</pre>
            </details>
          )}
          {full.history.length > 0 && (
            <section>
              <span class="label">Operations</span>
              <ul class="stack tight small">
                {full.history.map((one) => (
                  <li key={one.at}>
                    <b>{one.action}</b> by {one.user ?? "somebody"}, <Time at={one.at} />: {one.reason}
                  </li>
                ))}
              </ul>
            </section>
          )}
        </>
      )}
    </Dialog>
  );
}

function parse(text: string): Json {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Problem(400, "malformed", `the data is not valid JSON: ${(error as Error).message}`, {});
  }
}
