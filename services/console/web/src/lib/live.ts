import { effect, signal } from "@preact/signals";
import { Problem } from "./api";
import { recogniseAgain, session } from "./session";
import type { AnnalsEvent } from "./types";

export type Connection = "connecting" | "live" | "reconnecting" | "offline";

/** How the live stream is. */
export const connection = signal<Connection>("connecting");

type Listener = (event: AnnalsEvent) => void;
const listeners = new Set<Listener>();
type Rejoined = (position: string) => void;
const rejoined = new Set<Rejoined>();

const FIRST_WAIT = 500;
const LONGEST_WAIT = 8000;
/** The stream says something every 15 s; a silence of this length is a dead connection. */
const SILENCE = 40_000;
/** A page that nobody looks at lets its stream go after this: a browser has some six connections for all tabs of a
 *  console, and each stream holds one. */
const UNSEEN = 30_000;
/** What was missed for longer is not told, but read: that is bounded, and what happened in a night is not. */
const TELLABLE = 300_000;

let source: EventSource | null = null;
let position = "";
let wait = FIRST_WAIT;
let timer: ReturnType<typeof setTimeout> | undefined;
let watchdog: ReturnType<typeof setTimeout> | undefined;
let leaving: ReturnType<typeof setTimeout> | undefined;
let resting = 0;

/** Be told of every event from now on; the answer ends it. */
export function listen(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Be told when the stream is open and what was missed cannot be told, with the position that it tells from; the answer
 *  ends it. */
export function onRejoin(call: Rejoined): () => void {
  rejoined.add(call);
  return () => rejoined.delete(call);
}

/** How far the stream has told; nothing before it began to. */
export const told = (): string => position;

/** Follow the stream for as long as somebody is signed in. */
export function follow(): void {
  window.addEventListener("offline", retry);
  window.addEventListener("online", () => {
    wait = FIRST_WAIT;
    retry();
  });
  document.addEventListener("visibilitychange", () => {
    leaveUnseen();
    // A page in the back of a browser may have been asleep for hours, and one may be somebody else by now.
    if (!document.hidden && session.value) reopen();
  });
  leaveUnseen();
  effect(() => {
    if (session.value) open();
    else close();
  });
}

/** Let the stream go while nobody looks: it goes on from its position when somebody does. */
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
  // From a position what was missed is told; without one it has to be read, as far as it will not be told. So at the
  // first time too: what happens while a page is read that is not told yet is told by nobody.
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

/** The browser's own reconnecting gives up at the first error it is answered: this does not. Nor does it without a
 *  network: the suite may be on this machine. */
function retry(): void {
  close();
  if (!session.value || resting) return;
  connection.value = navigator.onLine ? "reconnecting" : "offline";
  timer = setTimeout(reopen, wait);
  wait = Math.min(wait * 2, LONGEST_WAIT);
}

/** Have the stream open if one is still signed in: of a stream that is refused a browser does not say why. */
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
