/** Builds a tree of causes from events and deliveries. Pure. */
import { words } from "../lib/format";
import type { AnnalsEvent, Data, Delivery } from "../lib/types";

export type Kind = "command" | "event" | "saga" | "step" | "undo" | "note" | "message";
/** `undone`: it ended without effect, which is no failure; `bad`: something failed. */
export type Tone = "ok" | "bad" | "undone" | "running" | "plain";

/** One thing that happened, at a moment or over a period. */
export interface Node {
  key: string;
  kind: Kind;
  title: string;
  about: string;
  from: number;
  to: number | null;
  /** For events: when queries first saw it. */
  visible: number | null;
  tone: Tone;
  waiting: boolean;
  who: string | null;
  trace: string | null;
  event: AnnalsEvent | null;
  data: Data;
  children: Node[];
}

export interface Chain {
  roots: Node[];
  from: number;
  to: number;
  size: number;
  running: boolean;
}

const SAGA_TONES: Record<string, Tone> = {
  "saga.completed": "ok",
  "saga.compensated": "undone",
};

const at = (iso: string) => new Date(iso).getTime() + micro(iso);
/** A `Date` holds milliseconds. Timestamps of events have microseconds, and several often share a
 *  millisecond. */
const micro = (iso: string) => {
  const digits = /\.(\d{3})(\d{1,3})/.exec(iso)?.[2];
  return digits ? Number(digits.padEnd(3, "0")) / 1000 : 0;
};

/** Build the tree. A node is a root if its cause is not among the given events. `cut` holds the chains whose
 *  last events are missing: in those, a node without an end is not shown as running. */
export function chainOf(events: AnnalsEvent[], deliveries: Delivery[], cut: ReadonlySet<string>): Chain {
  const sorted = [...events].sort(
    (one, other) => at(one.timestamp) - at(other.timestamp) || one.version - other.version,
  );
  const found = new Map<string, Node>();
  const parents = new Map<Node, string | null>();
  const add = (node: Node, parent: string | null) => {
    found.set(node.key, node);
    parents.set(node, parent);
    return node;
  };

  const sagas = new Map<string, AnnalsEvent[]>();
  for (const event of sorted) {
    if (event.aggregate_type !== "saga") continue;
    const own = sagas.get(event.aggregate_id) ?? [];
    own.push(event);
    sagas.set(event.aggregate_id, own);
  }
  for (const [id, own] of sagas) {
    // By version, not by time: the clocks of two replicas, which dated the events, may differ.
    own.sort((one, other) => one.version - other.version);
    addSaga(id, own, add, cut);
  }

  for (const event of sorted) {
    if (event.aggregate_type === "saga") continue;
    const cause = event.causation_id;
    // `saga:first/assign-task/undo` is both the id of a command that a saga's step sent and the key of the
    // step's node.
    const step = cause?.startsWith("saga:") ? cause : null;
    let parent = step ?? (cause ? `command:${cause}` : null);
    if (step === null && cause && !found.has(`command:${cause}`)) {
      const causing = found.has(`event:${cause}`);
      if (causing) parent = `event:${cause}`;
      else add(commandNode(cause, event), null);
    }
    add(eventNode(event), parent);
  }
  const published = publishers(sorted);
  for (const delivery of deliveries) {
    add(noteNode(delivery), causeOf(delivery, found, published));
  }

  const roots: Node[] = [];
  for (const [node, parent] of parents) {
    const above = parent === null ? undefined : found.get(parent);
    if (above && above !== node) above.children.push(node);
    else roots.push(node);
  }
  const order = (nodes: Node[]) => {
    nodes.sort((one, other) => one.from - other.from);
    for (const node of nodes) order(node.children);
  };
  order(roots);
  const all = [...found.values()];
  for (const node of all) {
    const known = !cut.has(node.event?.correlation_id ?? "");
    if (node.tone === "running" && !known) node.tone = "plain";
  }
  const ends = all.map((node) => Math.max(node.to ?? node.from, node.visible ?? 0));
  return {
    roots,
    from: Math.min(...all.map((node) => node.from)),
    to: Math.max(...ends),
    size: all.length,
    running: all.some((node) => node.tone === "running"),
  };
}

function addSaga(
  id: string,
  own: AnnalsEvent[],
  add: (node: Node, parent: string | null) => Node,
  cut: ReadonlySet<string>,
): void {
  const first = own[0] as AnnalsEvent;
  const last = own[own.length - 1] as AnnalsEvent;
  const ended = ["saga.completed", "saga.compensated", "saga.failed", "saga.terminated"].includes(
    last.event_type,
  );
  const runs = cut.has(last.correlation_id) ? "its end is not shown" : "running";
  const key = `saga:${id}`;
  const began = first.event_type === "saga.started" ? first.data : {};
  const cause = began.parent
    ? `saga:${began.parent}`
    : first.causation_id === id
      ? null
      : `event:${first.causation_id}`;
  add(
    {
      ...blank(first),
      key,
      kind: "saga",
      title: String(began.saga_type ?? "saga"),
      about: `${ended ? words(last.event_type.slice(5)) : runs}${began.business_key ? ` · ${began.business_key}` : ""}`,
      to: ended ? at(last.timestamp) : null,
      tone: !ended ? "running" : (SAGA_TONES[last.event_type] ?? "bad"),
      data: { ...(began.input as Data), ...(last.data.reason ? { reason: last.data.reason } : {}) },
    },
    cause,
  );
  const open = new Map<string, Node>();
  for (const event of own) {
    const { step, compensation } = event.data;
    const undoes = compensation === true || event.event_type === "saga.step_compensated";
    const name = `${key}/${step}${undoes ? "/undo" : ""}`;
    switch (event.event_type) {
      case "saga.step_started": {
        const before = open.get(name);
        if (before) {
          before.about = `attempt ${event.data.attempt}`;
          break;
        }
        open.set(name, add(stepNode(event, name, undoes), key));
        break;
      }
      case "saga.waiting":
        open.set(
          name,
          add({ ...stepNode(event, name, false), waiting: true, about: "waiting for an answer" }, key),
        );
        break;
      case "saga.step_completed":
      case "saga.step_compensated":
      case "saga.step_failed":
      case "saga.resumed":
        endStep(open.get(name), event);
        break;
      case "saga.step_skipped":
      case "saga.event_raised": // shown at the step that takes it
        break;
      case "saga.started":
      case "saga.completed":
      case "saga.compensated":
        break;
      default:
        add(
          {
            ...eventNode(event),
            kind: "saga",
            title: words(event.event_type.slice(5)),
            about: String(event.data.reason ?? ""),
            visible: null,
          },
          key,
        );
    }
  }
}

