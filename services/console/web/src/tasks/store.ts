import { computed, signal } from "@preact/signals";
import { ask, command, Problem, pages, pause, query } from "../lib/api";
import { connection, listen, onRejoin, told } from "../lib/live";
import { whole } from "../lib/reading";
import { session } from "../lib/session";
import type { AnnalsEvent, Member, Recurrence, Saga, Task, Written } from "../lib/types";
import { tell } from "../parts/toasts";

/** So many tasks are kept; of more, the newest. */
export const MOST = 20_000;
const PAGE = 500;
/** So many changed tasks are fetched one by one; more, and the list is loaded anew. */
const ONE_BY_ONE = 40;
const SOON = 80;
const AGAIN = 5000;
const OPENING = 300;

/** What is on a task that was asked for and is not yet seen; with its version once it is known to be done. */
export type Pending = Partial<Task> & { gone?: boolean };
type Change = { id: string; shown: Pending };

const stored = signal<ReadonlyMap<string, Task>>(new Map());
const pending = signal<readonly Change[]>([]);
/** Tasks that were found to be gone, and how many reads had begun by then: what those tell of them is older. */
const gone = new Map<string, number>();
let begun = 0;
export const members = signal<Member[]>([]);
export const handovers = signal<ReadonlyMap<string, Saga>>(new Map());
export const recurrences = signal<Recurrence[]>([]);
export const loading = signal(true);
/** Whether there are older tasks than those that are kept. */
export const older = signal(false);
export const problem = signal<Problem | null>(null);

/** The tasks as they are to be shown: with what one has just changed. */
export const tasks = computed(() => {
  const shown = new Map(stored.value);
  for (const { id, shown: changes } of pending.value) {
    const task = shown.get(id);
    if (task && changes.version !== undefined && task.version >= changes.version) continue;
    if (changes.gone) shown.delete(id);
    else if (task) shown.set(id, { ...task, ...changes });
    else if (changes.id) shown.set(id, changes as Task); // one's own, of which all is known
  }
  return shown;
});
export const isPending = (id: string): boolean => pending.value.some((change) => change.id === id);

let started = false;

/** Load everything, and keep it up to date for as long as the page is there. */
export function keep(): void {
  if (started) return;
  started = true;
  onRejoin((position) => load(position, true));
  listen(onEvent);
  // What is read once the stream is open need not be read twice; but nobody waits long for that.
  if (connection.value === "live") load(told());
  else loadTimer = setTimeout(() => load(), OPENING);
}

let loadTimer: ReturnType<typeof setTimeout> | undefined;

/** Read everything, as it is at `position` or later: of one lane, or of several with commas between. */
export async function load(position?: string, anyway = false): Promise<void> {
  clearTimeout(loadTimer);
  const places = position ? position.split(",") : [undefined];
  const reads = [loadTasks, loadMembers, loadHandovers].flatMap((read) =>
    places.map((place) => read(place, anyway)),
  );
  const failed = await whatFails(reads);
  problem.value = failed[0] ?? null;
  clearTimeout(loadTimer);
  if (failed.some((one) => one.passes)) loadTimer = setTimeout(() => load(), AGAIN);
}

async function whatFails(reads: Promise<void>[]): Promise<Problem[]> {
  const reasons = (await Promise.allSettled(reads)).flatMap((one) =>
    one.status === "rejected" ? [one.reason as unknown] : [],
  );
  return reasons.map((reason) => {
    if (!(reason instanceof Problem)) throw reason;
    return reason;
  });
}

const loadTasks = whole(async () => {
  loading.value = true;
  const [before, read] = [stored.value, ++begun];
  const found = new Set<string>();
  try {
    const path = query("/api/projector/queries/tasks", { sort: "-created_at", limit: PAGE });
    const { next } = await pages<Task>(path, {
      most: MOST,
      seen: (items) => {
        for (const { id } of items) found.add(id);
        put(items, read);
      },
    });
    // What live events brought meanwhile is newer than the pages that it is not on.
    const left = [...before].filter(([id, task]) => !found.has(id) && stored.value.get(id) === task);
    drop(left.map(([id]) => id));
    older.value = next !== null;
  } finally {
    loading.value = false;
  }
});

const loadMembers = whole(async () => {
  const path = query("/api/projector/queries/members", { limit: PAGE });
  members.value = (await pages<Member>(path, { most: 5000 })).items;
});

const loadHandovers = whole(async () => {
  const path = query("/api/projector/queries/sagas", {
    type: "task-handover",
    status: "running",
    limit: 200,
  });
  const running = (await pages<Saga>(path, { most: 2000 })).items;
  handovers.value = new Map(running.map((saga) => [saga.business_key ?? "", saga]));
});

/** Read what recurs, for who looks at it: no event tells that it went on. */
export async function loadRecurrences(signal: AbortSignal): Promise<void> {
  const path = query("/api/notification/recurrences", { limit: PAGE });
  let before: Recurrence[];
  let found: Recurrence[];
  do {
    before = recurrences.value;
    found = (await pages<Recurrence>(path, { most: 5000, signal })).items;
  } while (recurrences.value !== before); // what one changed meanwhile is newer than what was read
  recurrences.value = found;
}

