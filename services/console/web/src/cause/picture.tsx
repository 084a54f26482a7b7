import { Bell, Circle, CornerUpLeft, Play, Terminal, Workflow } from "lucide-preact";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { duration, precise } from "../lib/format";
import { Tag } from "../parts/basics";
import { Details } from "./details";
import type { Chain, Kind, Node } from "./model";
import { type Scale, scaleOf } from "./scale";

interface Row {
  node: Node;
  depth: number;
  /** For each level above, whether its line continues below this row. */
  lines: boolean[];
  last: boolean;
}

const ICONS: Record<Kind, typeof Circle> = {
  command: Terminal,
  event: Circle,
  saga: Workflow,
  step: Play,
  undo: CornerUpLeft,
  note: Bell,
  message: Bell,
};
const NAMES: Record<Kind, string> = {
  command: "command",
  event: "event",
  saga: "saga",
  step: "step",
  undo: "compensation",
  note: "notification",
  message: "message",
};
const TICK = 76;
const LEGEND: Kind[] = ["command", "event", "saga", "step", "undo", "note"];

/** The chain as a tree of causes, with each node at its time. */
export function Picture({
  chain,
  only,
  kind,
  id,
}: {
  chain: Chain;
  only: string | null;
  kind: string;
  id: string;
}) {
  const rows = useMemo(() => flatten(chain.roots), [chain]);
  const list = useRef<HTMLDivElement>(null);
  const width = useWidth(list);
  const scale = useMemo(
    () =>
      scaleOf(
        rows.map((row) => row.node),
        TICK / width,
      ),
    [rows, width],
  );
  const [chosen, choose] = useState<string | null>(null);
  const at = rows.findIndex((row) => row.node.key === chosen);
  const selected = rows[at]?.node ?? null;

  const move = (event: KeyboardEvent) => {
    const by: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, Home: -rows.length, End: rows.length };
    const step = by[event.key];
    if (event.key === "Escape") choose(null);
    if (step === undefined) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(rows.length - 1, at + step));
    choose(rows[next]?.node.key ?? null);
    list.current?.querySelectorAll<HTMLElement>("[data-row]")[next]?.focus();
  };

  const failures = rows.filter((row) => row.node.tone === "bad").length;
  return (
    <div class="picture" data-open={selected !== null}>
      <header class="row wrap">
        <h2 class="cut">
          {kind} <code class="subject">{id}</code>
        </h2>
        {chain.running && <Tag tone="accent">in progress</Tag>}
        <span class="quiet small number">
          {chain.size} {chain.size === 1 ? "item" : "items"} in {duration(chain.to - chain.from)}
          {failures > 0 && `, ${failures} failed`}
          {only && `: ${only}`}
        </span>
        <span class="grow" />
        <ul class="legend" aria-label="Legend">
          {LEGEND.map((one) => {
            const Icon = ICONS[one];
            return (
              <li key={one} data-kind={one}>
                <Icon size={12} strokeWidth={2.2} aria-hidden="true" /> {NAMES[one]}
              </li>
            );
          })}
          <li>
            <i class="lag" /> lag until visible
          </li>
        </ul>
      </header>
      <div class="panel chart">
        <div
          class="rows"
          ref={list}
          role="treegrid"
          aria-label="Chain of causes"
          tabIndex={-1}
          onKeyDown={move}
        >
          <Axis scale={scale} from={chain.from} />
          {rows.map((row, index) => (
            <RowView
              key={row.node.key}
              row={row}
              scale={scale}
              from={chain.from}
              end={chain.to}
              chosen={row.node.key === chosen}
              focusable={chosen === null ? index === 0 : row.node.key === chosen}
              choose={() => choose(row.node.key === chosen ? null : row.node.key)}
            />
          ))}
        </div>
      </div>
      {selected && <Details node={selected} from={chain.from} close={() => choose(null)} />}
    </div>
  );
}

