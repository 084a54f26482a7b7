import { signal } from "@preact/signals";
import { again, ask, Problem } from "../lib/api";
import { may } from "../lib/session";
import type { Saga } from "../lib/types";
import { tell, tellProblem } from "../parts/toasts";
import { answered } from "./unread";

type Event = "accept" | "decline";

/** The hand-overs that the user has answered or is answering. Kept here, because a task and several notices
 *  may ask for the same answer. */
const given = signal<ReadonlySet<string>>(new Set());

/** Buttons to answer a hand-over, for those who may. */
export function Answer({ saga }: { saga: string }) {
  if (!may("member")) return null;
  const disabled = given.value.has(saga);
  return (
    <>
      <button type="button" class="button primary" disabled={disabled} onClick={() => answer(saga, "accept")}>
        Accept
      </button>
      <button type="button" class="button" disabled={disabled} onClick={() => answer(saga, "decline")}>
        Decline
      </button>
    </>
  );
}

async function answer(saga: string, event: Event): Promise<void> {
  given.value = new Set([...given.value, saga]);
  try {
    await again(`/api/saga-orchestrator/sagas/${saga}/events/${event}`, { method: "POST" });
  } catch (error) {
    if (!(await isRecorded(saga, event))) {
      given.value = new Set([...given.value].filter((one) => one !== saga));
      const unknown = error instanceof Problem && error.isTemporary;
      tellProblem(
        error,
        unknown
          ? "Your answer may have arrived: look at the saga before you answer otherwise"
          : "Could not send your answer",
      );
      return;
    }
  }
  tell(event === "accept" ? "Hand-over accepted" : "Hand-over declined: it is being undone");
  await answered(saga);
}

/** Whether the saga's history has the answer. It counts then, even if the reply was lost, or says that the
 *  saga's workflow cannot be reached for now. */
async function isRecorded(id: string, event: Event): Promise<boolean> {
  try {
    const { timeline } = await ask<Saga>(`/api/projector/queries/sagas/${encodeURIComponent(id)}`);
    return timeline?.some((one) => one.type === "saga.event_raised" && one.event === event) ?? false;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return false;
  }
}
