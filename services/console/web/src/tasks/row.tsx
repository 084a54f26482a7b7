import { Check, Circle, Clock, Flag, Handshake } from "lucide-preact";
import { Link, useLocation } from "wouter-preact";
import { due } from "../lib/format";
import { may } from "../lib/session";
import type { Task } from "../lib/types";
import { Face, Tag } from "../parts/basics";
import { tell, tellProblem } from "../parts/toasts";
import { change, handovers, isPending, nameOf } from "./store";

export function TaskRow({ task }: { task: Task }) {
  const [location] = useLocation();
  return (
    <div class="task-row" data-pending={isPending(task.id)} data-done={task.status === "done"}>
      <Done task={task} />
      <Link href={`${location}?task=${encodeURIComponent(task.id)}`} class="task-title cut">
        {task.title}
      </Link>
      <Marks task={task} />
      <Whose task={task} />
    </div>
  );
}

/** A check mark that completes or reopens a task. The change is shown at once. */
export function Done({ task }: { task: Task }) {
  const done = task.status === "done";
  const toggle = async () => {
    try {
      await change(
        done ? "task.reopen" : "task.complete",
        { id: task.id },
        { status: done ? "todo" : "done" },
        task.version,
      );
      tell(done ? `Reopened: ${task.title}` : `Completed: ${task.title}`);
    } catch (error) {
      tellProblem(error, done ? "Could not reopen the task" : "Could not complete the task");
    }
  };
  return (
    <button
      type="button"
      class="check"
      aria-pressed={done}
      aria-label={done ? `Reopen ${task.title}` : `Complete ${task.title}`}
      disabled={!may("member") || isPending(task.id)}
      onClick={toggle}
    >
      {done ? <Check size={13} strokeWidth={3} /> : <Circle size={13} opacity={0} />}
    </button>
  );
}

/** What a task shows at a glance. On a card there is less room, so fewer marks. */
export function Marks({ task, card }: { task: Task; card?: boolean }) {
  const at = task.due === null ? null : due(task.due);
  const asked = handovers.value.get(task.id);
  const pressing = task.priority === "high" || task.priority === "critical";
  // The column of a card says whether somebody was asked. Beyond that, a card has room for two marks.
  const room = !card ? 2 : pressing && at ? 0 : 1;
  const tone = task.status === "done" ? undefined : at?.late ? "bad" : at?.soon ? "warn" : undefined;
  return (
    <span class="marks">
      {asked && !card && task.status !== "done" && (
        <Tag tone="saga">
          <Handshake size={12} /> hand-over
        </Tag>
      )}
      {pressing && (
        <Tag tone={task.priority === "critical" ? "bad" : "warn"}>
          <Flag size={12} />
          <span class={card ? "hidden" : ""}>{task.priority}</span>
        </Tag>
      )}
      {at && (
        <Tag tone={tone}>
          <Clock size={12} /> {at.text}
        </Tag>
      )}
      {task.tags.slice(0, room).map((tag) => (
        <Tag key={tag}>{tag}</Tag>
      ))}
    </span>
  );
}

export function Whose({ task, card }: { task: Task; card?: boolean }) {
  if (task.assignee === null) return card ? null : <span class="whose quiet">unassigned</span>;
  const name = nameOf(task.assignee);
  if (card) {
    return (
      <span class="whose" title={name}>
        <Face name={name} />
        <span class="hidden">{name}</span>
      </span>
    );
  }
  return (
    <span class="whose row" title={name}>
      <Face name={name} />
      <span class="cut">{name}</span>
    </span>
  );
}
