import { signal } from "@preact/signals";

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const dayAndYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const exact = new Intl.DateTimeFormat(undefined, {
  dateStyle: "medium",
  timeStyle: "medium",
  hourCycle: "h23",
} as Intl.DateTimeFormatOptions);
const whole = new Intl.NumberFormat();

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const reckoned = signal(Date.now());
const RECKONED_EVERY = 30 * SECOND;

/** Have what is said of times move on with them, though nothing else changes. */
export function followTime(): void {
  const move = () => {
    if (!document.hidden) reckoned.value = Date.now();
  };
  setInterval(move, RECKONED_EVERY);
  document.addEventListener("visibilitychange", move);
}

/** Now; what is shown by it is shown anew as it moves on. */
const now = () => Math.max(reckoned.value, Date.now());

/** A moment as somebody would say it; what is none, as it stands: events may hold any text. */
export function moment(iso: string): string {
  const at = new Date(iso);
  if (isNone(at)) return iso;
  const today = new Date(now());
  const ago = today.getTime() - at.getTime();
  if (Math.abs(ago) < 45 * SECOND) return ago >= 0 ? "just now" : "in a moment";
  if (ago > 0 && ago < HOUR) return `${Math.max(1, Math.round(ago / MINUTE))} min ago`;
  if (at.toDateString() === today.toDateString()) return `today ${clock.format(at)}`;
  return `${sameYear(at, today) ? day.format(at) : dayAndYear.format(at)}, ${clock.format(at)}`;
}

/** A due date: the day, and the hour when it is near. */
export function due(iso: string): { text: string; late: boolean; soon: boolean } {
  const at = new Date(iso);
  if (isNone(at)) return { text: iso, late: false, soon: false };
  const today = new Date(now());
  const left = at.getTime() - today.getTime();
  const days = Math.round((startOfDay(at) - startOfDay(today)) / DAY);
  const names: Record<number, string> = { [-1]: "yesterday", 0: "today", 1: "tomorrow" };
  const named = names[days];
  const text = named
    ? `${named} ${clock.format(at)}`
    : sameYear(at, today)
      ? day.format(at)
      : dayAndYear.format(at);
  return { text, late: left < 0, soon: left >= 0 && left < DAY };
}

/** Date and time in full, with milliseconds. */
export function precise(iso: string): string {
  const at = new Date(iso);
  if (isNone(at)) return iso;
  return `${exact.format(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

/** A length of time, in two figures or so. */
export function duration(ms: number): string {
  const long = Math.abs(ms);
  // Rounded first, then divided: 59.7 s is a minute, not 60 s.
  const [seconds, minutes] = [Math.round(ms / SECOND), Math.round(ms / MINUTE)];
  if (long < 1) return "0 ms";
  if (Math.round(long) < SECOND) return `${Math.round(ms)} ms`;
  if (long < 10 * SECOND) return `${(ms / SECOND).toFixed(1)} s`;
  if (Math.abs(seconds) < 60) return `${seconds} s`;
  if (Math.abs(seconds) < 3600) return `${Math.trunc(seconds / 60)} min ${seconds % 60} s`;
  if (long < 2 * DAY) return `${Math.trunc(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(ms / DAY)} days`;
}

export const count = (value: number): string => whole.format(value);

/** `task.due_date_set`, as words. */
export function words(name: string): string {
  return name.replace(/[._-]/g, " ");
}

/** What stands in an address as an id: the router has decoded it, but for what means something in a path. */
export function idOf(parameter: string): string {
  try {
    return decodeURIComponent(parameter);
  } catch {
    return parameter; // a `%` of its own, which no id has: that is for the services to say
  }
}

export function traceOf(traceparent: string | null | undefined): string | null {
  return traceparent ? traceparent.slice(3, 35) : null;
}

/** A value for an `<input type="datetime-local">`, and back. */
export function toLocal(iso: string | null): string {
  if (!iso) return "";
  const at = new Date(iso);
  return new Date(at.getTime() - at.getTimezoneOffset() * MINUTE).toISOString().slice(0, 16);
}
export function fromLocal(local: string): string | null {
  return local ? new Date(local).toISOString() : null;
}

const isNone = (at: Date) => Number.isNaN(at.getTime());
const startOfDay = (at: Date) => new Date(at.getFullYear(), at.getMonth(), at.getDate()).getTime();
const sameYear = (one: Date, other: Date) => one.getFullYear() === other.getFullYear();
