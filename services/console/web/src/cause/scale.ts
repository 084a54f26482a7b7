/** A logarithmic time axis, which shows milliseconds and hours in one picture. Pure. */
import type { Node } from "./model";

export interface Tick {
  at: number;
  place: number;
}

export interface Gap {
  place: number;
  width: number;
  length: number;
}

export interface Scale {
  /** Return the place of a moment on the axis, from 0 to 1. */
  place: (at: number) => number;
  ticks: Tick[];
  /** Long periods in which nothing happened. */
  gaps: Gap[];
}

const LEAST = 0.35;
const LONG = 2000;

/** Build the scale. The time from each moment to the next takes space in proportion to its logarithm: a
 *  longer time stays longer, and a millisecond can still be seen beside a wait of a day. `narrowest` is the
 *  least distance between two ticks, as a share of the axis. */
export function scaleOf(nodes: Node[], narrowest: number): Scale {
  const moments = new Set<number>();
  for (const node of nodes) {
    moments.add(node.from);
    if (node.to !== null) moments.add(node.to);
    if (node.visible !== null && node.visible > node.from) moments.add(node.visible);
  }
  const sorted = [...moments].sort((one, other) => one - other);
  const places = [0];
  for (let index = 1; index < sorted.length; index++) {
    const step = (sorted[index] as number) - (sorted[index - 1] as number);
    places.push((places[index - 1] as number) + LEAST + Math.log10(1 + step));
  }
  const whole = places[places.length - 1] || 1;
  const scaled = places.map((place) => place / whole);

  const place = (at: number): number => {
    let low = 0;
    let high = sorted.length - 1;
    if (high < 0 || at <= (sorted[0] as number)) return 0;
    if (at >= (sorted[high] as number)) return 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((sorted[middle] as number) <= at) low = middle;
      else high = middle;
    }
    const [before, after] = [sorted[low] as number, sorted[high] as number];
    const [start, end] = [scaled[low] as number, scaled[high] as number];
    return start + ((end - start) * (at - before)) / (after - before);
  };

  const gaps: Gap[] = [];
  for (let index = 1; index < sorted.length; index++) {
    const length = (sorted[index] as number) - (sorted[index - 1] as number);
    const width = (scaled[index] as number) - (scaled[index - 1] as number);
    if (length > LONG) gaps.push({ place: scaled[index - 1] as number, width, length });
  }

  const ticks: Tick[] = [];
  for (let index = 0; index < sorted.length; index++) {
    const last = ticks[ticks.length - 1];
    const here = scaled[index] as number;
    if (!last || here - last.place >= narrowest) ticks.push({ at: sorted[index] as number, place: here });
  }
  return { place, ticks, gaps };
}
