import { Link } from "wouter-preact";
import { duration, precise } from "../lib/format";
import { TraceLink, Values } from "../parts/basics";
import type { Node } from "./model";

/** Everything that is known about one node of the chain. */
export function Details({ node, from, close }: { node: Node; from: number; close: () => void }) {
  const { event } = node;
  const saga = /^saga:([^/]+)/.exec(node.key)?.[1];
  return (
    <aside class="panel details" aria-label={`Details: ${node.title}`} data-kind={node.kind}>
      <header>
        <div class="grow">
          <h3 class="cut">{node.title}</h3>
          <span class="small quiet cut">{node.about}</span>
        </div>
        <button type="button" class="button plain icon" aria-label="Close details" onClick={close}>
          ✕
        </button>
      </header>
      <div class="stack pad">
        <dl class="facts">
          <dt>Time</dt>
          <dd class="number">{precise(new Date(node.from).toISOString())}</dd>
          <dt>Since start</dt>
          <dd class="number">{duration(node.from - from)}</dd>
          {node.to !== null && node.to > node.from && (
            <>
              <dt>Duration</dt>
              <dd class="number">{duration(node.to - node.from)}</dd>
            </>
          )}
          {node.visible !== null && (
            <>
              <dt>Lag</dt>
              <dd class="number">visible to queries after {duration(node.visible - node.from)}</dd>
            </>
          )}
          {node.who && (
            <>
              <dt>User</dt>
              <dd>{node.who}</dd>
            </>
          )}
          <dt>Trace</dt>
          <dd>
            <TraceLink traceparent={node.trace} />
          </dd>
          {event && (
            <>
              <dt>Stream</dt>
              <dd>
                <Link href={`/streams/${event.stream}?version=${event.version}`}>
                  {event.stream} v{event.version}
                </Link>
              </dd>
              <dt>Position</dt>
              <dd class="number">{event.position}</dd>
              <dt>Event</dt>
              <dd>
                <code>{event.event_id}</code>
              </dd>
              {event.command_type && (
                <>
                  <dt>Command</dt>
                  <dd>
                    <code>{event.command_type}</code>
                  </dd>
                </>
              )}
              <dt>Caused by</dt>
              <dd>
                <code>{event.causation_id ?? "unknown"}</code>
              </dd>
              <dt>Chain</dt>
              <dd>
                <Link href={`/causes/correlation/${encodeURIComponent(event.correlation_id)}`}>
                  <code>{event.correlation_id}</code>
                </Link>
              </dd>
            </>
          )}
          {saga && (
            <>
              <dt>Saga</dt>
              <dd>
                <Link href={`/sagas/${saga}`}>{saga}</Link>
              </dd>
            </>
          )}
        </dl>
        <div>
          <span class="label">Data</span>
          <Values value={node.data} />
        </div>
      </div>
    </aside>
  );
}
