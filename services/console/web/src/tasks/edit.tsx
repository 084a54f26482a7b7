import { useState } from "preact/hooks";
import { ask, Problem } from "../lib/api";
import type { Task } from "../lib/types";
import { Dialog, Scroll } from "../parts/basics";
import { tell, tellProblem } from "../parts/toasts";
import { type Given, given, sameMoment, TaskFields } from "./fields";
import { change, nameOf, refresh } from "./store";

const FIELDS = ["title", "description", "due", "priority", "tags", "assignee"] as const;
type Name = (typeof FIELDS)[number];

/** Edit a task as it was when one began; whoever changed it meanwhile is not overwritten unasked. */
export function EditTask({ task: opened, close }: { task: Task; close: () => void }) {
  const [base, setBase] = useState(opened);
  const [errors, setErrors] = useState<Record<string, string>>({});
  const [conflict, setConflict] = useState<{ mine: Given; theirs: Task } | null>(null);
  const [saving, setSaving] = useState(false);

  const save = async (wanted: Given, from: Task) => {
    setSaving(true);
    setErrors({});
    try {
      await send(wanted, from);
      close();
      tell(`Saved: ${wanted.title}`);
    } catch (error) {
      if (error instanceof Problem && error.status === 409) {
        const theirs = await ask<Task>(`/api/projector/queries/tasks/${encodeURIComponent(from.id)}`);
        await refresh(from.id);
        setConflict({ mine: wanted, theirs });
      } else if (error instanceof Problem && error.status === 400) {
        setErrors(error.fields);
        tellProblem(error, "Some fields are not as expected");
      } else {
        tellProblem(error, "It could not be saved");
      }
    } finally {
      setSaving(false);
    }
  };

  return (
    <Dialog
      drawer
      title="Edit"
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
          keepTheirs={() => {
            setBase(conflict.theirs);
            setConflict(null);
            close();
          }}
          keepMine={(merged) => {
            setBase(conflict.theirs);
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
            save(given(event.currentTarget), base);
          }}
        >
          <TaskFields task={base} errors={errors} />
        </form>
      )}
    </Dialog>
  );
}

/** What was changed becomes commands, each on the version that the one before made. */
async function send(wanted: Given, from: Task): Promise<void> {
  const { id } = from;
  let version = from.version;
  const changes: Partial<Given> = {};
  for (const name of ["title", "description", "priority", "tags"] as const) {
    if (!same(name, wanted[name], from[name])) Object.assign(changes, { [name]: wanted[name] });
  }
  if (Object.keys(changes).length > 0) {
    version = (await change("task.update", { id, ...changes }, changes, version)).version;
  }
  if (!sameMoment(wanted.due, from.due)) {
    version = (await change("task.set_due_date", { id, due: wanted.due }, { due: wanted.due }, version))
      .version;
  }
  if (wanted.assignee !== from.assignee) {
    const { assignee } = wanted;
    if (assignee === null) await change("task.unassign", { id }, { assignee }, version);
    else await change("task.assign", { id, assignee }, { assignee }, version);
  }
}

function same(name: Name, one: unknown, other: unknown): boolean {
  if (name === "due") return sameMoment(one as string | null, other as string | null);
  return JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
}

function Conflict({
  base,
  mine,
  theirs,
  keepTheirs,
  keepMine,
}: {
  base: Task;
  mine: Given;
  theirs: Task;
  keepTheirs: () => void;
  keepMine: (merged: Given) => void;
}) {
  const touchedByMe = FIELDS.filter((name) => !same(name, mine[name], base[name]));
  const touchedByThem = FIELDS.filter((name) => !same(name, theirs[name], base[name]));
  const shown = FIELDS.filter((name) => touchedByMe.includes(name) || touchedByThem.includes(name));
  // Mine where I changed something, theirs everywhere else: nobody's change is lost unseen.
  const merged = Object.fromEntries(
    FIELDS.map((name) => [name, touchedByMe.includes(name) ? mine[name] : theirs[name]]),
  ) as unknown as Given;
  return (
    <section class="conflict" aria-label="Conflict">
      <h3>Somebody else changed this task meanwhile</h3>
      <p class="small">
        You began with version {base.version}; it is at version {theirs.version} now. Nothing of yours was
        saved yet.
      </p>
      <Scroll label="Changes">
        <table class="table">
          <thead>
            <tr>
              <th>Field</th>
              <th>It was</th>
              <th>They say</th>
              <th>You say</th>
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
          Leave it as it is now
        </button>
      </div>
    </section>
  );
}

function text(name: Name, value: unknown): string {
  if (value === null || value === undefined || value === "") return "nothing";
  if (name === "assignee") return nameOf(String(value));
  if (name === "due") return new Date(String(value)).toLocaleString();
  return Array.isArray(value) ? value.join(", ") || "none" : String(value);
}
