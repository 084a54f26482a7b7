import { computed, signal } from "@preact/signals";
import { ask, command, Problem, pages, query } from "../lib/api";
import { listen, onRejoin } from "../lib/live";
import { session } from "../lib/session";
import type { AnnalsEvent, Member, Page, Recurrence, Saga, Task, Written } from "../lib/types";

const MOST = 20_000;
const PAGE = 500;
/** So many changed tasks are fetched one by one; more, and the list is loaded anew. */
const ONE_BY_ONE = 40;
const SOON = 80;

/** What is on a task that was asked for and is not yet confirmed. */
export type Pending = Partial<Task> & { gone?: boolean };

const stored = signal<ReadonlyMap<string, Task>>(new Map());
const pending = signal<ReadonlyMap<string, Pending>>(new Map());
export const members = signal<Member[]>([]);
export const handovers = signal<ReadonlyMap<string, Saga>>(new Map());
export const recurrences = signal<Recurrence[]>([]);
export const loading = signal(true);
export const problem = signal<Problem | null>(null);

/** The tasks as they are to be shown: with what one has just changed. */
export const tasks = computed(() => {
  const shown = new Map(stored.value);
  for (const [id, changes] of pending.value) {
    const task = shown.get(id);
    if (changes.gone) shown.delete(id);
    else if (task) shown.set(id, { ...task, ...changes });
    else if (changes.title) shown.set(id, changes as Task);
  }
  return shown;
});
export const isPending = (id: string): boolean => pending.value.has(id);

let started = false;

/** Load everything, and keep it up to date for as long as the page is there. */
export function keep(): void {
  if (started) return;
  started = true;
  load();
  onRejoin(load);
  listen(onEvent);
}

export async function load(): Promise<void> {
  loading.value = true;
  const fresh = new Map<string, Task>();
  const first = stored.value.size === 0;
  try {
    await Promise.all([
      pages<Task>(`/api/projector/queries/tasks?sort=-created_at&limit=${PAGE}`, {
        most: MOST,
        seen: (items) => {
          for (const task of items) fresh.set(task.id, task);
          if (first) stored.value = new Map(fresh);
        },
      }).then(() => {
        stored.value = fresh;
      }),
      loadMembers(),
      loadHandovers(),
      loadRecurrences(),
    ]);
    problem.value = null;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    problem.value = error;
  } finally {
    loading.value = false;
  }
}

async function loadMembers(): Promise<void> {
  members.value = await pages<Member>(`/api/projector/queries/members?limit=${PAGE}`, { most: 5000 });
}

async function loadHandovers(): Promise<void> {
  const running = await pages<Saga>(
    "/api/projector/queries/sagas?type=task-handover&status=running&limit=200",
    { most: 2000 },
  );
  handovers.value = new Map(running.map((saga) => [saga.business_key ?? "", saga]));
}

export async function loadRecurrences(): Promise<void> {
  const found = await ask<Page<Recurrence>>("/api/notification/recurrences?limit=200");
  recurrences.value = found.items;
}

let changed = new Map<string, string>();
let others = new Set<() => Promise<void>>();
let timer: ReturnType<typeof setTimeout> | undefined;

function onEvent(event: AnnalsEvent): void {
  if (event.aggregate_type === "task") changed.set(event.aggregate_id, event.position);
  else if (event.aggregate_type === "member") others.add(loadMembers);
  else if (event.aggregate_type === "saga") others.add(loadHandovers);
  else return;
  if (timer === undefined) timer = setTimeout(catchUp, SOON);
}

async function catchUp(): Promise<void> {
  const [wanted, lists] = [changed, others];
  [changed, others, timer] = [new Map(), new Set(), undefined];
  try {
    const several = [...lists].map((one) => one());
    if (wanted.size > ONE_BY_ONE) several.push(load());
    else several.push(...[...wanted].map(([id, position]) => refresh(id, position)));
    await Promise.all(several);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    problem.value = error;
  }
}

/** Fetch one task anew, once the read model has come as far as `position`. */
export async function refresh(id: string, position?: string): Promise<void> {
  let task: Task | null;
  try {
    task = await ask<Task>(query(`/api/projector/queries/tasks/${encodeURIComponent(id)}`, { position }));
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 404) throw error;
    task = null;
  }
  const latest = new Map(stored.value);
  if (task === null) latest.delete(id);
  else if ((latest.get(id)?.version ?? 0) <= task.version) latest.set(id, task);
  stored.value = latest;
}

/** Send a command, showing what it comes to at once; what was refused is taken back. Throws Problem. */
export async function change(
  type: string,
  data: { id: string; [name: string]: unknown },
  shown: Pending,
  version?: number,
): Promise<Written> {
  const { id } = data;
  pending.value = new Map(pending.value).set(id, { ...pending.value.get(id), ...shown });
  try {
    const written = await command(type, data, version);
    await refresh(id, written.position);
    return written;
  } finally {
    const rest = new Map(pending.value);
    rest.delete(id);
    pending.value = rest;
  }
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
