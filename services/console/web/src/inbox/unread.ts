import { signal } from "@preact/signals";
import { ask, Problem, pages } from "../lib/api";
import { listen, onRejoin } from "../lib/live";
import { session } from "../lib/session";
import type { Notice, Page } from "../lib/types";
import { tellProblem } from "../parts/toasts";

export const unread = signal(0);
export const inboxChanged = signal(0);

const SOON = 700;
const EVERY = 20_000;
const PAGE = 100;
const MOST = 1000;
/** The id of the newest unread notice. The count alone does not show that one went and another came. */
let newest: string | undefined;

/** Keep the badge up to date: count after events, and now and then for changes that no event reports. */
export function followInbox(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const soon = () => {
    if (timer === undefined)
      timer = setTimeout(() => {
        timer = undefined;
        refreshUnread();
      }, SOON);
  };
  listen(soon);
  onRejoin(soon);
  setInterval(() => {
    if (document.visibilityState === "visible") refreshUnread();
  }, EVERY);
  refreshUnread();
}

/** Return the path of the user's own inbox. */
export const inbox = () => `/api/notification/inbox/${encodeURIComponent(session.value?.user ?? "")}`;

/** Mark the notices about a hand-over, its request and reminders, as read once the user has answered. */
export async function answered(saga: string): Promise<void> {
  try {
    const { items } = await pages<Notice>(`${inbox()}?unread=true&limit=${PAGE}`, { most: MOST });
    for (const { id, data } of items)
      if (data.saga_id === saga) await ask(`${inbox()}/${id}/read`, { method: "PUT" });
  } catch (error) {
    tellProblem(error, "Could not mark the notifications as read");
  }
  await refreshUnread();
}

export async function refreshUnread(): Promise<void> {
  if (!session.value) return;
  try {
    const found = await ask<Page<Notice> & { unread: number }>(`${inbox()}?unread=true&limit=1`);
    const first = found.items[0]?.id;
    if (found.unread !== unread.value || first !== newest) inboxChanged.value++;
    unread.value = found.unread;
    newest = first;
  } catch (error) {
    // The badge stays as it was; the bar over the page says that the connection is gone.
    if (!(error instanceof Problem)) throw error;
  }
}
