import { effect, signal } from "@preact/signals";
import { ask, onSignedOut, Problem } from "./api";
import type { Role, Session } from "./types";

/** The signed-in user; null if nobody is signed in, undefined while that is not known. */
export const session = signal<Session | null | undefined>(undefined);
export const sessionProblem = signal<Problem | null>(null);
/** Why the latest sign-in failed. */
export const signInProblem = signal<Problem | null>(null);

const RANKS: Record<Role, number> = { viewer: 1, member: 2, operator: 3, "suite-operator": 4 };

/** Whether the user has this role or a higher one. */
export function may(role: Role): boolean {
  const own = session.value?.role;
  return own !== undefined && RANKS[own] >= RANKS[role];
}

/** Find out who is signed in. */
export async function recognise(): Promise<void> {
  try {
    session.value = await ask<Session>("/auth/session");
    sessionProblem.value = null;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status !== 401) sessionProblem.value = error;
    else {
      session.value = null;
      sessionProblem.value = null;
      if (error.kind === "sign-in-failed") signInProblem.value = error;
    }
  }
}

/** Check who is signed in, and reload the page if the user, tenant or role has changed. Throws `Problem`. */
export async function recogniseAgain(): Promise<void> {
  const now = await ask<Session>("/auth/session");
  const was = session.value;
  if (was && identity(now) !== identity(was)) {
    session.value = undefined; // stop showing and following the previous user's data
    location.reload();
  }
}

/** Check the session when another tab, which may be visible beside this one, finds that another user is
 *  signed in. */
export function followOtherTabs(): void {
  const others = new BroadcastChannel("session");
  effect(() => {
    if (session.value !== undefined) others.postMessage(identity(session.value));
  });
  others.onmessage = async (message: MessageEvent<string>) => {
    if (session.value === undefined || identity(session.value) === message.data) return;
    try {
      if (session.value) await recogniseAgain();
      else location.reload();
    } catch (error) {
      // Signed out by now, or unknown: the live stream, or the next look at this tab, checks again.
      if (!(error instanceof Problem)) throw error;
    }
  };
}

function identity(who: Session | null): string {
  return JSON.stringify(who && [who.user, who.tenant, who.role]);
}

onSignedOut(() => {
  session.value = null;
});

/** Become another user; in development only. */
export async function become(user: string, role: Role, tenant: string): Promise<void> {
  await ask("/auth/development", { method: "POST", body: { user, role, tenant } });
  location.reload();
}

/** Return the address of the sign-in, which leads back to the current view. */
export function signInAddress(): string {
  return `/auth/login?next=${encodeURIComponent(location.pathname + location.search)}`;
}
