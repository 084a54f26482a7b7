import { MailX } from "lucide-preact";
import { useState } from "preact/hooks";
import { ask } from "../lib/api";
import { useEvery, useLoad } from "../lib/load";
import type { Page } from "../lib/types";
import { Empty, Failed, Skeleton, Tag, Time } from "../parts/basics";
import { WithReason } from "../parts/reason";
import { VirtualList } from "../parts/virtual";
import { Letter } from "./letter";

export interface DeadLetter {
  id: string;
  kind: "event" | "raw";
  consumer: string;
  stream: string;
  version: number;
  event_type: string;
  reason: string;
  group: string;
  attempts: number;
  trace_id: string | null;
  parked_at: string;
  /** `released`: its replay was asked for, and has not ended. */
  status: string;
  service: string;
}

interface Group {
  group: string;
  service: string;
  letters: DeadLetter[];
}

const ROW = 46;
const SERVICES = ["projector", "saga-orchestrator", "notification", "command"];

/** Load the dead letters of one service. Each service has a request of its own: one that is down or hangs
 *  does not hold back the others. */
function useLetters(service: string) {
  const loaded = useLoad(service, async (signal) => {
    const { items } = await ask<Page<DeadLetter>>(`/api/${service}/dead-letters`, { signal });
    return items.map((one) => ({ ...one, service }));
  });
  return { service, ...loaded };
}

export function DeadLetters() {
  const asked = SERVICES.map((service) => useLetters(service));
  const reload = () => {
    for (const one of asked) one.reload();
  };
  useEvery(3000, reload);
  const [opened, open] = useState<DeadLetter | null>(null);
  const [replaying, replay] = useState<Group | null>(null);
  const groups = grouped(asked.flatMap(({ value }) => value ?? []));
  return (
    <>
      <Away asked={asked} retry={reload} />
      {asked.every(({ value, problem }) => value?.length === 0 && !problem) ? (
        <Empty title="No dead letters" icon={<MailX size={28} strokeWidth={1.5} />}>
          <p>
            An event that a service repeatedly fails to handle is parked here, with all later events of its
            stream. Other streams are not affected.
          </p>
        </Empty>
      ) : (
        groups.map((group) => (
          <section class="panel" key={`${group.service}/${group.group}`} aria-label={group.group}>
            <header>
              <div class="grow">
                <h3>{group.group}</h3>
                <span class="small quiet">{group.service}</span>
              </div>
              <Counts letters={group.letters} />
              <button type="button" class="button" onClick={() => replay(group)}>
                Replay all
              </button>
            </header>
            <div class="list letters" style={{ height: `${group.letters.length * ROW}px` }}>
              <VirtualList
                label="Dead letters"
                items={group.letters}
                rowHeight={ROW}
                keyOf={(letter) => letter.id}
                row={(letter) => (
                  <button type="button" class="pick" onClick={() => open(letter)}>
                    <span class="grow cut">
                      <b>{letter.stream || "unreadable message"}</b>{" "}
                      <span class="quiet">
                        {letter.event_type} v{letter.version}: {letter.reason}
                      </span>
                    </span>
                    {isReleased(letter) && <Tag tone="accent">released</Tag>}
                    <Tag>{letter.consumer}</Tag>
                    <span class="quiet small when">
                      <Time at={letter.parked_at} />
                    </span>
                  </button>
                )}
              />
            </div>
          </section>
        ))
      )}
      {asked.some(({ value, problem }) => !value && !problem) && <Skeleton />}
      {opened && (
        <Letter
          letter={opened}
          close={() => {
            open(null);
            reload();
          }}
        />
      )}
      {replaying && (
        <WithReason
          title="Replay all with this error"
          action={`Replay ${replaying.letters.length}`}
          close={() => replay(null)}
          run={async (reason) => {
            await ask(`/api/${replaying.service}/dead-letters/groups/replay`, {
              method: "POST",
              body: { group: replaying.group, reason },
            });
            reload();
          }}
        >
          <p class="quiet">
            Each sequence is handled again, in order. Events that fail again are parked again.
          </p>
        </WithReason>
      )}
    </>
  );
}

const isReleased = ({ status }: DeadLetter) => status === "released";

function Counts({ letters }: { letters: DeadLetter[] }) {
  const released = letters.filter(isReleased).length;
  const parked = letters.length - released;
  return (
    <>
      {released > 0 && <Tag tone="accent">{released} released</Tag>}
      {parked > 0 && <Tag tone="bad">{parked} parked</Tag>}
    </>
  );
}

/** Says which services' dead letters could not be read, or not read again, and why. */
function Away({ asked, retry }: { asked: ReturnType<typeof useLetters>[]; retry: () => void }) {
  const away = asked.flatMap(({ service, problem, reload }) => (problem ? { service, problem, reload } : []));
  const [first] = away;
  // If all fail, the cause is one: the console itself is down, or the user may not see dead letters.
  if (first && away.length === asked.length) return <Failed problem={first.problem} retry={retry} />;
  return (
    <>
      {away.map(({ service, problem, reload }) => (
        <section key={service} class="stack tight" aria-label={service}>
          <h3>{service}</h3>
          <Failed problem={problem} retry={reload} />
        </section>
      ))}
    </>
  );
}

function grouped(letters: DeadLetter[]): Group[] {
  const groups = new Map<string, Group>();
  for (const letter of letters) {
    const key = `${letter.service}/${letter.group}`;
    const group = groups.get(key) ?? { group: letter.group, service: letter.service, letters: [] };
    group.letters.push(letter);
    groups.set(key, group);
  }
  return [...groups.values()].sort((one, other) => other.letters.length - one.letters.length);
}
