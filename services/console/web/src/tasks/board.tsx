import { useMemo } from "preact/hooks";
import { Link } from "wouter-preact";
import type { Task } from "../lib/types";
import { VirtualList } from "../parts/virtual";
import { Done, Marks, Whose } from "./row";
import { handovers, isPending } from "./store";

const CARD = 112;

const COLUMNS = [
  { key: "open", name: "Unassigned", hint: "Tasks without an assignee appear here." },
  { key: "asked", name: "Awaiting answer", hint: "Hand-overs that await an answer appear here." },
  { key: "assigned", name: "In progress", hint: "Assigned tasks appear here." },
  { key: "done", name: "Done", hint: "Completed tasks appear here." },
] as const;

export function Board({ tasks }: { tasks: Task[] }) {
  const asked = handovers.value;
  const columns = useMemo(() => {
    const found: Record<string, Task[]> = { open: [], asked: [], assigned: [], done: [] };
    for (const task of tasks) {
      const key =
        task.status === "done"
          ? "done"
          : asked.get(task.id)?.waits_until
            ? "asked"
            : task.assignee === null
              ? "open"
              : "assigned";
      found[key]?.push(task);
    }
    found.done?.sort((one, other) => (one.updated_at < other.updated_at ? 1 : -1));
    return found;
  }, [tasks, asked]);
  return (
    <div class="board">
      {COLUMNS.map(({ key, name, hint }) => {
        const own = columns[key] ?? [];
        return (
          <section key={key} class="column" aria-label={name}>
            <header class="row">
              <h2>{name}</h2>
              <span class="quiet number">{own.length.toLocaleString()}</span>
            </header>
            {own.length === 0 ? (
              <p class="column-empty quiet small">{hint}</p>
            ) : (
              <VirtualList
                label={name}
                items={own}
                rowHeight={CARD}
                keyOf={(task) => task.id}
                row={(task) => <Card task={task} />}
              />
            )}
          </section>
        );
      })}
    </div>
  );
}

function Card({ task }: { task: Task }) {
  return (
    <article class="card" data-pending={isPending(task.id)} data-done={task.status === "done"}>
      <div class="card-head">
        <Done task={task} />
        <Link href={`/tasks?task=${encodeURIComponent(task.id)}`} class="task-title">
          {task.title}
        </Link>
      </div>
      <div class="card-foot">
        <Marks task={task} card />
        <Whose task={task} card />
      </div>
    </article>
  );
}
