import { signal } from "@preact/signals";
import { LogOut, UserRound } from "lucide-preact";
import { ask } from "../lib/api";
import { become, session } from "../lib/session";
import type { Role } from "../lib/types";
import { Dialog, Face, Field } from "./basics";
import { tellProblem } from "./toasts";

const choosing = signal(false);

const ROLES: { role: Role; does: string }[] = [
  { role: "viewer", does: "can view" },
  { role: "member", does: "can also change tasks" },
  { role: "operator", does: "can also operate the tenant" },
  { role: "suite-operator", does: "can also operate the whole suite" },
];

/** The user, at the foot of the navigation. In development it says that nobody signs in. */
export function Identity() {
  const who = session.value;
  if (!who) return null;
  const about = `${who.role} of ${who.tenant}`;
  return (
    <>
      {who.auth === "development" ? (
        <button type="button" class="dev" onClick={() => (choosing.value = true)}>
          <b>Development: no sign-in</b>
          <span class="row">
            <Face name={who.name} />
            <span class="grow cut">{who.name}</span>
          </span>
          <span class="small cut">{about}</span>
        </button>
      ) : (
        <div class="row">
          <Face name={who.name} />
          <span class="grow cut" title={about}>
            {who.name}
            <br />
            <span class="small quiet">{about}</span>
          </span>
          <button type="button" class="button plain icon" aria-label="Sign out" onClick={signOut}>
            <LogOut size={15} />
          </button>
        </div>
      )}
      {choosing.value && <Choose />}
    </>
  );
}

/** The same for a phone: one button in the bar. */
export function IdentityButton() {
  const who = session.value;
  if (!who) return null;
  const development = who.auth === "development";
  return (
    <button
      type="button"
      class={development ? "button plain only-phone dev-mark" : "button plain icon only-phone"}
      aria-label={development ? `dev: you are ${who.name}. Switch user` : "Sign out"}
      onClick={() => {
        if (development) choosing.value = true;
        else signOut();
      }}
    >
      {development ? "dev" : <UserRound size={16} />}
    </button>
  );
}

async function signOut(): Promise<void> {
  try {
    await ask("/auth/logout", { method: "POST" });
    session.value = null;
  } catch (error) {
    tellProblem(error, "Could not sign you out");
  }
}

function Choose() {
  const who = session.value;
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const given = new FormData(event.target as HTMLFormElement);
    try {
      await become(String(given.get("user")), String(given.get("role")) as Role, String(given.get("tenant")));
    } catch (error) {
      tellProblem(error, "Could not switch user");
    }
  };
  return (
    <Dialog
      title="Switch user"
      close={() => (choosing.value = false)}
      footer={
        <button type="submit" form="choose" class="button primary">
          Switch
        </button>
      }
    >
      <p class="quiet">
        This suite runs with <code>ANNALS_AUTH=development</code>: anybody can act as any user. With{" "}
        <code>ANNALS_AUTH=oidc</code>, users must sign in.
      </p>
      <form id="choose" class="stack" onSubmit={submit}>
        <Field label="User">
          <input class="input" name="user" required pattern="[A-Za-z0-9._~@:\-]+" defaultValue={who?.user} />
        </Field>
        <Field label="Role">
          <select class="input" name="role">
            {ROLES.map(({ role, does }) => (
              <option key={role} value={role} selected={role === who?.role}>
                {role}: {does}
              </option>
            ))}
          </select>
        </Field>
        <Field label="Tenant">
          <input
            class="input"
            name="tenant"
            required
            pattern="[a-z0-9][a-z0-9_\-]*"
            defaultValue={who?.tenant}
          />
        </Field>
      </form>
    </Dialog>
  );
}
