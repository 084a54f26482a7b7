import { useState } from "preact/hooks";

export interface Point {
  time: number;
  value: number | null;
}

const WIDTH = 600;
const HEIGHT = 96;

/** A line chart of the last minutes. An unknown value is a gap in the line, not a zero. */
export function Chart({
  points,
  label,
  format,
  tone = "accent",
  span,
}: {
  points: Point[];
  label: string;
  format: (value: number) => string;
  tone?: string;
  span: number;
}) {
  const [hovered, hover] = useState<number | null>(null);
  const known = points.filter((point): point is { time: number; value: number } => point.value !== null);
  const most = Math.max(...known.map((point) => point.value), 0);
  const top = most === 0 ? 1 : most * 1.15;
  const end = points[points.length - 1]?.time ?? 0;
  const x = (time: number) => WIDTH - ((end - time) / span) * WIDTH;
  const y = (value: number) => HEIGHT - (value / top) * (HEIGHT - 4) - 1;
  const last = known[known.length - 1];
  const shown = hovered === null ? last : nearest(known, end - span * (1 - hovered));
  const { curve, area } = paths(points, x, y);
  return (
    <figure class="chart-card" style={{ "--tone": `var(--${tone})` }}>
      <figcaption>
        <span class="small quiet">{label}</span>
        <b class="number">{shown ? format(shown.value) : "–"}</b>
        <span class="small quiet number at">
          {hovered !== null && shown
            ? `${Math.round(end - shown.time)} s ago`
            : known.length
              ? `peak ${format(most)}`
              : "no data yet"}
        </span>
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${label}: ${last ? format(last.value) : "unknown"} now, peak ${format(most)}`}
        onPointerMove={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          hover((event.clientX - box.left) / box.width);
        }}
        onPointerLeave={() => hover(null)}
      >
        <path class="base" d={`M0,${HEIGHT - 0.5}H${WIDTH}`} />
        <path class="area" d={area} />
        <path class="curve" d={curve} />
        {hovered !== null && shown && <path class="cursor" d={`M${x(shown.time)},0V${HEIGHT}`} />}
      </svg>
    </figure>
  );
}

function paths(points: Point[], x: (time: number) => number, y: (value: number) => number) {
  let curve = "";
  let area = "";
  let last: number | null = null;
  const close = () => {
    if (last !== null) area += `L${last.toFixed(1)},${HEIGHT}Z`;
    last = null;
  };
  for (const point of points) {
    if (point.value === null) {
      close();
      continue;
    }
    const [left, top] = [x(point.time), y(point.value).toFixed(1)];
    // A line of zero length has round ends, and so draws a single measurement as a dot.
    curve += last === null ? `M${left.toFixed(1)},${top}h0` : `L${left.toFixed(1)},${top}`;
    area +=
      last === null
        ? `M${left.toFixed(1)},${HEIGHT}L${left.toFixed(1)},${top}`
        : `L${left.toFixed(1)},${top}`;
    last = left;
  }
  close();
  return { curve, area };
}

function nearest(points: { time: number; value: number }[], time: number) {
  let best = points[0];
  for (const point of points)
    if (best && Math.abs(point.time - time) < Math.abs(best.time - time)) best = point;
  return best;
}
