import { effect, signal } from "@preact/signals";
import { ask, onSignedOut, Problem } from "./api";
import type { Role, Session } from "./types";

/** Who one is; null when nobody is signed in, undefined while that is not known. */
export const session = signal<Session | null | undefined>(undefined);
export const sessionProblem = signal<Problem | null>(null);
/** Why one could not be signed in just now. */
export const signInProblem = signal<Problem | null>(null);

const RANKS: Record<Role, number> = { viewer: 1, member: 2, operator: 3, "suite-operator": 4 };

/** Whether one may do what a role may. */
export function may(role: Role): boolean {
  const own = session.value?.role;
  return own !== undefined && RANKS[own] >= RANKS[role];
}

/** Find out who one is. */
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

/** Ask again who one is: whoever became somebody else, in another tab, begins anew here too. Throws Problem. */
export async function recogniseAgain(): Promise<void> {
  const now = await ask<Session>("/auth/session");
  const was = session.value;
  if (was && identity(now) !== identity(was)) {
    session.value = undefined; // nothing more is shown, or followed, of what was theirs
    location.reload();
  }
}

/** Begin anew too where another tab, which may be in sight beside this one, finds out that one is somebody else. */
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
      // Signed out by then, or not known now: whoever looks at this one, or its stream, asks again.
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

/** Be somebody else; in development only. */
export async function become(user: string, role: Role, tenant: string): Promise<void> {
  await ask("/auth/development", { method: "POST", body: { user, role, tenant } });
  location.reload();
}

/** Where to sign in, and come back from. */
export function signInAddress(): string {
  return `/auth/login?next=${encodeURIComponent(location.pathname + location.search)}`;
}
