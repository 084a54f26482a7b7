import { effect, signal } from "@preact/signals";
import { Problem } from "./api";
import { recogniseAgain, session } from "./session";
import type { AnnalsEvent } from "./types";

export type Connection = "connecting" | "live" | "reconnecting" | "offline";

/** The state of the live stream. */
export const connection = signal<Connection>("connecting");

type Listener = (event: AnnalsEvent) => void;
const listeners = new Set<Listener>();
type Rejoined = (position: string) => void;
const rejoined = new Set<Rejoined>();

const FIRST_WAIT = 500;
const LONGEST_WAIT = 8000;
/** Milliseconds without a message after which the connection is dead; the stream sends one every 15 s. */
const SILENCE = 40_000;
/** Milliseconds after which a hidden page closes its stream: a browser has some six connections for all tabs
 *  of a console, and each stream holds one. */
const UNSEEN = 30_000;
/** Milliseconds without a stream after which the page reads everything anew instead of receiving the missed
 *  events: a read has a bounded size, the events of a night do not. */
const TELLABLE = 300_000;

let source: EventSource | null = null;
let position = "";
let wait = FIRST_WAIT;
let timer: ReturnType<typeof setTimeout> | undefined;
let watchdog: ReturnType<typeof setTimeout> | undefined;
let leaving: ReturnType<typeof setTimeout> | undefined;
let resting = 0;

/** Call `listener` with every event from now on. The returned function ends that. */
export function listen(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Call `call` each time the stream was opened without a position, and so does not send what was missed. It
 *  receives the position from which the stream continues. The returned function ends that. */
export function onRejoin(call: Rejoined): () => void {
  rejoined.add(call);
  return () => rejoined.delete(call);
}

/** The position that the stream has reached; empty while it is unknown. */
export const reachedPosition = (): string => position;

/** Follow the stream for as long as somebody is signed in. */
export function follow(): void {
  window.addEventListener("offline", retry);
  window.addEventListener("online", () => {
    wait = FIRST_WAIT;
    retry();
  });
  document.addEventListener("visibilitychange", () => {
    leaveUnseen();
    // A page in the background may have slept for hours, and somebody else may be signed in by now.
    if (!document.hidden && session.value) reopen();
  });
  leaveUnseen();
  effect(() => {
    if (session.value) open();
    else close();
  });
}

/** Close the stream after `UNSEEN` if the page is hidden. It continues from its position once the page is
 *  visible, or without a position if that took longer than `TELLABLE`. */
function leaveUnseen(): void {
  clearTimeout(leaving);
  if (resting && Date.now() - resting > TELLABLE) position = "";
  resting = 0;
  if (!document.hidden) return;
  leaving = setTimeout(() => {
    resting = Date.now();
    close();
    connection.value = "connecting";
  }, UNSEEN);
}

function open(): void {
  close();
  if (resting) return;
  const opened = new EventSource(
    position ? `/api/notification/stream?after=${encodeURIComponent(position)}` : "/api/notification/stream",
  );
  source = opened;
  // With a position, the stream sends what was missed. Without one, the page must read it. That holds the
  // first time too: the stream does not send what happened after the page's first reads and before the stream
  // opened.
  let joined = position !== "";
  const moves = (message: MessageEvent<string>) => {
    reached(message);
    if (joined) return;
    joined = true;
    for (const call of rejoined) call(position);
  };
  opened.onopen = () => {
    wait = FIRST_WAIT;
    connection.value = "live";
    alive();
  };
  opened.onmessage = (message: MessageEvent<string>) => {
    moves(message);
    const event = JSON.parse(message.data) as AnnalsEvent;
    event.stream ??= `${event.aggregate_type}-${event.aggregate_id}`;
    for (const listener of listeners) listener(event);
  };
  opened.addEventListener("alive", moves);
  opened.addEventListener("cut", retry);
  opened.onerror = retry;
}

/** Open the stream again after a pause. The browser's own reconnecting gives up at the first error response.
 *  This one goes on, even offline: the suite may run on this machine. */
function retry(): void {
  close();
  if (!session.value || resting) return;
  connection.value = navigator.onLine ? "reconnecting" : "offline";
  timer = setTimeout(reopen, wait);
  wait = Math.min(wait * 2, LONGEST_WAIT);
}

/** Open the stream if the same user is still signed in. The session is checked first, because browsers do not
 *  say why a stream was refused. */
async function reopen(): Promise<void> {
  try {
    await recogniseAgain();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (source === null) retry();
    return;
  }
  if (source === null && session.value) open();
}

function reached(message: MessageEvent<string>): void {
  alive();
  if (message.lastEventId) position = message.lastEventId;
}

function alive(): void {
  clearTimeout(watchdog);
  watchdog = setTimeout(retry, SILENCE);
}

function close(): void {
  clearTimeout(timer);
  clearTimeout(watchdog);
  source?.close();
  source = null;
}
