import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

const BEYOND = 6;

/** A list that renders only the rows in sight. All rows have the same height. */
export function VirtualList<T>({
  items,
  rowHeight,
  keyOf,
  row,
  label,
}: {
  items: readonly T[];
  rowHeight: number;
  keyOf: (item: T) => string;
  row: (item: T, index: number) => ComponentChildren;
  label: string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [range, setRange] = useState({ top: 0, height: 800 });
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const measure = () => setRange({ top: element.scrollTop, height: element.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    element.addEventListener("scroll", measure, { passive: true });
    measure();
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", measure);
    };
  }, []);
  const first = Math.max(0, Math.floor(range.top / rowHeight) - BEYOND);
  const last = Math.min(items.length, Math.ceil((range.top + range.height) / rowHeight) + BEYOND);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: an area that scrolls must be reachable by keyboard
    <div class="virtual" ref={box} role="list" aria-label={label} tabIndex={0}>
      <div style={{ height: `${items.length * rowHeight}px` }}>
        {items.slice(first, last).map((item, offset) => (
          <div
            role="listitem"
            aria-setsize={items.length}
            aria-posinset={first + offset + 1}
            key={keyOf(item)}
            style={{ top: `${(first + offset) * rowHeight}px`, height: `${rowHeight}px` }}
          >
            {row(item, first + offset)}
          </div>
        ))}
      </div>
    </div>
  );
}
