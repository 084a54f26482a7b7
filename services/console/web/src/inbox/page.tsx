import { BellOff } from "lucide-preact";
import { useEffect, useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { ask, Problem, pages } from "../lib/api";
import { moment, words } from "../lib/format";
import { useLoad } from "../lib/load";
import { may, session } from "../lib/session";
import type { Notice, Page, Task } from "../lib/types";
import { Empty, Failed, Skeleton, Time } from "../parts/basics";
import { Bar } from "../parts/status";
import { tell, tellProblem } from "../parts/toasts";
import { nameOf } from "../tasks/store";
import { Preferences } from "./preferences";
import { count, inboxChanged } from "./unread";

const PAGE = 100;
const MOST_TITLES = 30;
const ASKED_TO_BE_TOLD = "notification.requested";

export function InboxPage({ params }: { params: { tab?: string } }) {
  const preferences = params.tab === "preferences";
  return (
    <>
      <Bar title="Inbox" />
      <main id="main" class="main stack" tabIndex={-1}>
        <nav class="tabs" aria-label="Inbox">
          <Link href="/inbox" aria-current={preferences ? undefined : "page"}>
            Notices
          </Link>
          <Link href="/inbox/preferences" aria-current={preferences ? "page" : undefined}>
            Preferences
          </Link>
        </nav>
        {preferences ? <Preferences /> : <Notices />}
      </main>
    </>
  );
}

function Notices() {
  const path = `/api/notification/inbox/${encodeURIComponent(session.value?.user ?? "")}`;
  const [shown, show] = useState(PAGE);
  const loaded = useLoad(path, async (signal) => {
    const newest = { most: shown, signal };
    const found = await pages<Notice, Page<Notice> & { unread: number }>(`${path}?limit=${PAGE}`, newest);
    return { ...found, titles: await titlesOf(found.items, signal) };
  });
  useEffect(loaded.reload, [inboxChanged.value, shown]);
  const titles = loaded.value?.titles;
  const items = loaded.value?.items;
  const mark = async (what: string, method: string) => {
    try {
      await ask(`${path}${what}`, { method });
      loaded.reload();
      await count();
    } catch (error) {
      tellProblem(error, "It could not be marked");
    }
  };
  const failed = loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!items) return failed ?? <Skeleton />;
  const withdrawn = new Set(
    items.filter(({ data }) => data.kind === "handover_withdrawn").map(({ data }) => data.saga_id),
  );
  // A request and its reminders ask for one answer.
  const answered = async (notice: Notice) => {
    for (const one of items)
      if (one.read_at === null && one.data.saga_id === notice.data.saga_id)
        await mark(`/${one.id}/read`, "PUT");
  };
  if (items.length === 0) {
    return (
      failed ?? (
        <Empty title="Nothing for you" icon={<BellOff size={28} strokeWidth={1.5} />}>
          <p>
            When a task is assigned to you, when somebody asks you to take one on, or when one falls due, it
            says so here.
          </p>
        </Empty>
      )
    );
  }
  return (
    <>
      {failed}
      <section class="panel" aria-label="Notices">
        <header>
          <span class="quiet small number">{loaded.value?.unread} unread</span>
          <button
            type="button"
            class="button"
            onClick={() => mark("/read", "POST")}
            disabled={loaded.value?.unread === 0}
          >
            Mark all as read
          </button>
        </header>
        <ul>
          {items.map((notice) => (
            <li class="notice" key={notice.id} data-unread={notice.read_at === null}>
              <i aria-hidden="true" />
              <div class="stack tight">
                <b>{sentence(notice, titles?.get(taskOf(notice) ?? ""))}</b>
                {notice.kind === ASKED_TO_BE_TOLD && notice.data.body && (
                  <p class="prose">{String(notice.data.body)}</p>
                )}
                <span class="small quiet">
                  <Time at={notice.created_at} />
                  {typeof notice.data.answer_by === "string" &&
                    `, answer by ${moment(notice.data.answer_by)}`}
                </span>
                <Act
                  notice={notice}
                  open={notice.read_at === null && !withdrawn.has(notice.data.saga_id)}
                  answered={() => answered(notice)}
                />
              </div>
              <button
                type="button"
                class="button plain"
                onClick={() => mark(`/${notice.id}/read`, notice.read_at === null ? "PUT" : "DELETE")}
              >
                {notice.read_at === null ? "Read" : "Unread"}
              </button>
            </li>
          ))}
        </ul>
        {loaded.value?.next && (
          <footer>
            <button type="button" class="button" onClick={() => show(shown + PAGE)}>
              Older
            </button>
          </footer>
        )}
      </section>
    </>
  );
}

