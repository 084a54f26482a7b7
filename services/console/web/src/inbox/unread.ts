import { signal } from "@preact/signals";
import { ask, Problem } from "../lib/api";
import { listen, onRejoin } from "../lib/live";
import { session } from "../lib/session";
import type { Notice, Page } from "../lib/types";

export const unread = signal(0);
export const inboxChanged = signal(0);

const SOON = 700;
const EVERY = 20_000;
/** The newest that is unread: as many may be so as before, and others. */
let newest: string | undefined;

/** Keep the badge up to date: look when something happened, and now and then, for what no event tells. */
export function followInbox(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const soon = () => {
    if (timer === undefined)
      timer = setTimeout(() => {
        timer = undefined;
        count();
      }, SOON);
  };
  listen(soon);
  onRejoin(soon);
  setInterval(() => {
    if (document.visibilityState === "visible") count();
  }, EVERY);
  count();
}

export async function count(): Promise<void> {
  const user = session.value?.user;
  if (!user) return;
  try {
    const found = await ask<Page<Notice> & { unread: number }>(
      `/api/notification/inbox/${encodeURIComponent(user)}?unread=true&limit=1`,
    );
    const first = found.items[0]?.id;
    if (found.unread !== unread.value || first !== newest) inboxChanged.value++;
    unread.value = found.unread;
    newest = first;
  } catch (error) {
    // The badge stays as it was; the bar over the page says that the connection is gone.
    if (!(error instanceof Problem)) throw error;
  }
}