function Axis({ scale, from }: { scale: Scale; from: number }) {
  return (
    <div class="axis" role="row">
      <span class="quiet small" role="columnheader">
        what
      </span>
      <span class="track" role="columnheader" aria-label="when">
        {scale.ticks.map((tick) => (
          <span class="tick number" key={tick.at} style={{ left: `${tick.place * 100}%` }}>
            +{duration(tick.at - from)}
          </span>
        ))}
      </span>
    </div>
  );
}

function RowView({
  row,
  scale,
  from,
  end,
  chosen,
  focusable,
  choose,
}: {
  row: Row;
  scale: Scale;
  from: number;
  end: number;
  chosen: boolean;
  focusable: boolean;
  choose: () => void;
}) {
  const { node, depth } = row;
  const Icon = ICONS[node.kind];
  const left = scale.place(node.from);
  const right = scale.place(node.to ?? (node.tone === "running" ? end : node.from));
  const visible = node.visible === null ? null : scale.place(node.visible);
  const took = node.to === null ? null : node.to - node.from;
  const lag = node.visible === null ? null : node.visible - node.from;
  const spoken = `${NAMES[node.kind]} ${node.title}, ${node.about}, after ${duration(node.from - from)}${
    took ? `, took ${duration(took)}` : ""
  }${lag === null ? "" : `, visible after ${duration(lag)}`}${node.tone === "bad" ? ", failed" : ""}`;
  const said = took !== null ? duration(took) : lag !== null ? `+${duration(lag)}` : "";
  const edge = Math.max(right, visible ?? 0);
  return (
    <div
      class="cause-row"
      role="row"
      aria-level={depth + 1}
      aria-selected={chosen}
      data-row
      data-kind={node.kind}
      data-tone={node.tone}
      data-key={node.key}
      tabIndex={focusable ? 0 : -1}
      aria-label={spoken}
      onClick={choose}
      onKeyDown={(event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          choose();
        }
      }}
    >
      <span class="what" role="gridcell">
        {row.lines.map((line, level) => (
          <i key={level} class={line ? "line" : "no-line"} />
        ))}
        {depth > 0 && <i class={row.last ? "branch last" : "branch"} />}
        <Icon
          size={node.kind === "event" ? 10 : 13}
          strokeWidth={2.2}
          fill={node.kind === "event" ? "currentColor" : "none"}
          aria-hidden="true"
        />
        <span class="name cut">{node.title}</span>
        <span class="about cut">{node.about}</span>
      </span>
      <span class="track" role="gridcell" title={precise(new Date(node.from).toISOString())}>
        {scale.gaps.map((gap) => (
          <i
            class="gap"
            key={gap.place}
            style={{ left: `${gap.place * 100}%`, width: `${gap.width * 100}%` }}
          />
        ))}
        {visible !== null && visible > left && (
          <i class="tail" style={{ left: `${left * 100}%`, width: `${(visible - left) * 100}%` }} />
        )}
        {right > left ? (
          <i
            class={`stretch${node.waiting ? " waits" : ""}${node.to === null ? " open" : ""}`}
            style={{ left: `${left * 100}%`, width: `${(right - left) * 100}%` }}
          />
        ) : (
          <i class="point" style={{ left: `${left * 100}%` }} />
        )}
        <span class="said number" style={{ left: `${edge * 100}%` }}>
          {said}
        </span>
      </span>
    </div>
  );
}

/** Return the width of the time axis in pixels. */
function useWidth(box: { current: HTMLElement | null }): number {
  const [width, set] = useState(600);
  useLayoutEffect(() => {
    const track = box.current?.querySelector(".axis .track");
    if (!track) return;
    const observer = new ResizeObserver(() => set(Math.max(200, track.clientWidth)));
    observer.observe(track);
    return () => observer.disconnect();
  }, [box]);
  return width;
}

function flatten(roots: Node[]): Row[] {
  const rows: Row[] = [];
  const walk = (nodes: Node[], depth: number, lines: boolean[]) => {
    nodes.forEach((node, index) => {
      const last = index === nodes.length - 1;
      rows.push({ node, depth, lines, last });
      walk(node.children, depth + 1, depth === 0 ? [] : [...lines, !last]);
    });
  };
  walk(roots, 0, []);
  return rows;
}
