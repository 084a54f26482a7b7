import { useState } from "preact/hooks";
import { ask } from "../lib/api";
import { count } from "../lib/format";
import { useEvery, useLoad } from "../lib/load";
import { may } from "../lib/session";
import type { Json } from "../lib/types";
import { Dialog, Failed, Field, Scroll, Skeleton, Tag, Time } from "../parts/basics";
import { WithReason } from "../parts/reason";

interface Generation {
  number: number;
  version: number;
  status: string;
  reason: string;
  throttle: number | null;
  started_at: string;
  caught_up: boolean;
  commits: { done: number; total: number } | null;
}

interface ReadModel {
  name: string;
  /** Null if the projector's release does not have the read model. */
  version: number | null;
  parked: number;
  generations: Generation[];
}

interface Found {
  items: ReadModel[];
  lag: number;
}

interface Compared {
  old_rows: number;
  new_rows: number;
  only_old: number;
  only_new: number;
  differing: number;
  on_their_way: number;
  /** Missing in the answers of the previous release. */
  parked?: number;
  samples: { id: string; kind: string; columns: Record<string, { old: Json; new: Json }> }[];
}

interface Doing {
  title: string;
  action: string;
  about: string;
  danger?: boolean;
  throttled?: boolean;
  method?: "DELETE";
  path: string;
}

const TONES: Record<string, string> = { live: "ok", building: "accent", paused: "warn", dropped: "bad" };

