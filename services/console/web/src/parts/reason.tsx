import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Problem } from "../lib/api";
import { Dialog, Field } from "./basics";
import { tell } from "./toasts";

/** A dialog that asks an operator for a reason and then runs an operation. The audit trail keeps both. */
export function WithReason({
  title,
  action,
  danger,
  children,
  run,
  close,
}: {
  title: string;
  action: string;
  danger?: boolean;
  children?: ComponentChildren;
  run: (reason: string, form: FormData) => Promise<unknown>;
  close: () => void;
}) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    setBusy(true);
    try {
      await run(String(form.get("reason")).trim(), form);
      tell(`${title}: done`);
      close();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={title}
      close={close}
      footer={
        <>
          <button type="button" class="button" onClick={close}>
            Go back
          </button>
          <button
            type="submit"
            form="reason"
            class={danger ? "button danger" : "button primary"}
            disabled={busy}
          >
            {action}
          </button>
        </>
      }
    >
      <form id="reason" class="stack" onSubmit={submit}>
        {children}
        <Field label="Reason (kept in the audit trail)">
          <input class="input" name="reason" required maxLength={200} autoFocus autocomplete="off" />
        </Field>
        {problem && (
          <div class="problem" role="alert">
            {problem.message}
            {Object.entries(problem.fields).map(([field, expected]) => (
              <span key={field}>
                {field}: {expected}
              </span>
            ))}
          </div>
        )}
      </form>
    </Dialog>
  );
}