/** Show what recurs as it is answered to be now. */
export function showRecurrence(now: Recurrence): void {
  const known = recurrences.value.some(({ id }) => id === now.id);
  recurrences.value = known
    ? recurrences.value.map((one) => (one.id === now.id ? now : one))
    : [...recurrences.value, now];
}

/** Show no more what was ended. */
export function dropRecurrence(ended: string): void {
  recurrences.value = recurrences.value.filter(({ id }) => id !== ended);
}

function put(found: Task[], read: number): void {
  const latest = new Map(stored.value);
  for (const task of found) {
    const known = latest.get(task.id)?.version ?? 0;
    if (task.version >= known && read > (gone.get(task.id) ?? 0)) latest.set(task.id, task);
  }
  stored.value = latest;
}

function drop(ids: string[]): void {
  const latest = new Map(stored.value);
  for (const id of ids) latest.delete(id);
  stored.value = latest;
}

/** Keep no more than the newest, and the one that is asked for. At once for many: to sort them takes its time. */
function dropOldest(asked: string): void {
  if (loading.value || stored.value.size <= MOST + PAGE) return;
  const newest = [...stored.value.values()].sort((one, other) =>
    one.created_at < other.created_at ? 1 : -1,
  );
  drop(newest.slice(MOST).flatMap(({ id }) => (id === asked ? [] : [id])));
  older.value = true;
}

/** Of each stream the newest event that is to be read for. */
let happened = new Map<string, AnnalsEvent>();
let due = false;

function onEvent(event: AnnalsEvent): void {
  if (!(event.aggregate_type in READ_FOR)) return;
  const known = happened.get(event.stream);
  if (!known || !(known.version > event.version)) happened.set(event.stream, event);
  if (!due) setTimeout(catchUp, SOON);
  due = true;
}

const READ_FOR: Record<string, (event: AnnalsEvent, many: boolean) => Promise<unknown>> = {
  task: ({ aggregate_id: id, position }, many) => (many ? loadTasks(position) : refresh(id, position)),
  member: ({ position }) => loadMembers(position),
  saga: ({ position }) => loadHandovers(position),
};

/** Read what events changed. What cannot be read now is read again later, and nothing waits for it. */
async function catchUp(): Promise<void> {
  const events = [...happened.values()];
  [happened, due] = [new Map(), false];
  const many = events.filter((event) => event.aggregate_type === "task").length > ONE_BY_ONE;
  const reads = events.map(async (event) => {
    try {
      await READ_FOR[event.aggregate_type]?.(event, many);
    } catch (error) {
      if (error instanceof Problem && error.passes) setTimeout(() => onEvent(event), AGAIN);
      throw error;
    }
  });
  problem.value = (await whatFails(reads))[0] ?? null;
}

/** Fetch one task anew, once the read model has come as far as `position`; nothing where it is not, or gone. */
export async function refresh(id: string, position?: string): Promise<Task | undefined> {
  const known = stored.value.has(id) || position !== undefined;
  const read = ++begun;
  try {
    const path = query(`/api/projector/queries/tasks/${encodeURIComponent(id)}`, { position });
    const task = await ask<Task>(path);
    put([task], read);
    dropOldest(id);
    return task;
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 404) throw error;
    if (!known) return undefined; // it may be that it is not there yet
    gone.set(id, begun);
    drop([id]);
    return undefined;
  }
}

/** Send a command, showing what it comes to at once; what was refused is taken back. Calls `taken` when the command is,
 *  and returns when what it came to is seen. Throws Problem. */
export async function change(
  type: string,
  data: { id: string; [name: string]: unknown },
  shown: Pending,
  version?: number,
  taken?: () => void,
): Promise<Written> {
  const asked: Change = { id: data.id, shown };
  pending.value = [...pending.value, asked];
  let written: Written;
  try {
    written = await command(type, data, version);
  } catch (error) {
    forget(asked);
    throw error;
  }
  const done: Change = { id: data.id, shown: { ...shown, version: written.version } };
  pending.value = pending.value.map((one) => (one === asked ? done : one));
  taken?.();
  if (await seen(data.id, written.position)) forget(done);
  else {
    tell("It is done. What it came to cannot be read yet, and is looked for again.");
    lookAgain(done, written.position);
  }
  return written;
}

function forget(change: Change): void {
  pending.value = pending.value.filter((one) => one !== change);
}

async function lookAgain(done: Change, position: string): Promise<void> {
  do await pause(AGAIN);
  while (!(await seen(done.id, position)));
  forget(done);
}

/** Whether what a command came to is read, or will not be. */
async function seen(id: string, position: string): Promise<boolean> {
  try {
    await refresh(id, position);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return !error.passes;
  }
  return true;
}

/** A task before it is known to be there. */
export function draft(id: string, given: Partial<Task>): Task {
  const now = new Date().toISOString();
  return {
    id,
    title: "",
    description: null,
    status: "todo",
    priority: "normal",
    tags: [],
    due: null,
    assignee: null,
    version: 0,
    created_at: now,
    updated_at: now,
    ...given,
  };
}

/** The name of somebody, as far as it is known. */
export function nameOf(user: string | null): string {
  if (user === null) return "nobody";
  return (
    members.value.find((member) => member.id === user)?.name ??
    (user === session.value?.user ? session.value.name : user)
  );
}