export function Projections() {
  const loaded = useLoad("projections", (signal) => ask<Found>("/api/projector/projections", { signal }));
  useEvery(1500, loaded.reload);
  const [doing, setDoing] = useState<Doing | null>(null);
  const [comparing, compare] = useState<{ name: string; number: number } | null>(null);
  const failed = loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!loaded.value) return failed ?? <Skeleton />;
  return (
    <>
      {failed}
      <p class="quiet small">
        A rebuild fills a new generation beside the live one. The two can then be compared, switched, and
        switched back. The read models are{" "}
        {loaded.value.lag === 0 ? "up to date" : `${count(loaded.value.lag)} commits behind`}.
        {!may("suite-operator") &&
          " They hold the data of all tenants: only the role suite-operator can operate them."}
      </p>
      {loaded.value.items.map((model) => (
        <section class="panel" key={model.name} aria-label={model.name}>
          <header>
            <h3>{model.name}</h3>
            {model.parked > 0 && <Tag tone="bad">{model.parked} parked</Tag>}
            <span class="grow" />
            {may("suite-operator") && model.version !== null && (
              <Begin
                start={setDoing}
                doing={{
                  title: `Rebuild ${model.name}`,
                  action: "Rebuild",
                  about: "Queries keep working meanwhile. Nothing is published, and nobody is notified.",
                  throttled: true,
                  path: `${model.name}/rebuild`,
                }}
              />
            )}
          </header>
          <Scroll label="Generations">
            <table class="table">
              <thead>
                <tr>
                  <th>Generation</th>
                  <th>Status</th>
                  <th>Progress</th>
                  <th>Reason</th>
                  <th>Started</th>
                  <th>
                    <span class="hidden">Actions</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {model.generations.map((one) => (
                  <tr key={one.number}>
                    <td class="number">{one.number}</td>
                    <td>
                      <Tag tone={TONES[one.status]}>{one.status}</Tag>
                    </td>
                    <td class="progress-cell">
                      <Progress generation={one} />
                    </td>
                    <td class="quiet">{one.reason}</td>
                    <td class="quiet">
                      <Time at={one.started_at} />
                    </td>
                    <td class="right">
                      {may("suite-operator") && one.status !== "live" && one.status !== "dropped" && (
                        <Steer model={model.name} one={one} start={setDoing} compare={compare} />
                      )}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        </section>
      ))}
      {doing && (
        <WithReason
          title={doing.title}
          action={doing.action}
          danger={doing.danger ?? false}
          close={() => setDoing(null)}
          run={async (reason, form) => {
            const throttle = Number(form.get("throttle")) || null;
            await ask(`/api/projector/projections/${doing.path}`, {
              method: doing.method ?? "POST",
              body: doing.throttled ? { reason, throttle } : { reason },
            });
            loaded.reload();
          }}
        >
          <p class="quiet">{doing.about}</p>
          {doing.throttled && (
            <Field label="Events per second at most (no limit if empty)">
              <input class="input" name="throttle" type="number" min={1} />
            </Field>
          )}
        </WithReason>
      )}
      {comparing && <Comparison {...comparing} close={() => compare(null)} />}
    </>
  );
}

function Progress({ generation: { commits, caught_up, status } }: { generation: Generation }) {
  if (status === "live") return <span class="quiet">answers queries</span>;
  if (!commits) return null;
  const share = commits.total === 0 ? 1 : commits.done / commits.total;
  return (
    <span class="stack tight">
      <progress max={1} value={share} aria-label="Progress" />
      <span class="small quiet number">
        {count(commits.done)} of {count(commits.total)} commits{caught_up ? ", caught up" : ""}
      </span>
    </span>
  );
}

function Begin({ doing, start }: { doing: Doing; start: (doing: Doing) => void }) {
  return (
    <button type="button" class={doing.danger ? "button danger" : "button"} onClick={() => start(doing)}>
      {doing.action}
    </button>
  );
}

/** Buttons for what a suite operator can do with a generation that is not live. */
function Steer({
  model,
  one,
  start,
  compare,
}: {
  model: string;
  one: Generation;
  start: (doing: Doing) => void;
  compare: (what: { name: string; number: number }) => void;
}) {
  const path = `${model}/generations/${one.number}`;
  const what = `${model}, generation ${one.number}`;
  const button = (doing: Doing) => <Begin doing={doing} start={start} />;
  return (
    <span class="row end">
      {one.status === "building" &&
        !one.caught_up &&
        button({
          title: `Pause ${what}`,
          action: "Pause",
          about: "The generation keeps what has been built.",
          path: `${path}/pause`,
        })}
      {one.status === "paused" &&
        button({
          title: `Resume ${what}`,
          action: "Resume",
          about: "The build continues where it stopped.",
          path: `${path}/resume`,
        })}
      {one.caught_up && (
        <button type="button" class="button" onClick={() => compare({ name: model, number: one.number })}>
          Compare
        </button>
      )}
      {one.caught_up &&
        button({
          title: `Switch to ${what}`,
          action: "Switch",
          about:
            "This generation answers queries from then on. The other is kept up to date, so that you can switch back.",
          path: `${path}/switch`,
        })}
      {button({
        title: `Drop ${what}`,
        action: "Drop",
        about: "The generation's table is deleted.",
        danger: true,
        method: "DELETE",
        path,
      })}
    </span>
  );
}

function Comparison({ name, number, close }: { name: string; number: number; close: () => void }) {
  const path = `/api/projector/projections/${name}/generations/${number}/difference`;
  const { value, problem, reload } = useLoad(path, (signal) => ask<Compared>(path, { signal }));
  // The counts cover all tenants. The samples cover the user's own, as far as an answer has room for them.
  const differ = value && value.only_old + value.only_new + value.differing;
  return (
    <Dialog title={`Compare ${name}, generation ${number}, with the live one`} close={close}>
      {problem && <Failed problem={problem} retry={reload} />}
      {!value && !problem && <Skeleton />}
      {value && (
        <>
          <dl class="facts">
            <dt>Rows</dt>
            <dd class="number">
              {count(value.old_rows)} live, {count(value.new_rows)} new
            </dd>
            <dt>Only in the live one</dt>
            <dd class="number">{count(value.only_old)}</dd>
            <dt>Only in the new one</dt>
            <dd class="number">{count(value.only_new)}</dd>
            <dt>Different</dt>
            <dd class="number">{count(value.differing)}</dd>
            <dt>Not up to date in both</dt>
            <dd class="number">{count(value.on_their_way)}</dd>
            <dt>Parked sequences</dt>
            <dd class="number">{count(value.parked ?? 0)}</dd>
          </dl>
          {differ === 0 ? (
            <Tag tone={!value.parked ? "ok" : "warn"}>
              {!value.parked ? "no row differs" : "no row differs, but parked events are missing"}
            </Tag>
          ) : (
            value.samples.length === 0 && (
              <p class="quiet">No differing row belongs to your tenant and is small enough to show here.</p>
            )
          )}
          {value.samples.map((one) => (
            <div class="panel pad stack tight" key={one.id}>
              <b>
                {one.id} <Tag>{one.kind.replaceAll("_", " ")}</Tag>
              </b>
              {Object.entries(one.columns).map(([column, both]) => (
                <div class="small" key={column}>
                  {column}: <span class="was">{JSON.stringify(both.old)}</span>{" "}
                  <span class="is">{JSON.stringify(both.new)}</span>
                </div>
              ))}
            </div>
          ))}
        </>
      )}
    </Dialog>
  );
}
