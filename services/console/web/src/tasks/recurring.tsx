import { CalendarClock } from "lucide-preact";
import { again, ask } from "../lib/api";
import { moment } from "../lib/format";
import { useEvery, useLoad } from "../lib/load";
import { may } from "../lib/session";
import type { Recurrence } from "../lib/types";
import { Empty, Failed, Scroll, Skeleton, Tag } from "../parts/basics";
import { tellProblem } from "../parts/toasts";
import { dropRecurrence, loadRecurrences, recurrences, showRecurrence } from "./store";

const EVERY = 20_000;

export function Recurring() {
  const loaded = useLoad("recurrences", async (signal) => {
    await loadRecurrences(signal);
    return true;
  });
  useEvery(EVERY, loaded.reload);
  const failed = loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (recurrences.value.length === 0) {
    if (failed) return failed;
    if (!loaded.value) return <Skeleton />;
    return (
      <Empty title="No recurring tasks" icon={<CalendarClock size={28} strokeWidth={1.5} />}>
        <p>To create one, choose in the form of a new task how often it recurs.</p>
      </Empty>
    );
  }
  return (
    <>
      {failed}
      <Scroll label="Recurring tasks" panel>
        <table class="table">
          <thead>
            <tr>
              <th>Task</th>
              <th>Rule</th>
              <th>Next</th>
              <th>
                <span class="hidden">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {recurrences.value.map((one) => (
              <tr key={one.id}>
                <td>{String(one.command.data.title ?? one.command.type)}</td>
                <td>
                  <code>{one.rule}</code> <span class="quiet">{one.timezone}</span>
                  {one.last_error && <div class="small error">The last attempt failed: {one.last_error}</div>}
                </td>
                <td>{one.paused ? <Tag>paused</Tag> : one.next ? moment(one.next) : "none left"}</td>
                <td class="right">{may("member") && <Steer recurrence={one} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function Steer({ recurrence: { id, paused } }: { recurrence: Recurrence }) {
  const path = `/api/notification/recurrences/${id}`;
  const steer = async (call: () => Promise<void>) => {
    try {
      await call();
    } catch (error) {
      tellProblem(error, "Could not change the recurring task");
    }
  };
  const toggle = async () => {
    showRecurrence(await again<Recurrence>(`${path}/${paused ? "resume" : "pause"}`, { method: "POST" }));
  };
  const end = async () => {
    await ask(path, { method: "DELETE" });
    dropRecurrence(id);
  };
  return (
    <span class="row">
      <button type="button" class="button" onClick={() => steer(toggle)}>
        {paused ? "Resume" : "Pause"}
      </button>
      <button type="button" class="button danger" onClick={() => steer(end)}>
        End
      </button>
    </span>
  );
}
