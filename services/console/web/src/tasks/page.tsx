import { signal } from "@preact/signals";
import { CalendarClock, Columns3, List, Plus, Search } from "lucide-preact";
import { useEffect, useMemo } from "preact/hooks";
import { Link, useLocation, useSearch } from "wouter-preact";
import { newId } from "../lib/api";
import { may } from "../lib/session";
import type { Task } from "../lib/types";
import { Empty, Failed, Skeleton } from "../parts/basics";
import { Bar } from "../parts/status";
import { VirtualList } from "../parts/virtual";
import { Board } from "./board";
import { TaskDrawer } from "./drawer";
import { NewTask } from "./new";
import { Recurring } from "./recurring";
import { TaskRow } from "./row";
import { handovers, keep, load, loading, MOST, members, nameOf, older, problem, tasks } from "./store";

const text = signal("");
const whose = signal("");
const which = signal<"open" | "done" | "all">("open");
/** The id of the task that is being created; null while no form is open. */
const creating = signal<string | null>(null);

const ROW = 52;
const VIEWS = [
  { name: "Board", path: "/tasks", icon: Columns3 },
  { name: "List", path: "/tasks/list", icon: List },
  { name: "Recurring", path: "/tasks/recurring", icon: CalendarClock },
];

export function TasksPage() {
  useEffect(keep, []);
  const [location, navigate] = useLocation();
  const opened = new URLSearchParams(useSearch()).get("task");
  const view = location.endsWith("/list") ? "list" : location.endsWith("/recurring") ? "recurring" : "board";
  const all = tasks.value;
  const form = creating.value;
  const shown = useMemo(
    () => filter([...all.values()], view === "list" ? which.value : "all"),
    [all, text.value, whose.value, which.value, view, members.value],
  );
  return (
    <>
      <Bar title="Tasks">
        {may("member") && (
          <button type="button" class="button primary" onClick={() => (creating.value = newId())}>
            <Plus size={16} /> New task
          </button>
        )}
      </Bar>
      <main id="main" class="main tasks" tabIndex={-1}>
        <div class="row wrap tools">
          <div class="segments" role="group" aria-label="View">
            {VIEWS.map(({ name, path, icon: Icon }) => (
              <Link
                key={path}
                href={path}
                class="button"
                aria-current={path === location ? "page" : undefined}
              >
                <Icon size={15} aria-hidden="true" /> {name}
              </Link>
            ))}
          </div>
          {view !== "recurring" && <Filters list={view === "list"} />}
        </div>
        {older.value && view !== "recurring" && (
          <p class="quiet small" role="note">
            Only the newest {MOST.toLocaleString()} tasks are shown and searched here.
          </p>
        )}
        {problem.value && <Failed problem={problem.value} retry={() => load()} />}
        {view === "recurring" ? (
          <Recurring />
        ) : all.size === 0 ? (
          <Nothing />
        ) : shown.length === 0 ? (
          <Empty title="No matching tasks">
            <p>Change the search text or the filters.</p>
          </Empty>
        ) : view === "board" ? (
          <Board tasks={shown} />
        ) : (
          <div class="panel list">
            <VirtualList
              label="Tasks"
              items={shown}
              rowHeight={ROW}
              keyOf={(task) => task.id}
              row={(task) => <TaskRow task={task} />}
            />
            <p class="list-foot quiet small number">
              {shown.length.toLocaleString()} {shown.length === 1 ? "task" : "tasks"}
              {loading.value ? ", loading more…" : ""}
            </p>
          </div>
        )}
        {opened && (
          <TaskDrawer
            id={opened}
            key={opened}
            close={() => navigate(location)}
            asked={handovers.value.get(opened)}
          />
        )}
        {form && <NewTask key={form} id={form} close={() => closeForm(form)} />}
      </main>
    </>
  );
}

/** What stands in the place of the tasks while none has been read. */
function Nothing() {
  if (loading.value) return <Skeleton lines={9} />;
  if (problem.value) return null;
  return (
    <Empty title="No tasks yet">
      <p>
        Create the first task, or fill this suite with sample data: <code>make demo</code>
      </p>
    </Empty>
  );
}

/** Close the form of one task, so that a late answer does not close a form that was opened since. */
function closeForm(id: string): void {
  if (creating.value === id) creating.value = null;
}

function Filters({ list }: { list: boolean }) {
  return (
    <>
      <div class="search">
        <Search size={15} aria-hidden="true" />
        <input
          class="input"
          type="search"
          placeholder="Search titles, tags and assignees"
          aria-label="Find tasks"
          value={text.value}
          onInput={(event) => (text.value = event.currentTarget.value)}
        />
      </div>
      <select
        class="input"
        aria-label="Assignee"
        value={whose.value}
        onChange={(event) => (whose.value = event.currentTarget.value)}
      >
        <option value="">Any assignee</option>
        <option value="-">Unassigned</option>
        {members.value.map((member) => (
          <option key={member.id} value={member.id}>
            {member.name ?? member.id}
          </option>
        ))}
      </select>
      {list && (
        <select
          class="input"
          aria-label="Status"
          value={which.value}
          onChange={(event) => (which.value = event.currentTarget.value as typeof which.value)}
        >
          <option value="open">Open</option>
          <option value="done">Done</option>
          <option value="all">Any status</option>
        </select>
      )}
    </>
  );
}

function filter(all: Task[], status: "open" | "done" | "all"): Task[] {
  const wanted = text.value.trim().toLowerCase();
  return all
    .filter(
      (task) =>
        (status === "all" || (task.status === "done") === (status === "done")) &&
        (whose.value === "" || (task.assignee ?? "-") === whose.value) &&
        (wanted === "" ||
          `${task.title} ${task.tags.join(" ")} ${task.assignee ? nameOf(task.assignee) : ""}`
            .toLowerCase()
            .includes(wanted)),
    )
    .sort(byUrgency);
}

/** Order by due date, the earliest first. Tasks without one come last, the newest first. */
function byUrgency(one: Task, other: Task): number {
  if (one.due !== other.due) {
    if (one.due === null) return 1;
    if (other.due === null) return -1;
    return one.due < other.due ? -1 : 1;
  }
  return one.created_at < other.created_at ? 1 : -1;
}
