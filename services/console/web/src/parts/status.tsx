import { Moon, Sun, WifiOff } from "lucide-preact";
import type { ComponentChildren } from "preact";
import { connection } from "../lib/live";
import { theme, toggleTheme } from "../lib/theme";
import { IdentityButton } from "./identity";

const NAMES = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  offline: "Offline",
};

/** The bar above a view: its title, its actions, and the state of the live stream. */
export function Bar({ title, children }: { title: ComponentChildren; children?: ComponentChildren }) {
  const dark = theme.value === "dark";
  return (
    <header class="bar">
      <h1 class="cut">{title}</h1>
      <div class="grow" />
      {children}
      <span class="status" data-state={connection.value} role="status">
        <i /> {NAMES[connection.value]}
      </span>
      <button
        type="button"
        class="button plain icon"
        aria-label={dark ? "Use light theme" : "Use dark theme"}
        onClick={toggleTheme}
      >
        {dark ? <Sun size={16} /> : <Moon size={16} />}
      </button>
      <IdentityButton />
    </header>
  );
}

/** Warns above the whole page that its data may be out of date. */
export function ConnectionBar() {
  const state = connection.value;
  if (state !== "offline" && state !== "reconnecting") return null;
  return (
    <div class="notice-bar" data-kind={state} role="alert">
      <WifiOff size={14} />
      {state === "offline"
        ? "You are offline. What you see may be out of date, and changes may not be saved."
        : "The live connection was lost. Reconnecting… What you see may be out of date."}
    </div>
  );
}
