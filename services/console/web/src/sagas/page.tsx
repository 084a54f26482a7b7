import { GitBranch } from "lucide-preact";
import { Link } from "wouter-preact";
import { Status } from "../cause/page";
import { ask } from "../lib/api";
import { useLive, useLoad } from "../lib/load";
import type { Saga } from "../lib/types";
import { Failed, Skeleton, Tag, Time, TraceLink, Values } from "../parts/basics";
import { Bar } from "../parts/status";
import { Diagram } from "./diagram";
import { Steer } from "./steer";

export function SagaPage({ params }: { params: { id: string } }) {
  const { id } = params;
  const loaded = useLoad(id, (signal) =>
    ask<Saga>(`/api/projector/queries/sagas/${encodeURIComponent(id)}`, { signal }),
  );
  useLive((event) => event.stream === `saga-${id}`, loaded.follow, 150);
  const saga = loaded.value;
  return (
    <>
      <Bar title={saga ? saga.type : "Saga"} />
      <main id="main" class="main stack" tabIndex={-1}>
        {loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />}
        {!saga && !loaded.problem && <Skeleton />}
        {saga && (
          <>
            <header class="row wrap saga-head">
              <Status status={saga.status} />
              {saga.suspended && <Tag tone="warn">suspended</Tag>}
              <code class="quiet">{saga.id}</code>
              <span class="grow" />
              <Link class="button" href={`/causes/saga/${saga.id}`}>
                <GitBranch size={15} /> View causes
              </Link>
              <Steer saga={saga} done={loaded.reload} />
            </header>
            <div class="saga-grid">
              <section class="panel" aria-label="Steps">
                <header>
                  <h3>Steps</h3>
                  <span class="quiet small">each with its attempts and its compensation</span>
                </header>
                <Diagram saga={saga} />
              </section>
              <div class="stack">
                <section class="panel pad">
                  <dl class="facts">
                    <dt>Business key</dt>
                    <dd>{saga.business_key ?? "–"}</dd>
                    <dt>Started</dt>
                    <dd>
                      <Time at={saga.created_at} /> {saga.user_id && `by ${saga.user_id}`}
                    </dd>
                    <dt>Ended</dt>
                    <dd>{saga.ended_at ? <Time at={saga.ended_at} /> : "not yet"}</dd>
                    {saga.reason && (
                      <>
                        <dt>Reason</dt>
                        <dd>{saga.reason}</dd>
                      </>
                    )}
                    {saga.remaining && saga.remaining.length > 0 && (
                      <>
                        <dt>Not undone</dt>
                        <dd class="row wrap">
                          {saga.remaining.map((step) => (
                            <Tag key={step} tone="bad">
                              {step}
                            </Tag>
                          ))}
                        </dd>
                      </>
                    )}
                    {saga.waits_for && (
                      <>
                        <dt>Waiting for</dt>
                        <dd>{saga.waits_for.join(" or ")}</dd>
                      </>
                    )}
                    {saga.parent && (
                      <>
                        <dt>Parent saga</dt>
                        <dd>
                          <Link href={`/sagas/${saga.parent}`}>{saga.parent}</Link>
                        </dd>
                      </>
                    )}
                    <dt>Trace</dt>
                    <dd>
                      <TraceLink id={saga.timeline?.[0]?.trace_id ?? null} />
                    </dd>
                    <dt>History</dt>
                    <dd>
                      <Link href={`/streams/saga-${saga.id}`}>saga-{saga.id}</Link>
                    </dd>
                  </dl>
                </section>
                <section class="panel">
                  <header>
                    <h3>Input</h3>
                  </header>
                  <div class="pad">
                    <Values value={saga.input} />
                  </div>
                </section>
              </div>
            </div>
          </>
        )}
      </main>
    </>
  );
}
