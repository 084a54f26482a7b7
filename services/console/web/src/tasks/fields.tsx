import { fromLocal, toLocal } from "../lib/format";
import type { Task } from "../lib/types";
import { Field } from "../parts/basics";
import { members } from "./store";

export const PRIORITIES = ["low", "normal", "high", "critical"];
/** The end of the last year that the command service accepts. Browsers let users type years of six digits,
 *  which make no valid `Date`. */
const LAST = "9998-12-31T23:59";

export const FIELDS = ["title", "description", "due", "priority", "tags", "assignee"] as const;
export type Name = (typeof FIELDS)[number];

/** The values of a task's form. */
export interface Given {
  title: string;
  description: string | null;
  due: string | null;
  priority: string;
  tags: string[];
  assignee: string | null;
}

export function given(form: HTMLFormElement): Given {
  const data = new FormData(form);
  const text = (name: string) => String(data.get(name) ?? "").trim();
  return {
    title: text("title"),
    description: text("description") || null,
    due: fromLocal(text("due")),
    priority: text("priority"),
    tags: text("tags")
      .split(",")
      .map((tag) => tag.trim())
      .filter(Boolean),
    assignee: text("assignee") || null,
  };
}

/** Return the values of a form in which a task was edited. A field that nobody touched has the task's own
 *  value, because browsers do not keep every text as it is. */
export function edited(form: HTMLFormElement, task: Task): Given {
  const [data, begun, found] = [new FormData(form), filledIn(task), given(form)];
  return Object.fromEntries(
    FIELDS.map((name) => [name, data.get(name) === begun[name] ? task[name] : found[name]]),
  ) as unknown as Given;
}

/** Return the initial values of the fields as browsers hold them: a one-line field has no line breaks, and
 *  those of a text area are all `\n`. */
function filledIn(task: Partial<Task>): Record<Name, string> {
  return {
    title: (task.title ?? "").replace(/[\r\n]/g, ""),
    description: (task.description ?? "").replace(/\r\n?/g, "\n"),
    due: toLocal(task.due ?? null),
    priority: task.priority ?? "normal",
    tags: (task.tags ?? []).join(", ").replace(/[\r\n]/g, ""),
    assignee: task.assignee ?? "",
  };
}

/** Whether two moments are the same to the minute, however they are written. */
export const sameMoment = (one: string | null, other: string | null) =>
  one === other || (one !== null && other !== null && toLocal(one) === toLocal(other));

export function TaskFields({ task, errors }: { task: Partial<Task>; errors: Record<string, string> }) {
  const begun = filledIn(task);
  return (
    <>
      <Field label="Title" error={errors.title}>
        <input
          class="input"
          name="title"
          required
          maxLength={500}
          defaultValue={begun.title}
          aria-invalid={errors.title !== undefined}
        />
      </Field>
      <Field label="Description" error={errors.description}>
        <textarea class="input" name="description" defaultValue={begun.description} />
      </Field>
      <div class="pair">
        <Field label="Due" error={errors.due}>
          <input class="input" type="datetime-local" name="due" max={LAST} defaultValue={begun.due} />
        </Field>
        <Field label="Priority" error={errors.priority}>
          <select class="input" name="priority">
            {PRIORITIES.map((name) => (
              <option key={name} selected={name === begun.priority}>
                {name}
              </option>
            ))}
          </select>
        </Field>
      </div>
      <div class="pair">
        <Field label="Assigned to" error={errors.assignee}>
          <Somebody name="assignee" chosen={begun.assignee} none="unassigned" />
        </Field>
        <Field label="Tags, separated by commas" error={errors.tags}>
          <input class="input" name="tags" defaultValue={begun.tags} />
        </Field>
      </div>
    </>
  );
}

/** A list of the members to choose from. If it `reserves` a place, members without a free one cannot be
 *  chosen. The initial choice is marked at its option, because Preact has no `defaultValue` for a select. */
export function Somebody({
  name,
  chosen,
  none,
  reserves = false,
}: {
  name: string;
  chosen: string;
  none?: string;
  reserves?: boolean;
}) {
  const known = members.value.some((member) => member.id === chosen);
  return (
    <select class="input" name={name} required={none === undefined}>
      {none !== undefined && <option value="">{none}</option>}
      {chosen && !known && (
        <option value={chosen} selected>
          {chosen}
        </option>
      )}
      {members.value.map((member) => (
        <option
          key={member.id}
          value={member.id}
          selected={member.id === chosen}
          disabled={reserves && member.reserved >= member.capacity}
        >
          {member.name ?? member.id} ({member.reserved} of {member.capacity} places taken)
        </option>
      ))}
    </select>
  );
}
