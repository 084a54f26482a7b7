import { effect, signal } from "@preact/signals";

const KEY = "annals.theme";
const asked = window.matchMedia("(prefers-color-scheme: dark)");

export const theme = signal<"light" | "dark">(
  (localStorage.getItem(KEY) as "light" | "dark" | null) ?? (asked.matches ? "dark" : "light"),
);

asked.addEventListener("change", () => {
  if (localStorage.getItem(KEY) === null) theme.value = asked.matches ? "dark" : "light";
});
effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

export function toggleTheme(): void {
  theme.value = theme.value === "dark" ? "light" : "dark";
  localStorage.setItem(KEY, theme.value);
}