function endStep(node: Node | undefined, event: AnnalsEvent): void {
  if (!node) return;
  const { error, final, result } = event.data;
  node.data = { ...node.data, ...event.data };
  node.visible = null;
  if (event.event_type === "saga.step_failed") {
    const message = String((error as Data | undefined)?.message ?? "failed");
    node.about = message;
    if (final !== true) return;
    node.tone = "bad";
  } else if (event.event_type === "saga.resumed") {
    const who = (event.data.user as string | null | undefined) ?? event.user_id;
    const answered = event.data.event !== null && event.data.event !== undefined;
    node.about = answered ? `${event.data.event} by ${who ?? "somebody"}` : "no answer in time";
    node.tone = answered && event.data.refused !== true ? "ok" : "undone";
    node.who = who;
  } else {
    node.tone = "ok";
    const written = result as Data | undefined;
    if (written?.stream) node.about = `${written.stream} v${written.version}`;
    else if (written?.event_id) node.about = "published";
  }
  node.to = at(event.timestamp);
}

/** Map the id of each integration event that a saga published to the key of the step that published it. Such
 *  events are on the broker only, but the saga's history names them. */
function publishers(events: AnnalsEvent[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const event of events) {
    const result = event.data.result as Data | null | undefined;
    if (event.event_type === "saga.step_completed" && result?.event_id) {
      found.set(String(result.event_id), `saga:${event.aggregate_id}/${event.data.step}`);
    }
  }
  return found;
}

/** Return the key of a delivery's cause: the event that it reports; else its causation, which may be a step,
 *  a compensation, an event, a saga or an event that a step published; else the saga that its data names. */
function causeOf(
  delivery: Delivery,
  found: Map<string, Node>,
  published: Map<string, string>,
): string | null {
  const cause = delivery.causation_id ?? "";
  const candidates = [
    `event:${delivery.event_id}`,
    cause,
    `event:${cause}`,
    `saga:${cause}`,
    published.get(cause) ?? "",
    published.get(delivery.event_id) ?? "",
    `saga:${delivery.data.saga_id}`,
  ];
  return candidates.find((key) => found.has(key)) ?? null;
}

function blank(event: AnnalsEvent): Node {
  return {
    key: "",
    kind: "event",
    title: "",
    about: "",
    from: at(event.timestamp),
    to: null,
    visible: null,
    tone: "plain",
    waiting: false,
    who: event.user_id,
    trace: event.traceparent,
    event,
    data: event.data,
    children: [],
  };
}

function stepNode(event: AnnalsEvent, key: string, undoes: boolean): Node {
  return {
    ...blank(event),
    key,
    kind: undoes ? "undo" : "step",
    title: `${undoes ? "undo " : ""}${event.data.step}`,
    tone: "running",
    visible: null,
  };
}

function eventNode(event: AnnalsEvent): Node {
  return {
    ...blank(event),
    key: `event:${event.event_id}`,
    title: event.event_type,
    about: `${event.stream} v${event.version}`,
    visible: event.visible_at ? at(event.visible_at) : null,
  };
}

function commandNode(id: string, event: AnnalsEvent): Node {
  const recurs = id.startsWith("recurrence:");
  return {
    ...blank(event),
    key: `command:${id}`,
    kind: "command",
    title: event.command_type ?? "command",
    about: `${recurs ? "recurring, " : ""}by ${event.user_id ?? "an unknown user"}${event.client ? ` from ${event.client}` : ""}`,
    data: {
      command_id: id,
      command_type: event.command_type,
      user: event.user_id,
      client: event.client,
      session: event.session_id,
    },
    event: null,
    trace: event.traceparent,
  };
}

function noteNode(delivery: Delivery): Node {
  const sent = delivery.status === "sent";
  return {
    key: `note:${delivery.id}`,
    kind: "note",
    title: `${delivery.channel} → ${delivery.user_id}`,
    about: words(String(delivery.data.kind ?? delivery.kind)),
    from: at(delivery.occurred),
    to: at(delivery.ended_at ?? delivery.created_at),
    visible: null,
    tone: sent ? "ok" : delivery.status === "failed" ? "bad" : "running",
    waiting: false,
    who: delivery.user_id,
    trace: null,
    event: null,
    data: { ...delivery.data, status: delivery.status, attempts: delivery.attempts, answer: delivery.answer },
    children: [],
  };
}
