import { Ban, Check, CornerUpLeft, Hourglass, LoaderCircle, Minus, TriangleAlert, X } from "lucide-preact";
import { duration, precise } from "../lib/format";
import type { Moment, Saga } from "../lib/types";

interface Try {
  from: string;
  to: string | null;
  attempt: number;
  error: string | null;
}

interface Line {
  name: string;
  status: string;
  tries: Try[];
  undo: Try[];
  answer: string | null;
  deadline: string | null;
}

const ICONS: Record<string, typeof Check> = {
  completed: Check,
  running: LoaderCircle,
  waiting: Hourglass,
  compensating: LoaderCircle,
  compensated: CornerUpLeft,
  compensation_failed: TriangleAlert,
  failed: X,
  skipped: Ban,
  pending: Minus,
};

/** Shows each step of a saga on the left, and its compensation on the right. */
export function Diagram({ saga }: { saga: Saga }) {
  const lines = linesOf(saga);
  const undone = lines.some((line) => line.undo.length > 0);
  return (
    <ol class="diagram" data-undone={undone}>
      {lines.map((line) => {
        const Icon = ICONS[line.status] ?? Minus;
        const took = line.tries.length > 0 ? spanOf(line.tries) : null;
        const failed = line.tries.filter((one) => one.error);
        return (
          <li key={line.name} data-step={line.status}>
            <span class="knot">
              <Icon size={14} strokeWidth={2.4} aria-hidden="true" />
            </span>
            <div class="does">
              <div class="row">
                <b class="cut">{line.name}</b>
                <span class="small quiet">{line.status.replace("_", " ")}</span>
              </div>
              <div class="small quiet number">
                {line.tries.length === 0
                  ? "not started"
                  : `${line.tries.length > 1 ? `${line.tries.length} attempts, ` : ""}${took ? duration(took) : saga.ended_at ? "not finished when the saga ended" : "in progress"}`}
                {line.answer && `, ${line.answer}`}
                {line.deadline &&
                  line.status === "waiting" &&
                  !saga.ended_at &&
                  `, until ${precise(line.deadline)}`}
              </div>
              {failed.map((one) => (
                <div class="small error" key={one.attempt}>
                  Attempt {one.attempt}: {one.error}
                </div>
              ))}
            </div>
            {undone && (
              <div class="undoes">
                {line.undo.length > 0 ? (
                  <>
                    <div class="row">
                      <CornerUpLeft size={13} aria-hidden="true" />
                      <b>undone</b>
                    </div>
                    <div class="small quiet number">
                      {line.undo.length > 1 && `${line.undo.length} attempts, `}
                      {spanOf(line.undo) === null ? "in progress" : duration(spanOf(line.undo) ?? 0)}
                    </div>
                    {line.undo
                      .filter((one) => one.error)
                      .map((one) => (
                        <div class="small error" key={one.attempt}>
                          Attempt {one.attempt}: {one.error}
                        </div>
                      ))}
                  </>
                ) : (
                  <span class="small quiet">nothing to undo</span>
                )}
              </div>
            )}
          </li>
        );
      })}
    </ol>
  );
}

function linesOf(saga: Saga): Line[] {
  const lines = new Map<string, Line>(
    saga.steps.map((step) => [
      step.name,
      { name: step.name, status: step.status, tries: [], undo: [], answer: null, deadline: null },
    ]),
  );
  for (const moment of saga.timeline ?? []) {
    const line = moment.step ? lines.get(moment.step) : undefined;
    if (line) add(line, moment);
  }
  return [...lines.values()];
}

function add(line: Line, moment: Moment): void {
  const undoes = moment.compensation === true || moment.type === "saga.step_compensated";
  const tries = undoes ? line.undo : line.tries;
  const attempt = moment.attempt ?? 1;
  switch (moment.type) {
    case "saga.step_started":
    case "saga.waiting":
      tries.push({ from: moment.time, to: null, attempt, error: null });
      line.deadline = moment.deadline ?? line.deadline;
      break;
    case "saga.step_completed":
    case "saga.step_compensated":
    case "saga.step_failed":
    case "saga.resumed": {
      const last = tries.find((one) => one.attempt === attempt && one.to === null) ?? tries[tries.length - 1];
      if (!last) break;
      last.to = moment.time;
      if (moment.error) last.error = moment.error.message;
      if (moment.type === "saga.resumed") {
        line.answer = moment.event ? `${moment.event} by ${moment.user ?? "somebody"}` : "no answer in time";
      }
    }
  }
}

function spanOf(tries: Try[]): number | null {
  const [first, last] = [tries[0], tries[tries.length - 1]];
  return first && last?.to ? new Date(last.to).getTime() - new Date(first.from).getTime() : null;
}
