import { computed, signal } from "@preact/signals";
import { ask, command, Problem, pages, pause, query } from "../lib/api";
import { connection, listen, onRejoin, reachedPosition } from "../lib/live";
import { coalesced } from "../lib/reading";
import { session } from "../lib/session";
import type { AnnalsEvent, Member, Recurrence, Saga, Task, Written } from "../lib/types";
import { tell } from "../parts/toasts";

/** The most tasks that are kept; of more, the newest. */
export const MOST = 20_000;
const PAGE = 500;
/** The most changed tasks that are fetched one by one; for more, the whole list is loaded again. */
const ONE_BY_ONE = 40;
const SOON = 80;
const AGAIN = 5000;
const OPENING = 300;

/** Changes to a task that queries do not see yet. `version` is set once the command is known to be done. */
export type Pending = Partial<Task> & { gone?: boolean };
type Change = { id: string; shown: Pending };

const stored = signal<ReadonlyMap<string, Task>>(new Map());
const pending = signal<readonly Change[]>([]);
/** For each task that was found to be deleted, how many reads had begun by then: they may still return it. */
const gone = new Map<string, number>();
let begun = 0;
export const members = signal<Member[]>([]);
export const handovers = signal<ReadonlyMap<string, Saga>>(new Map());
export const recurrences = signal<Recurrence[]>([]);
export const loading = signal(true);
/** Whether there are older tasks than those that are kept. */
export const older = signal(false);
export const problem = signal<Problem | null>(null);

/** The tasks to show: those that were read, with the user's pending changes. */
export const tasks = computed(() => {
  const shown = new Map(stored.value);
  for (const { id, shown: changes } of pending.value) {
    const task = shown.get(id);
    if (task && changes.version !== undefined && task.version >= changes.version) continue;
    if (changes.gone) shown.delete(id);
    else if (task) shown.set(id, { ...task, ...changes });
    else if (changes.id) shown.set(id, changes as Task); // the user's new task, of which every field is known
  }
  return shown;
});
export const isPending = (id: string): boolean => pending.value.some((change) => change.id === id);

let started = false;

/** Load everything, and keep it up to date for as long as the page is open. */
export function keep(): void {
  if (started) return;
  started = true;
  onRejoin((position) => load(position, true));
  listen(onEvent);
  // What is read after the stream opened need not be read twice, but the page does not wait long for that.
  if (connection.value === "live") load(reachedPosition());
  else loadTimer = setTimeout(() => load(), OPENING);
}

let loadTimer: ReturnType<typeof setTimeout> | undefined;

/** Read everything once queries see `position`, which is one position or several of different lanes,
 *  separated by commas. With `anyway`, what is there is shown even if they do not see it in time. */
export async function load(position?: string, anyway = false): Promise<void> {
  clearTimeout(loadTimer);
  const places = position ? position.split(",") : [undefined];
  const reads = [loadTasks, loadMembers, loadHandovers].flatMap((read) =>
    places.map((place) => read(place, anyway)),
  );
  const failed = await whatFails(reads);
  clearTimeout(loadTimer);
  if (failed.some((one) => one.isTemporary)) loadTimer = setTimeout(() => load(), AGAIN);
}

/** Wait for all reads. The first problem is shown at once: another read may take long. */
async function whatFails(reads: Promise<unknown>[]): Promise<Problem[]> {
  const failed: Problem[] = [];
  const note = (reason: unknown) => {
    if (!(reason instanceof Problem)) throw reason;
    failed.push(reason);
    problem.value = failed[0] as Problem;
  };
  await Promise.all(reads.map((read) => read.catch(note)));
  problem.value = failed[0] ?? null;
  return failed;
}

const loadTasks = coalesced(async () => {
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
    // A task that is on no page is dropped, unless a live event brought it meanwhile: then it is newer than
    // the pages.
    const left = [...before].filter(([id, task]) => !found.has(id) && stored.value.get(id) === task);
    drop(left.map(([id]) => id));
    older.value = next !== null;
  } finally {
    loading.value = false;
  }
});

const loadMembers = coalesced(async () => {
  const path = query("/api/projector/queries/members", { limit: PAGE });
  members.value = (await pages<Member>(path, { most: 5000 })).items;
});

const loadHandovers = coalesced(async () => {
  const path = query("/api/projector/queries/sagas", {
    type: "task-handover",
    status: "running",
    limit: 200,
  });
  const running = (await pages<Saga>(path, { most: 2000 })).items;
  handovers.value = new Map(running.map((saga) => [saga.business_key ?? "", saga]));
});

/** Read the recurrences for the view that shows them: no event reports that one has moved on. */
export async function loadRecurrences(signal: AbortSignal): Promise<void> {
  const path = query("/api/notification/recurrences", { limit: PAGE });
  let before: Recurrence[];
  let found: Recurrence[];
  do {
    before = recurrences.value;
    found = (await pages<Recurrence>(path, { most: 5000, signal })).items;
  } while (recurrences.value !== before); // a change that was made meanwhile is newer than what was read
  recurrences.value = found;
}

/** Show a recurrence as the service has just returned it. */
export function showRecurrence(now: Recurrence): void {
  const known = recurrences.value.some(({ id }) => id === now.id);
  recurrences.value = known
    ? recurrences.value.map((one) => (one.id === now.id ? now : one))
    : [...recurrences.value, now];
}

/** Remove a recurrence that was ended. */
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

/** Keep only the newest tasks, and the one that was asked for. Tasks are dropped many at a time, because
 *  sorting them is slow. */
function dropOldest(asked: string): void {
  if (loading.value || stored.value.size <= MOST + PAGE) return;
  const newest = [...stored.value.values()].sort((one, other) =>
    one.created_at < other.created_at ? 1 : -1,
  );
  drop(newest.slice(MOST).flatMap(({ id }) => (id === asked ? [] : [id])));
  older.value = true;
}

/** The newest event of each stream whose effect has not been read yet. */
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

/** Read what the events have changed. A read that fails for now is repeated later, and holds nothing up. */
async function catchUp(): Promise<void> {
  const events = [...happened.values()];
  [happened, due] = [new Map(), false];
  const many = events.filter((event) => event.aggregate_type === "task").length > ONE_BY_ONE;
  const reads = events.map(async (event) => {
    try {
      await READ_FOR[event.aggregate_type]?.(event, many);
    } catch (error) {
      if (error instanceof Problem && error.isTemporary) setTimeout(() => onEvent(event), AGAIN);
      throw error;
    }
  });
  await whatFails(reads);
}

/** Fetch one task again, once the read model has reached `position`; undefined if there is no such task. */
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
    if (!known) return undefined; // queries may not see it yet
    gone.set(id, begun);
    drop([id]);
    return undefined;
  }
}

/** Send a command, and show its effect at once. If the command is refused, the effect is taken back; if it is
 *  accepted, `taken` is called. Returns once queries see the effect, or at the first failure to read it,
 *  which is then tried again in the background. Throws `Problem`. */
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
    tell("Your change was made, but cannot be read yet. The page keeps trying.");
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

/** Read the effect of a command. False if that failed but may succeed later. */
async function seen(id: string, position: string): Promise<boolean> {
  try {
    await refresh(id, position);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return !error.isTemporary;
  }
  return true;
}

/** Return a new task as it is shown before queries see it. */
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

/** Return the name of a user, or the id if the name is not known. */
export function nameOf(user: string | null): string {
  if (user === null) return "unassigned";
  return (
    members.value.find((member) => member.id === user)?.name ??
    (user === session.value?.user ? session.value.name : user)
  );
}
