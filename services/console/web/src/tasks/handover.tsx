import { again, newId } from "../lib/api";
import { listen } from "../lib/live";
import type { Task } from "../lib/types";
import { Dialog, Field } from "../parts/basics";
import { tell, tellProblem } from "../parts/toasts";
import { Somebody } from "./fields";
import { nameOf, refresh, tasks } from "./store";

const DEADLINES = [
  { name: "10 minutes", value: "PT10M" },
  { name: "1 hour", value: "PT1H" },
  { name: "1 day", value: "P1D" },
  { name: "3 days", value: "P3D" },
];

const ENDING_EVENTS = ["saga.completed", "saga.compensating", "saga.terminated"];

/** Listen for the end of a saga from before it starts: it may be over before the answer brings its id.
 *  `tellOf` takes that id, and returns whether the saga is over already. `ended` is called once, if the saga
 *  ends with a reason. */
function watchEnd(ended: (why: string) => void) {
  const heard = new Map<string, unknown>();
  let wanted: string | undefined;
  const tellOf = (saga: string) => {
    wanted = saga;
    if (!heard.has(saga)) return false;
    forget();
    const why = heard.get(saga);
    if (why) ended(String(why));
    return true;
  };
  const forget = listen(({ aggregate_id, event_type, data }) => {
    if (!ENDING_EVENTS.includes(event_type) || aggregate_id !== (wanted ?? aggregate_id)) return;
    heard.set(aggregate_id, data.reason);
    if (wanted !== undefined) tellOf(wanted);
  });
  return { tellOf, forget };
}

/** A form to hand a task over. If the assignee does not accept in time, the saga compensates everything. */
export function HandOver({ task, close }: { task: Task; close: () => void }) {
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const assignee = String(form.get("assignee"));
    close();
    try {
      // For a deleted task the saga would start and be compensated: nobody would be asked or notified.
      if (!tasks.value.has(task.id) && !(await refresh(task.id))) {
        tell("The task was deleted meanwhile", "bad");
        return;
      }
      const { tellOf, forget } = watchEnd((why) =>
        tell(`${nameOf(assignee)} has not taken on the task: ${why}`, "bad"),
      );
      try {
        const { id } = await again<{ id: string }>("/api/saga-orchestrator/sagas/task-handover", {
          method: "POST",
          body: { task_id: task.id, assignee, deadline: String(form.get("deadline")) },
          headers: { "idempotency-key": newId() },
        });
        if (!tellOf(id)) tell(`${nameOf(assignee)} is being asked`);
      } catch (error) {
        forget();
        throw error;
      }
    } catch (error) {
      tellProblem(error, "Could not start the hand-over");
    }
  };
  return (
    <Dialog
      title="Hand over task"
      close={close}
      footer={
        <>
          <button type="button" class="button" onClick={close}>
            Cancel
          </button>
          <button type="submit" form="handover" class="button primary">
            Ask
          </button>
        </>
      }
    >
      <p class="quiet">
        One of the assignee's places is reserved, the task is assigned, and they are asked to accept it. If
        they decline, or do not answer in time, all of this is undone.
      </p>
      <form id="handover" class="stack" onSubmit={submit}>
        <Field label="To">
          <Somebody name="assignee" chosen="" reserves />
        </Field>
        <Field label="Answer within">
          <select class="input" name="deadline">
            {DEADLINES.map(({ name, value }) => (
              <option key={value} value={value} selected={value === "P1D"}>
                {name}
              </option>
            ))}
          </select>
        </Field>
      </form>
    </Dialog>
  );
}
