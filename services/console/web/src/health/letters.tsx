import { MailX } from "lucide-preact";
import { useState } from "preact/hooks";
import { ask } from "../lib/api";
import { useEvery, useLoad } from "../lib/load";
import type { Page } from "../lib/types";
import { Empty, Failed, Skeleton, Tag, Time } from "../parts/basics";
import { WithReason } from "../parts/reason";
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
  status: string;
  service: string;
}

interface Group {
  group: string;
  service: string;
  letters: DeadLetter[];
}

const SERVICES = ["projector", "saga-orchestrator", "notification", "command"];

export function DeadLetters() {
  const loaded = useLoad("letters", async (signal) => {
    const found = await Promise.all(
      SERVICES.map(async (service) => {
        const { items } = await ask<Page<DeadLetter>>(`/api/${service}/dead-letters`, { signal });
        return items.map((one) => ({ ...one, service }));
      }),
    );
    return grouped(found.flat());
  });
  useEvery(3000, loaded.reload);
  const [opened, open] = useState<DeadLetter | null>(null);
  const [replaying, replay] = useState<Group | null>(null);
  if (loaded.problem && !loaded.value) return <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!loaded.value) return <Skeleton />;
  return (
    <>
      {loaded.value.length === 0 ? (
        <Empty title="Nothing is parked" icon={<MailX size={28} strokeWidth={1.5} />}>
          <p>
            What a service fails on again and again is parked here, with whatever comes later in its stream.
            All other streams go on.
          </p>
        </Empty>
      ) : (
        loaded.value.map((group) => (
          <section class="panel" key={`${group.service}/${group.group}`} aria-label={group.group}>
            <header>
              <div class="grow">
                <h3>{group.group}</h3>
                <span class="small quiet">{group.service}</span>
              </div>
              <Tag tone="bad">{group.letters.length} parked</Tag>
              <button type="button" class="button" onClick={() => replay(group)}>
                Replay all
              </button>
            </header>
            <ul>
              {group.letters.slice(0, 100).map((letter) => (
                <li key={letter.id}>
                  <button type="button" class="pick" onClick={() => open(letter)}>
                    <span class="grow cut">
                      <b>{letter.stream || "unreadable message"}</b>{" "}
                      <span class="quiet">
                        {letter.event_type} v{letter.version}: {letter.reason}
                      </span>
                    </span>
                    <Tag>{letter.consumer}</Tag>
                    <span class="quiet small when">
                      <Time at={letter.parked_at} />
                    </span>
                  </button>
                </li>
              ))}
            </ul>
          </section>
        ))
      )}
      {opened && (
        <Letter
          letter={opened}
          close={() => {
            open(null);
            loaded.reload();
          }}
        />
      )}
      {replaying && (
        <WithReason
          title="Replay all that failed alike"
          action={`Replay ${replaying.letters.length}`}
          close={() => replay(null)}
          run={async (reason) => {
            await ask(`/api/${replaying.service}/dead-letters/groups/replay`, {
              method: "POST",
              body: { group: replaying.group, reason },
            });
            loaded.reload();
          }}
        >
          <p class="quiet">Each sequence is handled again, in its order. What fails again is parked again.</p>
        </WithReason>
      )}
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
