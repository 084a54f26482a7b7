import { CircleAlert, Inbox } from "lucide-preact";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Problem } from "../lib/api";
import { moment, precise, traceOf } from "../lib/format";
import { session } from "../lib/session";
import type { Json } from "../lib/types";
import { dialogs, Toasts } from "./toasts";

export function Empty({
  title,
  children,
  icon,
}: {
  title: string;
  children?: ComponentChildren;
  icon?: ComponentChildren;
}) {
  return (
    <div class="empty">
      {icon ?? <Inbox size={28} strokeWidth={1.5} />}
      <h2>{title}</h2>
      {children}
    </div>
  );
}

export function Failed({ problem, retry }: { problem: Problem; retry?: () => void }) {
  return (
    <div class="problem" role="alert">
      <div class="row">
        <CircleAlert size={16} />
        <b class="grow">
          {problem.status === 403 ? "You do not have access to this" : "This could not be loaded"}
        </b>
        {retry && (
          <button type="button" class="button" onClick={() => retry()}>
            Try again
          </button>
        )}
      </div>
      <span>{problem.message}</span>
    </div>
  );
}

export function Skeleton({ lines = 6 }: { lines?: number }) {
  return (
    <div class="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, index) => (
        <i key={index} />
      ))}
    </div>
  );
}

/** Holds content that may be wider than the page, and scrolls on its own, also by keyboard. */
export function Scroll({
  label,
  panel,
  children,
}: {
  label: string;
  panel?: boolean;
  children: ComponentChildren;
}) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: an area that scrolls must be reachable by keyboard
    <div class={panel ? "panel scroll" : "scroll"} role="group" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}

/** Buttons that page through a list, which begins with the newest entries. */
export function Turn({
  cursor,
  next,
  turn,
}: {
  cursor: string | null;
  next: string | null | undefined;
  turn: (to: string | null) => void;
}) {
  return (
    <div class="row">
      {cursor && (
        <button type="button" class="button" onClick={() => turn(null)}>
          Newest
        </button>
      )}
      {next && (
        <button type="button" class="button" onClick={() => turn(next)}>
          Older
        </button>
      )}
    </div>
  );
}

export function Time({ at }: { at: string }) {
  return (
    <time dateTime={at} title={precise(at)} class="number">
      {moment(at)}
    </time>
  );
}

export function Tag({ tone, children }: { tone?: string | undefined; children: ComponentChildren }) {
  return (
    <span class="tag" data-tone={tone}>
      {children}
    </span>
  );
}

export function Face({ name }: { name: string }) {
  return (
    <span class="face" aria-hidden="true">
      {name.slice(0, 2)}
    </span>
  );
}

export function Values({ value }: { value: Json }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: an area that scrolls must be reachable by keyboard
    <pre class="json" tabIndex={0}>
      {JSON.stringify(value, null, 2)}
    </pre>
  );
}

/** A link to a trace in Zipkin; only the trace's id if the console knows no Zipkin. */
export function TraceLink({ traceparent, id }: { traceparent?: string | null; id?: string | null }) {
  const trace = id ?? traceOf(traceparent);
  if (!trace) return <span class="quiet">not traced</span>;
  const zipkin = session.value?.zipkin;
  if (!zipkin) return <code>{trace}</code>;
  return (
    <a href={`${zipkin}/zipkin/traces/${trace}`} target="_blank" rel="noreferrer">
      <code>{trace.slice(0, 16)}…</code> in Zipkin
    </a>
  );
}

export function Field({
  label,
  error,
  children,
}: {
  label: string;
  error?: string | undefined;
  children: ComponentChildren;
}) {
  return (
    // biome-ignore lint/a11y/noLabelWithoutControl: the control is among the children
    <label class="field">
      <span>{label}</span>
      {children}
      {error && <em class="field-error">{error}</em>}
    </label>
  );
}

/** A native dialog: the browser keeps the focus inside, and Escape closes it. */
export function Dialog({
  title,
  close,
  drawer,
  footer,
  children,
}: {
  title: ComponentChildren;
  close: () => void;
  drawer?: boolean;
  footer?: ComponentChildren;
  children: ComponentChildren;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  // Selecting text by dragging from inside to outside ends in a click on the dialog too: it must stay open.
  const pressed = useRef(false);
  useEffect(() => {
    const element = dialog.current as HTMLDialogElement;
    element.showModal();
    dialogs.value = [...dialogs.value, element];
    return () => {
      element.close();
      dialogs.value = dialogs.value.filter((one) => one !== element);
    };
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape closes it
    <dialog
      ref={dialog}
      class={drawer ? "drawer" : ""}
      aria-label={typeof title === "string" ? title : undefined}
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
      onPointerDown={(event) => {
        pressed.current = event.target === dialog.current;
      }}
      onClick={(event) => {
        if (pressed.current && event.target === dialog.current) close();
      }}
    >
      <div class="dialog">
        <header>
          <h2>{title}</h2>
          <button type="button" class="button plain icon" aria-label="Close" onClick={close}>
            ✕
          </button>
        </header>
        <div>{children}</div>
        {footer && <footer>{footer}</footer>}
      </div>
      <Toasts dialog={dialog} />
    </dialog>
  );
}
