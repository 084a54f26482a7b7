import { signal } from "@preact/signals";
import { X } from "lucide-preact";
import type { ComponentChildren, RefObject } from "preact";
import { Problem } from "../lib/api";

interface Toast {
  id: number;
  tone: "ok" | "bad";
  text: ComponentChildren;
}

const toasts = signal<Toast[]>([]);
/** The open dialogs, the topmost last. */
export const dialogs = signal<HTMLDialogElement[]>([]);
let last = 0;
const SHOWN = 5000;
const SHOWN_BAD = 12_000;

/** Show a toast. */
export function tell(text: ComponentChildren, tone: Toast["tone"] = "ok"): void {
  const id = ++last;
  toasts.value = [...toasts.value.slice(-3), { id, tone, text }];
  setTimeout(() => drop(id), tone === "ok" ? SHOWN : SHOWN_BAD);
}

/** Show an error as a toast. An error that is no `Problem` is a mistake in the page, and is thrown again. */
export function tellProblem(error: unknown, what: string): void {
  if (!(error instanceof Problem)) throw error;
  tell(
    <span>
      <b>{what}</b>
      <br />
      {error.message}
    </span>,
    "bad",
  );
}

function drop(id: number): void {
  toasts.value = toasts.value.filter((one) => one.id !== id);
}

/** Shows the toasts in the topmost dialog, else in the page. Outside an open dialog, everything is inert. */
export function Toasts({ dialog }: { dialog?: RefObject<HTMLDialogElement> }) {
  const shown = dialogs.value.at(-1) === dialog?.current ? toasts.value : [];
  return (
    <div class="toasts" role="status" aria-live="polite">
      {shown.map((one) => (
        <div class="toast" data-tone={one.tone} key={one.id}>
          <div class="grow">{one.text}</div>
          <button type="button" class="button plain icon" aria-label="Dismiss" onClick={() => drop(one.id)}>
            <X size={14} />
          </button>
        </div>
      ))}
    </div>
  );
}
