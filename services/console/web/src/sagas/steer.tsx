import { useState } from "preact/hooks";
import { ask } from "../lib/api";
import { may } from "../lib/session";
import type { Saga } from "../lib/types";
import { Field } from "../parts/basics";
import { WithReason } from "../parts/reason";

const ENDED = ["completed", "compensated", "failed"];

interface Operation {
  name: string;
  title: string;
  about: string;
  danger?: boolean;
  fits: (saga: Saga) => boolean;
}

const active = (saga: Saga) => !ENDED.includes(saga.status);
const OPERATIONS: Operation[] = [
  {
    name: "resume",
    title: "Resume",
    about: "The saga continues where it stopped.",
    fits: (saga) => active(saga) && saga.suspended,
  },
  {
    name: "suspend",
    title: "Suspend",
    about: "The saga does nothing more until somebody resumes it.",
    fits: (saga) => active(saga) && !saga.suspended,
  },
  {
    name: "restart",
    title: "Restart",
    about: "For a saga that is stuck. It continues from its recorded history, in a new workflow.",
    fits: (saga) => active(saga) && !saga.suspended,
  },
  {
    name: "cancel",
    title: "Cancel",
    about: "The steps that the saga has done are undone, the last one first.",
    danger: true,
    fits: (saga) => active(saga) && saga.status !== "compensating",
  },
  {
    name: "retry",
    title: "Retry",
    about: "The saga tries again to undo the steps that it could not undo.",
    fits: (saga) => saga.status === "failed" && (saga.remaining?.length ?? 0) > 0,
  },
  {
    name: "terminate",
    title: "Terminate",
    about: "The saga ends at once. Nothing is undone; the saga lists the steps that remain.",
    danger: true,
    fits: active,
  },
];

/** Buttons for what an operator can do with a saga. */
export function Steer({ saga, done }: { saga: Saga; done: () => void }) {
  const [doing, setDoing] = useState<Operation | null>(null);
  const [raising, setRaising] = useState(false);
  if (!may("operator")) return null;
  const path = `/api/saga-orchestrator/sagas/${encodeURIComponent(saga.id)}`;
  return (
    <>
      {active(saga) && saga.status !== "compensating" && (
        <button type="button" class="button" onClick={() => setRaising(true)}>
          Raise event
        </button>
      )}
      {OPERATIONS.filter((one) => one.fits(saga)).map((one) => (
        <button
          type="button"
          key={one.name}
          class={one.danger ? "button danger" : "button"}
          onClick={() => setDoing(one)}
        >
          {one.title}
        </button>
      ))}
      {doing && (
        <WithReason
          title={`${doing.title} this saga`}
          action={doing.title}
          danger={doing.danger ?? false}
          close={() => setDoing(null)}
          run={async (reason) => {
            await ask(`${path}/${doing.name}`, { method: "POST", body: { reason } });
            done();
          }}
        >
          <p class="quiet">{doing.about}</p>
        </WithReason>
      )}
      {raising && (
        <WithReason
          title="Raise an event"
          action="Raise"
          close={() => setRaising(false)}
          run={async (reason, form) => {
            await ask(`${path}/events/${encodeURIComponent(String(form.get("event")))}`, {
              method: "POST",
              body: { reason },
            });
            done();
          }}
        >
          <Field label="Event">
            <input
              class="input"
              name="event"
              required
              pattern="[A-Za-z0-9_\-]+"
              list="raisable"
              defaultValue={saga.waits_for?.[0]}
            />
            <datalist id="raisable">
              {saga.waits_for?.map((name) => (
                <option key={name} value={name} />
              ))}
            </datalist>
          </Field>
        </WithReason>
      )}
    </>
  );
}
