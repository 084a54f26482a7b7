import type { Data, Json } from "../lib/types";
import { Scroll } from "../parts/basics";

/** Fields that change with every event, so that a change in them says nothing. */
const ALWAYS = new Set(["version", "updated_at"]);

/** The fields in which two states differ, side by side. */
export function Difference({ before, now }: { before: Data | null; now: Data | null }) {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(now ?? {})])]
    .filter((name) => !ALWAYS.has(name))
    .filter((name) => JSON.stringify(before?.[name] ?? null) !== JSON.stringify(now?.[name] ?? null))
    .sort();
  if (names.length === 0) return <p class="pad quiet small">No change that queries can see.</p>;
  return (
    <Scroll label="Difference">
      <table class="table">
        <thead>
          <tr>
            <th>Field</th>
            <th>Before</th>
            <th>After</th>
          </tr>
        </thead>
        <tbody>
          {names.map((name) => (
            <tr key={name}>
              <td>{name}</td>
              <td class="was">{text(before?.[name])}</td>
              <td class="is">{text(now?.[name])}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function text(value: Json | undefined): string {
  if (value === undefined || value === null) return "–";
  return typeof value === "string" ? value : JSON.stringify(value);
}
