import { BellOff } from "lucide-preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { ask, Problem, pages } from "../lib/api";
import { moment, words } from "../lib/format";
import { useLive, useLoad } from "../lib/load";
import { session } from "../lib/session";
import type { Notice, Page, Saga, Task } from "../lib/types";
import { Empty, Failed, Skeleton, Time } from "../parts/basics";
import { Bar } from "../parts/status";
import { tellProblem } from "../parts/toasts";
import { nameOf } from "../tasks/store";
import { Answer } from "./answer";
import { Preferences } from "./preferences";
import { inbox, inboxChanged, refreshUnread } from "./unread";

const PAGE = 100;
/** The most lookups at a time: what the user does meanwhile must not wait for all of them. */
const AT_A_TIME = 4;
const ASKED_TO_BE_TOLD = "notification.requested";

export function InboxPage({ params }: { params: { tab?: string } }) {
  const preferences = params.tab === "preferences";
  return (
    <>
      <Bar title="Inbox" />
      <main id="main" class="main stack" tabIndex={-1}>
        <nav class="tabs" aria-label="Inbox">
          <Link href="/inbox" aria-current={preferences ? undefined : "page"}>
            Notifications
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
  const path = inbox();
  const [shown, show] = useState(PAGE);
  const loaded = useLoad(path, (signal) =>
    pages<Notice, Page<Notice> & { unread: number }>(`${path}?limit=${PAGE}`, { most: shown, signal }),
  );
  useEffect(loaded.reload, [inboxChanged.value, shown]);
  const items = loaded.value?.items;
  const asking = new Set(items?.map(askedBy));
  // Tasks are kept from load to load: the inbox is loaded often, and hundreds of notices may be shown.
  const known = useRef(new Map<string, Task | null>());
  // The notices are shown before it is known what they are about.
  const about = useLoad(`${path} is about`, async (signal) => {
    const [tasks, sagas] = await Promise.all([
      lookUp<Task>("tasks", items?.map(taskOf) ?? [], signal, known.current),
      lookUp<Saga>("sagas", [...asking], signal),
    ]);
    return { tasks, sagas, asking };
  });
  useEffect(about.reload, [items]);
  useLive((event) => asking.has(event.aggregate_id), about.follow);
  const tasks = about.value?.tasks;
  const mark = async (what: string, method: string) => {
    try {
      await ask(`${path}${what}`, { method });
      loaded.reload();
      await refreshUnread();
    } catch (error) {
      tellProblem(error, "Could not mark the notifications");
    }
  };
  const failed = loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!items) return failed ?? <Skeleton />;
  // A saga that could not be read, perhaps because queries do not see it yet, counts as open: if it is not,
  // the service refuses the answer.
  const open = (notice: Notice) => {
    const saga = askedBy(notice);
    if (saga === null || !about.value?.asking.has(saga)) return false;
    return about.value.sagas.get(saga)?.waits_until !== null;
  };
  if (items.length === 0) {
    return (
      failed ?? (
        <Empty title="No notifications" icon={<BellOff size={28} strokeWidth={1.5} />}>
          <p>
            You are notified here when a task is assigned to you, when somebody asks you to take on a task, or
            when a task is due.
          </p>
        </Empty>
      )
    );
  }
  return (
    <>
      {failed}
      <section class="panel" aria-label="Notifications">
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
                <b>{sentence(notice, tasks?.get(taskOf(notice) ?? "")?.title)}</b>
                {notice.kind === ASKED_TO_BE_TOLD && notice.data.body && (
                  <p class="prose">{String(notice.data.body)}</p>
                )}
                <span class="small quiet">
                  <Time at={notice.created_at} />
                  {typeof notice.data.answer_by === "string" &&
                    `, answer by ${moment(notice.data.answer_by)}`}
                </span>
                <Act notice={notice} open={open(notice)} />
              </div>
              <button
                type="button"
                class="button plain"
                onClick={() => mark(`/${notice.id}/read`, notice.read_at === null ? "PUT" : "DELETE")}
              >
                {notice.read_at === null ? "Mark read" : "Mark unread"}
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

/** Fetch what notices are about, by id, and add it to what was found before: null for what is not there. What
 *  cannot be read is left out; the first answer that the read models are away ends the search. */
async function lookUp<T>(
  what: string,
  about: (string | null)[],
  signal: AbortSignal,
  found = new Map<string, T | null>(),
): Promise<Map<string, T | null>> {
  const ids = new Set(about.filter((id) => id !== null).filter((id) => !found.has(id))).values();
  let away = false;
  const some = async () => {
    for (const id of ids) {
      try {
        found.set(id, await ask<T>(`/api/projector/queries/${what}/${encodeURIComponent(id)}`, { signal }));
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        away ||= error.isTemporary;
        if (error.status === 404) found.set(id, null);
      }
      if (away) return;
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, some));
  return found;
}

function taskOf(notice: Notice): string | null {
  const { task_id, stream } = notice.data;
  if (typeof task_id === "string") return task_id;
  return typeof stream === "string" && stream.startsWith("task-") ? stream.slice(5) : null;
}

/** Return the id of the hand-over that an unread notice asks the user to answer; null for other notices. */
function askedBy({ read_at, data: { kind, saga_id } }: Notice): string | null {
  const asks = kind === "handover_requested" || kind === "handover_reminder";
  return asks && read_at === null && typeof saga_id === "string" ? saga_id : null;
}

function sentence(notice: Notice, about: string | undefined): string {
  const kind = String(notice.data.kind ?? notice.kind);
  const known: Record<string, string> = {
    handover_requested: "You are asked to take on a task",
    handover_withdrawn: "A hand-over was withdrawn",
    handover_reminder: "A hand-over still awaits your answer",
    "task.assigned": assigned(notice),
    "reminder.due": "A task is due",
  };
  if (notice.kind === ASKED_TO_BE_TOLD && !known[kind] && notice.data.title) return String(notice.data.title);
  const named = about ?? notice.data.title;
  const title = named ? `: ${named}` : "";
  return (known[kind] ?? words(kind).replace(/^./, (first) => first.toUpperCase())) + title;
}

/** Say whom a task was assigned to. The previous assignee has this notice too, and so has anybody who
 *  subscribed to everybody's events. */
function assigned({ data: { assignee, previous } }: Notice): string {
  const own = session.value?.user;
  if (typeof assignee !== "string" || assignee === own) return "A task was assigned to you";
  return `${previous === own ? "Your task was reassigned" : "A task was assigned"} to ${nameOf(assignee)}`;
}

function Act({ notice, open }: { notice: Notice; open: boolean }) {
  const task = taskOf(notice);
  const { saga_id } = notice.data;
  return (
    <span class="row wrap">
      {open && typeof saga_id === "string" && <Answer saga={saga_id} />}
      {task && (
        <Link class="button" href={`/tasks?task=${encodeURIComponent(task)}`}>
          View task
        </Link>
      )}
      {typeof saga_id === "string" && (
        <Link class="button plain" href={`/causes/saga/${saga_id}`}>
          View causes
        </Link>
      )}
    </span>
  );
}
