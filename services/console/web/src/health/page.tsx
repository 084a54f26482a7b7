import { Link } from "wouter-preact";
import { may } from "../lib/session";
import { Bar } from "../parts/status";
import { Audit } from "./audit";
import { Deliveries } from "./deliveries";
import { DeadLetters } from "./letters";
import { Overview } from "./overview";
import { Projections } from "./projections";

const TABS = [
  { path: "", name: "Overview", view: Overview, operator: false },
  { path: "projections", name: "Read models", view: Projections, operator: false },
  { path: "dead-letters", name: "Dead letters", view: DeadLetters, operator: true },
  { path: "deliveries", name: "Deliveries", view: Deliveries, operator: false },
  { path: "audit", name: "Audit trail", view: Audit, operator: true },
];

export function HealthPage({ params }: { params: { tab?: string } }) {
  const tab = TABS.find((one) => one.path === (params.tab ?? "")) ?? TABS[0];
  const View = tab?.view ?? Overview;
  return (
    <>
      <Bar title="Health" />
      <main id="main" class="main stack health" tabIndex={-1}>
        <nav class="tabs" aria-label="Health">
          {TABS.filter((one) => !one.operator || may("operator")).map((one) => (
            <Link
              key={one.path}
              href={one.path ? `/health/${one.path}` : "/health"}
              aria-current={one === tab ? "page" : undefined}
            >
              {one.name}
            </Link>
          ))}
        </nav>
        <View />
      </main>
    </>
  );
}
