import { useRef } from "preact/hooks";
import { ask } from "../lib/api";
import { count, duration } from "../lib/format";
import { useEvery, useLoad } from "../lib/load";
import { Empty, Failed, Scroll, Skeleton, Tag, Time } from "../parts/basics";
import { Chart } from "./chart";

interface Sample {
  time: number;
  up: Record<string, boolean>;
  [name: string]: number | null | Record<string, boolean>;
}

interface Lanes {
  items: { lane: number; owner: string | null; tail: number; published: number; backlog: number }[];
  backlog: number;
}

const SPAN = 600;
const EVERY = 3000;
const perSecond = (value: number) => `${value < 10 ? value.toFixed(1) : count(Math.round(value))}/s`;
const seconds = (value: number) => duration(value * 1000);
const commits = (value: number) => count(value);

const CHARTS = [
  { name: "commits", label: "Commits", format: perSecond, tone: "accent" },
  { name: "projected", label: "Events projected", format: perSecond, tone: "event" },
  { name: "transitions", label: "Saga transitions", format: perSecond, tone: "saga" },
  { name: "deliveries", label: "Deliveries", format: perSecond, tone: "note" },
  { name: "command_p50", label: "Command latency, median", format: seconds, tone: "accent" },
  { name: "command_p95", label: "Command latency, 95th percentile", format: seconds, tone: "accent" },
  { name: "visible_p95", label: "Lag until visible, 95th percentile", format: seconds, tone: "event" },
  { name: "lag", label: "Commits not yet in the read models", format: commits, tone: "warn" },
  { name: "backlog", label: "Commits not yet published", format: commits, tone: "warn" },
];

export function Overview() {
  const kept = useRef<Sample[]>([]);
  const loaded = useLoad("health", async (signal) => {
    const since = kept.current[kept.current.length - 1]?.time ?? 0;
    const { items } = await ask<{ items: Sample[] }>(`/api/health?since=${since}`, { signal });
    kept.current = [...kept.current, ...items].slice(-SPAN);
    return kept.current;
  });
  const lanes = useLoad("lanes", (signal) => ask<Lanes>("/api/command/store/lanes", { signal }));
  useEvery(EVERY, () => {
    loaded.reload();
    lanes.reload();
  });
  const samples = loaded.value;
  const first = samples?.[0];
  const last = samples?.[samples.length - 1];
  if (!samples && loaded.problem) return <Failed problem={loaded.problem} retry={loaded.reload} />;
  if (!samples) return <Skeleton lines={8} />;
  if (!first || !last) {
    return (
      <Empty title="No measurements yet">
        <p>The first measurements arrive within seconds.</p>
      </Empty>
    );
  }
  const drawn = samples.filter((sample) => sample.time > last.time - SPAN);
  return (
    <>
      <ul class="services" aria-label="Services">
        {Object.entries(last.up).map(([name, up]) => (
          <li key={name} class="panel" data-up={up}>
            <i aria-hidden="true" /> <b class="cut">{name}</b>
            <span class="small quiet">{up ? "responds" : "does not respond"}</span>
          </li>
        ))}
      </ul>
      {loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />}
      {last.time - first.time < SPAN - EVERY / 1000 && (
        <p class="quiet small">
          Measured since <Time at={new Date(first.time * 1000).toISOString()} />, when this console started.
          It keeps the last minutes in memory.
        </p>
      )}
      <div class="charts">
        {CHARTS.map((chart) => (
          <Chart
            key={chart.name}
            label={chart.label}
            format={chart.format}
            tone={chart.tone}
            span={SPAN}
            points={drawn.map((sample) => ({
              time: sample.time,
              value: typeof sample[chart.name] === "number" ? (sample[chart.name] as number) : null,
            }))}
          />
        ))}
      </div>
      <section class="panel">
        <header>
          <h3>Lanes</h3>
          <span class="quiet small">
            which instance writes each lane, and how many commits are not yet published
          </span>
        </header>
        {lanes.problem && <Failed problem={lanes.problem} retry={lanes.reload} />}
        {!lanes.value && !lanes.problem && <Skeleton lines={3} />}
        {lanes.value && (
          <Scroll label="Lanes">
            <table class="table">
              <thead>
                <tr>
                  <th>Lane</th>
                  <th>Written by</th>
                  <th class="right">Commits</th>
                  <th class="right">Published</th>
                  <th class="right">Backlog</th>
                </tr>
              </thead>
              <tbody>
                {lanes.value.items.map((lane) => (
                  <tr key={lane.lane}>
                    <td class="number">{lane.lane}</td>
                    <td>{lane.owner ?? <span class="quiet">nobody</span>}</td>
                    <td class="right number">{count(lane.tail)}</td>
                    <td class="right number">{count(lane.published)}</td>
                    <td class="right">
                      <Tag tone={lane.backlog > 0 ? "warn" : "ok"}>{count(lane.backlog)}</Tag>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        )}
      </section>
    </>
  );
}
