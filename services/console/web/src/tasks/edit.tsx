import { useRef, useState } from "preact/hooks";
import { Problem } from "../lib/api";
import type { Task } from "../lib/types";
import { Dialog, Scroll } from "../parts/basics";
import { tell, tellProblem } from "../parts/toasts";
import { edited, FIELDS, type Given, type Name, sameMoment, TaskFields } from "./fields";
import { change, nameOf, refresh } from "./store";

/** A form to edit a task as it was when the form opened. If somebody else changes the task meanwhile, the
 *  user decides which changes stay. */
export function EditTask({ task: opened, close }: { task: Task; close: () => void }) {
  // What the changes are compared with. After a save that failed half-way, it contains what was saved.
  const [base, setBase] = useState(opened);
  const saved = useRef(new Set<string>());
  const [filled, setFilled] = useState<Partial<Task>>(opened);
  const [errors, setErrors] = useState<Record<string, string>>({});
  const [conflict, setConflict] = useState<{ mine: Given; theirs: Task } | null>(null);
  const [saving, setSaving] = useState(false);

  const save = async (wanted: Given, from: Task) => {
    setSaving(true);
    setErrors({});
    let position: string | undefined;
    try {
      const asked = commands(wanted, from);
      for (const { shown } of asked) for (const name of Object.keys(shown)) saved.current.delete(name);
      // Each command expects the version that the one before has written.
      let reached = from;
      for (const { type, shown } of asked) {
        const data = type === "task.unassign" ? {} : shown;
        const written = await change(type, { id: from.id, ...data }, shown, reached.version);
        position = written.position;
        reached = { ...reached, ...shown, version: written.version };
        for (const name of Object.keys(shown)) saved.current.add(name);
        setBase(reached);
      }
      close();
      tell(`Saved: ${wanted.title}`);
    } catch (error) {
      if (error instanceof Problem && error.status === 409) await compare(wanted, position);
      else if (error instanceof Problem && error.status === 400) {
        setErrors(error.fields);
        tellProblem(error, part(saved.current) ?? "Could not save the task: check its fields");
      } else {
        tellProblem(error, part(saved.current) ?? "Could not save the task");
      }
    } finally {
      setSaving(false);
    }
  };

  const compare = async (mine: Given, position: string | undefined) => {
    try {
      const theirs = await refresh(opened.id, position);
      if (theirs) setConflict({ mine, theirs });
      else tell("The task was deleted meanwhile", "bad");
    } catch (error) {
      const what = "The task was changed meanwhile, and cannot be read right now";
      tellProblem(error, [part(saved.current), what].filter(Boolean).join(". "));
    }
  };

  return (
    <Dialog
      drawer
      title="Edit task"
      close={close}
      footer={
        !conflict && (
          <>
            <button type="button" class="button" onClick={close}>
              Cancel
            </button>
            <button type="submit" form="edit" class="button primary" disabled={saving}>
              Save
            </button>
          </>
        )
      }
    >
      {conflict ? (
        <Conflict
          base={base}
          mine={conflict.mine}
          theirs={conflict.theirs}
          saved={saved.current}
          keepTheirs={() => {
            setBase(conflict.theirs);
            setConflict(null);
            close();
          }}
          keepMine={(merged) => {
            setBase(conflict.theirs);
            setFilled(merged);
            setConflict(null);
            save(merged, conflict.theirs);
          }}
        />
      ) : (
        <form
          id="edit"
          class="stack"
          onSubmit={(event) => {
            event.preventDefault();
            save(edited(event.currentTarget, base), base);
          }}
        >
          <TaskFields task={filled} errors={errors} />
        </form>
      )}
    </Dialog>
  );
}

/** Say what was saved if only a part was; undefined if nothing was. */
function part(saved: ReadonlySet<string>): string | undefined {
  return saved.size > 0 ? `Only these changes were saved: ${[...saved].join(", ")}` : undefined;
}

/** Return the commands that make the user's changes, each with the fields that it changes. */
function commands(wanted: Given, from: Task): { type: string; shown: Partial<Given> }[] {
  const found: { type: string; shown: Partial<Given> }[] = [];
  const changes: Partial<Given> = {};
  for (const name of ["title", "description", "priority", "tags"] as const) {
    if (!same(name, wanted[name], from[name])) Object.assign(changes, { [name]: wanted[name] });
  }
  if (Object.keys(changes).length > 0) found.push({ type: "task.update", shown: changes });
  const { due, assignee } = wanted;
  if (!sameMoment(due, from.due)) found.push({ type: "task.set_due_date", shown: { due } });
  if (assignee !== from.assignee)
    found.push({ type: assignee === null ? "task.unassign" : "task.assign", shown: { assignee } });
  return found;
}

function same(name: Name, one: unknown, other: unknown): boolean {
  if (name === "due") return sameMoment(one as string | null, other as string | null);
  return JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
}

function Conflict({
  base,
  mine,
  theirs,
  saved,
  keepTheirs,
  keepMine,
}: {
  base: Task;
  mine: Given;
  theirs: Task;
  saved: ReadonlySet<string>;
  keepTheirs: () => void;
  keepMine: (merged: Given) => void;
}) {
  const touchedByMe = FIELDS.filter((name) => !same(name, mine[name], base[name]));
  const touchedByThem = FIELDS.filter((name) => !same(name, theirs[name], base[name]));
  const shown = FIELDS.filter((name) => touchedByMe.includes(name) || touchedByThem.includes(name));
  // The user's value where the user changed something, the stored one elsewhere: no change is lost unseen.
  const merged = Object.fromEntries(
    FIELDS.map((name) => [name, touchedByMe.includes(name) ? mine[name] : theirs[name]]),
  ) as unknown as Given;
  return (
    <section class="conflict" aria-label="Conflict">
      <h3>Somebody else has changed this task</h3>
      <p class="small">
        You edited version {base.version}. The task is now at version {theirs.version}.{" "}
        {part(saved) ?? "None of your changes have been saved"}.
      </p>
      <Scroll label="Changes">
        <table class="table">
          <thead>
            <tr>
              <th>Field</th>
              <th>Before</th>
              <th>Theirs</th>
              <th>Yours</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((name) => (
              <tr key={name}>
                <td>{name}</td>
                <td>{text(name, base[name])}</td>
                <td>{touchedByThem.includes(name) ? <b>{text(name, theirs[name])}</b> : "–"}</td>
                <td>{touchedByMe.includes(name) ? <b>{text(name, mine[name])}</b> : "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      <div class="row wrap">
        <button type="button" class="button primary" onClick={() => keepMine(merged)}>
          Save mine on top of theirs
        </button>
        <button type="button" class="button" onClick={keepTheirs}>
          Discard my changes
        </button>
      </div>
    </section>
  );
}

function text(name: Name, value: unknown): string {
  if (value === null || value === undefined || value === "") return "none";
  if (name === "assignee") return nameOf(String(value));
  if (name === "due") return new Date(String(value)).toLocaleString();
  return Array.isArray(value) ? value.join(", ") || "none" : String(value);
}
