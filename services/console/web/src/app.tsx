import { Activity, CircleAlert, GitBranch, History, Inbox, ListTodo, LogIn, Workflow } from "lucide-preact";
import type { ComponentChildren } from "preact";
import { useEffect, useErrorBoundary } from "preact/hooks";
import { Link, Route, Switch, useLocation } from "wouter-preact";
import { CausePage } from "./cause/page";
import { HealthPage } from "./health/page";
import { InboxPage } from "./inbox/page";
import { followInbox, unread } from "./inbox/unread";
import { followTime } from "./lib/format";
import { follow } from "./lib/live";
import { recognise, session, sessionProblem, signInAddress, signInProblem } from "./lib/session";
import { Empty, Failed, Skeleton } from "./parts/basics";
import { Identity } from "./parts/identity";
import { ConnectionBar } from "./parts/status";
import { Toasts } from "./parts/toasts";
import { SagasPage } from "./sagas/list";
import { SagaPage } from "./sagas/page";
import { StreamsPage } from "./streams/page";
import { TasksPage } from "./tasks/page";

const PLACES = [
  { path: "/tasks", name: "Tasks", icon: ListTodo },
  { path: "/causes", name: "Causes", icon: GitBranch },
  { path: "/sagas", name: "Sagas", icon: Workflow },
  { path: "/streams", name: "Streams", icon: History },
  { path: "/health", name: "Health", icon: Activity },
  { path: "/inbox", name: "Inbox", icon: Inbox },
];

export function App() {
  const who = session.value;
  if (sessionProblem.value) {
    return (
      <main class="main">
        <Failed problem={sessionProblem.value} retry={recognise} />
      </main>
    );
  }
  if (who === undefined) return <Skeleton />;
  if (who === null) return <SignIn />;
  return <Frame />;
}

function SignIn() {
  return (
    <main class="main">
      <Empty title="Sign in to Annals" icon={<img src="/icon.svg" alt="" width={40} height={40} />}>
        {signInProblem.value && (
          <p class="problem" role="alert">
            {signInProblem.value.message}
          </p>
        )}
        <p>Sign in to see the tasks, sagas and events of your organisation.</p>
        <a class="button primary" href={signInAddress()}>
          <LogIn size={16} /> Sign in
        </a>
      </Empty>
    </main>
  );
}

/** Shows an error in place of a view that fails to render. The navigation to the other views stays. */
function Guarded({ children }: { children: ComponentChildren }) {
  const [location] = useLocation();
  const [error, again] = useErrorBoundary((error) => console.error(error));
  useEffect(() => {
    if (error) again();
  }, [location]);
  if (!error) return children;
  return (
    <main id="main" class="main" tabIndex={-1}>
      <Empty title="This view could not be shown" icon={<CircleAlert size={28} strokeWidth={1.5} />}>
        <p>An unexpected error occurred: {String(error.message ?? error)}</p>
        <button type="button" class="button" onClick={again}>
          Try again
        </button>
      </Empty>
    </main>
  );
}

function Frame() {
  const [location, navigate] = useLocation();
  useEffect(() => {
    follow();
    followInbox();
    followTime();
  }, []);
  useEffect(() => {
    if (location === "/") navigate("/tasks", { replace: true });
    const place = PLACES.find((one) => location.startsWith(one.path));
    document.title = place ? `${place.name} · Annals` : "Annals";
  }, [location, navigate]);
  return (
    <div class="frame">
      <a class="skip" href="#main">
        Skip to content
      </a>
      <aside class="side">
        <Link href="/tasks" class="brand">
          <img src="/icon.svg" alt="" /> Annals
        </Link>
        <nav class="nav" aria-label="Main">
          {PLACES.map(({ path, name, icon: Icon }) => (
            <Link key={path} href={path} aria-current={location.startsWith(path) ? "page" : undefined}>
              <Icon size={17} aria-hidden="true" /> {name}
              {path === "/inbox" && unread.value > 0 && (
                <span class="count">
                  {unread.value > 99 ? "99+" : unread.value}
                  <span class="hidden"> unread</span>
                </span>
              )}
            </Link>
          ))}
        </nav>
        <div class="side-foot">
          <Identity />
        </div>
      </aside>
      <div class="content">
        <ConnectionBar />
        <Guarded>
          <Switch>
            <Route path="/tasks/:view?" component={TasksPage} />
            <Route path="/causes/:kind?/:id?" component={CausePage} />
            <Route path="/sagas" component={SagasPage} />
            <Route path="/sagas/:id" component={SagaPage} />
            <Route path="/streams/:stream?" component={StreamsPage} />
            <Route path="/health/:tab?" component={HealthPage} />
            <Route path="/inbox/:tab?" component={InboxPage} />
            <Route>
              <main class="main">
                <Empty title="Page not found">
                  <p>
                    <Link href="/tasks">Go to tasks</Link>
                  </p>
                </Empty>
              </main>
            </Route>
          </Switch>
        </Guarded>
      </div>
      <Toasts />
    </div>
  );
}