/** What the tasks are called that the newest notices are about, as far as that can be had. */
async function titlesOf(notices: Notice[], signal: AbortSignal): Promise<Map<string, string>> {
  const ids = [...new Set(notices.map(taskOf))].filter((id) => id !== null).slice(0, MOST_TITLES);
  const titles = new Map<string, string>();
  await Promise.all(
    ids.map(async (id) => {
      try {
        const task = await ask<Task>(`/api/projector/queries/tasks/${encodeURIComponent(id)}`, { signal });
        titles.set(id, task.title);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
      }
    }),
  );
  return titles;
}

function taskOf(notice: Notice): string | null {
  const { task_id, stream } = notice.data;
  if (typeof task_id === "string") return task_id;
  return typeof stream === "string" && stream.startsWith("task-") ? stream.slice(5) : null;
}

function sentence(notice: Notice, about: string | undefined): string {
  const kind = String(notice.data.kind ?? notice.kind);
  const known: Record<string, string> = {
    handover_requested: "You are asked to take a task on",
    handover_withdrawn: "The hand-over was taken back",
    handover_reminder: "A hand-over still waits for your answer",
    "task.assigned": assigned(notice),
    "reminder.due": "A task falls due",
  };
  if (notice.kind === ASKED_TO_BE_TOLD && !known[kind] && notice.data.title) return String(notice.data.title);
  const named = about ?? notice.data.title;
  const title = named ? `: ${named}` : "";
  return (known[kind] ?? words(kind).replace(/^./, (first) => first.toUpperCase())) + title;
}

/** Whom a task was assigned to. Whoever had it before is told too, and whoever asked to be told of everybody's. */
function assigned({ data: { assignee, previous } }: Notice): string {
  const own = session.value?.user;
  if (typeof assignee !== "string" || assignee === own) return "A task was assigned to you";
  return `${previous === own ? "A task that you had" : "A task"} was assigned to ${nameOf(assignee)}`;
}

function Act({ notice, open, answered }: { notice: Notice; open: boolean; answered: () => void }) {
  const task = taskOf(notice);
  const { kind, saga_id } = notice.data;
  const answer = async (event: string) => {
    try {
      await ask(`/api/saga-orchestrator/sagas/${saga_id}/events/${event}`, { method: "POST" });
      tell(event === "accept" ? "Accepted" : "Declined");
      answered();
    } catch (error) {
      tellProblem(error, "Too late, or it did not arrive");
    }
  };
  return (
    <span class="row wrap">
      {open && may("member") && (kind === "handover_requested" || kind === "handover_reminder") && (
        <>
          <button type="button" class="button primary" onClick={() => answer("accept")}>
            Accept
          </button>
          <button type="button" class="button" onClick={() => answer("decline")}>
            Decline
          </button>
        </>
      )}
      {task && (
        <Link class="button" href={`/tasks?task=${encodeURIComponent(task)}`}>
          Look at the task
        </Link>
      )}
      {typeof saga_id === "string" && (
        <Link class="button plain" href={`/causes/saga/${saga_id}`}>
          Why
        </Link>
      )}
    </span>
  );
}
