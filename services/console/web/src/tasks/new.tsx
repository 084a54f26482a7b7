import { useState } from "preact/hooks";
import { again, Problem } from "../lib/api";
import type { Recurrence } from "../lib/types";
import { Dialog, Field } from "../parts/basics";
import { tell, tellProblem } from "../parts/toasts";
import { given, TaskFields } from "./fields";
import { change, draft, showRecurrence } from "./store";

const MONTHLY = "FREQ=MONTHLY";
const RULES = [
  { name: "once", rule: "" },
  { name: "every day", rule: "FREQ=DAILY" },
  { name: "every weekday", rule: "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR" },
  { name: "every week", rule: "FREQ=WEEKLY" },
  { name: "every month", rule: MONTHLY },
];

/** Return a rule for the day of `start` in every month. iCalendar skips a month that lacks the day, so from
 *  the 29th on the rule names all days from the 28th up to it and takes the last that exists. */
function inEveryMonth(start: Date): string {
  const days = [28, 29, 30, 31].filter((day) => day <= start.getDate());
  return days.length > 1 ? `${MONTHLY};BYMONTHDAY=${days.join(",")};BYSETPOS=-1` : MONTHLY;
}

/** A form to create a task with this id. It stays open until the service has accepted the task. */
export function NewTask({ id, close }: { id: string; close: () => void }) {
  const [errors, setErrors] = useState<Record<string, string>>({});
  const [busy, setBusy] = useState(false);
  const [recurring, setRecurring] = useState(false);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const task = given(form);
    const rule = String(new FormData(form).get("rule") ?? "");
    setBusy(true);
    setErrors({});
    try {
      if (rule) {
        const { due: start, ...data } = task;
        const recurs = await again<Recurrence>(`/api/notification/recurrences/${id}`, {
          method: "PUT",
          body: {
            rule: rule === MONTHLY ? inEveryMonth(start ? new Date(start) : new Date()) : rule,
            timezone: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC",
            ...(start ? { start } : {}),
            command: { type: "task.create", data },
          },
        });
        close();
        showRecurrence(recurs);
        tell(`Created recurring task: ${task.title}`);
        return;
      }
      await change("task.create", { id, ...task }, draft(id, task), undefined, close);
      tell(`Created: ${task.title}`);
    } catch (error) {
      if (error instanceof Problem && error.status === 400) setErrors(error.fields);
      tellProblem(error, "Could not create the task");
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog
      title="New task"
      close={close}
      footer={
        <>
          <button type="button" class="button" onClick={close}>
            Cancel
          </button>
          <button type="submit" form="new" class="button primary" disabled={busy}>
            Create
          </button>
        </>
      }
    >
      <form id="new" class="stack" onSubmit={submit}>
        <TaskFields task={{}} errors={errors} />
        <Field label="How often">
          <select
            class="input"
            name="rule"
            onChange={(event) => setRecurring(event.currentTarget.value !== "")}
          >
            {RULES.map(({ name, rule }) => (
              <option key={name} value={rule}>
                {name}
              </option>
            ))}
          </select>
        </Field>
        {recurring && (
          <p class="quiet small">
            Tasks are created from the date in “Due” on, or from now if it is empty. They have no due date
            themselves.
          </p>
        )}
      </form>
    </Dialog>
  );
}
