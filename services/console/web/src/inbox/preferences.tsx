import { useState } from "preact/hooks";
import { ask, Problem } from "../lib/api";
import { useLoad } from "../lib/load";
import { session } from "../lib/session";
import { Failed, Field, Scroll, Skeleton } from "../parts/basics";
import { tell, tellProblem } from "../parts/toasts";

interface Subscription {
  events: string;
  channels: string[];
  mine: boolean;
}

interface Prefs {
  subscriptions: Subscription[];
  timezone: string;
  quiet_hours: { start: string; end: string } | null;
  digest_at: string | null;
  email: string | null;
  webhook: { url: string } | null;
}

const EVENTS = [
  { events: "notification.*", name: "Requests and messages to me" },
  { events: "reminder.*", name: "Reminders of due tasks" },
  { events: "task.assigned", name: "Assigned tasks" },
  { events: "task.completed", name: "Completed tasks" },
  { events: "task.*", name: "All changes to my tasks" },
];
const CHANNELS = ["inbox", "email", "webhook"];

export function Preferences() {
  const path = `/api/notification/preferences/${encodeURIComponent(session.value?.user ?? "")}`;
  const loaded = useLoad(path, (signal) => ask<Prefs>(path, { signal }));
  const [errors, setErrors] = useState<Record<string, string>>({});
  const prefs = loaded.value;
  if (loaded.problem) return <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!prefs) return <Skeleton />;

  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const text = (name: string) => String(form.get(name) ?? "").trim();
    // The field shows a time without seconds: one that was not changed keeps them.
    const clock = (name: string, was: string | undefined) =>
      text(name) === was?.slice(0, 5) ? was : text(name);
    const ticked = (events: string) => CHANNELS.filter((channel) => form.has(`${events}/${channel}`));
    // There may be several subscriptions to the same events, with and without `mine`, which the form does not
    // show. Each keeps its `mine`, and those of its channels that are still ticked.
    const kept = prefs.subscriptions
      // Stored before the service refused subscriptions to sagas' events. They had no effect, and with them
      // the whole form would be refused.
      .filter((one) => !one.events.startsWith("saga."))
      .map((one) =>
        EVENTS.some(({ events }) => events === one.events)
          ? { ...one, channels: one.channels.filter((channel) => ticked(one.events).includes(channel)) }
          : one,
      );
    const added = EVENTS.map(({ events }) => {
      const already = kept.filter((one) => one.events === events).flatMap((one) => one.channels);
      return {
        events,
        channels: ticked(events).filter((channel) => !already.includes(channel)),
        mine: true,
      };
    });
    const body: Record<string, unknown> = {
      subscriptions: [...kept, ...added].filter((one) => one.channels.length > 0),
      timezone: text("timezone") || "UTC",
      quiet_hours:
        text("from") || text("until")
          ? {
              start: clock("from", prefs.quiet_hours?.start) || undefined,
              end: clock("until", prefs.quiet_hours?.end) || undefined,
            }
          : null,
      digest_at: clock("digest", prefs.digest_at ?? undefined) || null,
      email: text("email") || null,
    };
    // A webhook's secret cannot be read back: if none is sent, the stored one stays.
    if (text("webhook"))
      body.webhook = { url: text("webhook"), ...(text("secret") ? { secret: text("secret") } : {}) };
    setErrors({});
    try {
      await ask(path, { method: "PUT", body });
      tell("Preferences saved");
      loaded.reload();
    } catch (error) {
      if (error instanceof Problem && error.status === 400) setErrors(error.fields);
      tellProblem(error, "Could not save your preferences");
    }
  };
  return (
    <form class="prefs" onSubmit={submit}>
      <section class="panel">
        <header>
          <h3>Notify me about</h3>
        </header>
        <Scroll label="Notify me about">
          <table class="table">
            <tbody>
              {EVENTS.map(({ events, name }) => (
                <tr key={events}>
                  <td>
                    {name} <code class="quiet">{events}</code>
                  </td>
                  <td>
                    <span class="checks">
                      {CHANNELS.map((channel) => (
                        <label key={channel}>
                          <input
                            type="checkbox"
                            name={`${events}/${channel}`}
                            defaultChecked={prefs.subscriptions.some(
                              (one) => one.events === events && one.channels.includes(channel),
                            )}
                          />
                          {channel}
                        </label>
                      ))}
                    </span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </section>
      <section class="panel pad stack">
        <div class="pair">
          <Field label="E-mail" error={errors.email}>
            <input class="input" type="email" name="email" defaultValue={prefs.email ?? ""} />
          </Field>
          <Field label="Send one e-mail a day, at" error={errors.digest_at}>
            <input
              class="input"
              type="time"
              name="digest"
              defaultValue={prefs.digest_at?.slice(0, 5) ?? ""}
            />
          </Field>
        </div>
        <div class="pair">
          <Field label="Webhook address" error={errors["webhook.url"]}>
            <input class="input" type="url" name="webhook" defaultValue={prefs.webhook?.url ?? ""} />
          </Field>
          <Field label="Webhook secret (at least 16 characters)" error={errors["webhook.secret"]}>
            <input
              class="input"
              name="secret"
              type="password"
              autocomplete="off"
              minLength={16}
              placeholder={prefs.webhook ? "unchanged if empty" : ""}
            />
          </Field>
        </div>
        <div class="pair">
          <Field label="Quiet hours from" error={errors["quiet_hours.start"]}>
            <input
              class="input"
              type="time"
              name="from"
              defaultValue={prefs.quiet_hours?.start.slice(0, 5) ?? ""}
            />
          </Field>
          <Field label="Quiet hours until" error={errors["quiet_hours.end"]}>
            <input
              class="input"
              type="time"
              name="until"
              defaultValue={prefs.quiet_hours?.end.slice(0, 5) ?? ""}
            />
          </Field>
        </div>
        <Field label="Time zone" error={errors.timezone}>
          <input class="input" name="timezone" defaultValue={prefs.timezone} placeholder="Europe/Berlin" />
        </Field>
      </section>
      <div class="row">
        <button type="submit" class="button primary">
          Save
        </button>
      </div>
    </form>
  );
}
