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

/** Keep the relative times on the page, such as "2 min ago", up to date. */
export function followTime(): void {
  const move = () => {
    if (!document.hidden) reckoned.value = Date.now();
  };
  setInterval(move, RECKONED_EVERY);
  document.addEventListener("visibilitychange", move);
}

/** The current time. A component that reads it renders again each time `reckoned` moves on. */
const now = () => Math.max(reckoned.value, Date.now());

/** Return a moment as text, such as "5 min ago". Text that is no date stays as it is: events may hold any. */
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

/** Return a due date as text: the day, and for yesterday, today and tomorrow the time of day too. */
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

/** Return a length of time in the unit or two that suit it, such as "3 min 20 s". */
export function duration(ms: number): string {
  const long = Math.abs(ms);
  // Rounded first, then divided: 59.7 s becomes "1 min 0 s", not "60 s".
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

/** Return a name such as `task.due_date_set` as words. */
export function words(name: string): string {
  return name.replace(/[._-]/g, " ");
}

/** Return the id in a path parameter. The router has decoded everything but the reserved characters. */
export function idOf(parameter: string): string {
  try {
    return decodeURIComponent(parameter);
  } catch {
    return parameter; // a bare `%`, which no id has: the services refuse it
  }
}

export function traceOf(traceparent: string | null | undefined): string | null {
  return traceparent ? traceparent.slice(3, 35) : null;
}

/** Convert a moment to the value of an `<input type="datetime-local">`; `fromLocal` converts it back. */
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
