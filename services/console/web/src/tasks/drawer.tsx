import { GitBranch, History, Trash2 } from "lucide-preact";
import { useRef, useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { Answer } from "../inbox/answer";
import { Problem } from "../lib/api";
import { due } from "../lib/format";
import { useLoad } from "../lib/load";
import { may, session } from "../lib/session";
import type { Saga, Task } from "../lib/types";
import { Dialog, Empty, Face, Failed, Skeleton, Tag, Time } from "../parts/basics";
import { tell, tellProblem } from "../parts/toasts";
import { EditTask } from "./edit";
import { HandOver } from "./handover";
import { change, isPending, nameOf, refresh, tasks } from "./store";

/** One task: its fields, its actions, and links to its causes and history. */
export function TaskDrawer({ id, close, asked }: { id: string; close: () => void; asked: Saga | undefined }) {
  const task = tasks.value.get(id);
  const [mode, setMode] = useState<"look" | "edit" | "handover" | "delete">("look");
  // Loaded again when the task disappears: it may only be older than the tasks that are kept.
  const loaded = useLoad(`${id} ${task ? "kept" : "gone"}`, async () => {
    if (!task) await refresh(id);
    return true;
  });
  const last = useRef(task);
  if (task) last.current = task;
  // An open form stays when its task is deleted, so that what was typed in it is not lost.
  if (last.current && mode === "edit") return <EditTask task={last.current} close={() => setMode("look")} />;
  if (last.current && mode === "handover")
    return <HandOver task={last.current} close={() => setMode("look")} />;
  if (!task) {
    return (
      <Dialog drawer title="Task" close={close}>
        {loaded.loading || !(loaded.value || loaded.problem) ? (
          <Skeleton />
        ) : loaded.problem ? (
          <Failed problem={loaded.problem} retry={loaded.reload} />
        ) : (
          <Empty title="Task not found">
            <p>It may have been deleted. The history of a deleted task is kept.</p>
            <Link class="button" href={`/streams/task-${id}`}>
              <History size={15} /> View history
            </Link>
          </Empty>
        )}
      </Dialog>
    );
  }
  return (
    <Dialog
      drawer
      title={task.title}
      close={close}
      footer={
        may("member") ? (
          <Actions task={task} confirming={mode === "delete"} setMode={setMode} close={close} asked={asked} />
        ) : undefined
      }
    >
      {asked && task.status !== "done" && <Asked saga={asked} />}
      <dl class="facts">
        <dt>Status</dt>
        <dd>{task.status === "done" ? <Tag tone="ok">done</Tag> : <Tag tone="accent">open</Tag>}</dd>
        <dt>Assigned to</dt>
        <dd class="row">
          {task.assignee && <Face name={nameOf(task.assignee)} />} {nameOf(task.assignee)}
        </dd>
        <dt>Due</dt>
        <dd>{task.due ? <DueDate at={task.due} done={task.status === "done"} /> : "no due date"}</dd>
        <dt>Priority</dt>
        <dd>{task.priority}</dd>
        {task.tags.length > 0 && (
          <>
            <dt>Tags</dt>
            <dd class="row wrap">
              {task.tags.map((tag) => (
                <Tag key={tag}>{tag}</Tag>
              ))}
            </dd>
          </>
        )}
        <dt>Created</dt>
        <dd>
          <Time at={task.created_at} />
        </dd>
        <dt>Version</dt>
        <dd class="number">
          {task.version}, <Time at={task.updated_at} />
        </dd>
      </dl>
      {task.description && <p class="prose">{task.description}</p>}
      <div class="row wrap">
        <Link class="button" href={`/causes/task/${id}`}>
          <GitBranch size={15} /> View causes
        </Link>
        <Link class="button" href={`/streams/task-${id}`}>
          <History size={15} /> View history
        </Link>
      </div>
    </Dialog>
  );
}

function DueDate({ at, done }: { at: string; done: boolean }) {
  const { text, late } = due(at);
  return (
    <span title={at}>
      {text} {late && !done && <Tag tone="bad">late</Tag>}
    </span>
  );
}

function Asked({ saga }: { saga: Saga }) {
  const assignee = String(saga.input.assignee);
  const mine = session.value?.user === assignee;
  return (
    <div class="panel pad stack asked">
      <div class="row wrap">
        <Tag tone="saga">hand-over</Tag>
        <span class="grow">
          {mine ? "You were" : `${nameOf(assignee)} was`} asked to take on this task (
          <Time at={saga.created_at} />)
        </span>
      </div>
      <div class="row wrap">
        {!saga.waits_until && <span class="quiet">No answer is awaited.</span>}
        {mine && saga.waits_until && <Answer saga={saga.id} />}
        <Link class="button plain" href={`/sagas/${saga.id}`}>
          View saga
        </Link>
      </div>
    </div>
  );
}

function Actions({
  task,
  confirming,
  setMode,
  close,
  asked,
}: {
  task: Task;
  confirming: boolean;
  setMode: (mode: "look" | "edit" | "handover" | "delete") => void;
  close: () => void;
  asked: Saga | undefined;
}) {
  const busy = isPending(task.id);
  const done = task.status === "done";
  const toggle = async () => {
    const status = done ? "todo" : "done";
    try {
      await change(done ? "task.reopen" : "task.complete", { id: task.id }, { status }, task.version);
    } catch (error) {
      tellProblem(error, done ? "Could not reopen the task" : "Could not complete the task");
    }
  };
  const remove = async () => {
    close();
    try {
      await change("task.delete", { id: task.id }, { gone: true }, task.version);
      tell(`Deleted: ${task.title}`);
    } catch (error) {
      if (error instanceof Problem && error.status === 409)
        tell("The task was not deleted, because it was changed meanwhile. Check it and try again.", "bad");
      else tellProblem(error, "Could not delete the task");
    }
  };
  if (confirming) {
    return (
      <>
        <span class="grow">Delete this task? Its history is kept.</span>
        <button type="button" class="button" onClick={() => setMode("look")}>
          Keep task
        </button>
        <button type="button" class="button danger" onClick={remove}>
          Delete
        </button>
      </>
    );
  }
  return (
    <>
      <button
        type="button"
        class="button plain icon danger"
        aria-label="Delete"
        onClick={() => setMode("delete")}
      >
        <Trash2 size={15} />
      </button>
      <span class="grow" />
      {!done && (
        <button type="button" class="button" onClick={() => setMode("edit")}>
          Edit
        </button>
      )}
      {!done && !asked && (
        <button type="button" class="button" onClick={() => setMode("handover")}>
          Hand over
        </button>
      )}
      <button type="button" class="button primary" disabled={busy} onClick={toggle}>
        {done ? "Reopen" : "Complete"}
      </button>
    </>
  );
}
