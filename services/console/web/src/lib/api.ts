import type { Data, Page, Written } from "./types";

/** A failed request: the problem details of a service (RFC 9457), or the reason why no answer came. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    detail: string,
    readonly body: Data,
  ) {
    super(detail);
  }

  /** Whether the failure may be temporary, so that the same request may succeed later. */
  get isTemporary(): boolean {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }

  /** What the service expects of each invalid field. An error in an item, such as `tags.0`, is one in its
   *  list. */
  get fields(): Record<string, string> {
    const errors = Array.isArray(this.body.errors) ? (this.body.errors as Data[]) : [];
    return Object.fromEntries(
      errors.map((one) => [String(one.field).replace(/\.\d+(\..*)?$/, ""), String(one.expected)]),
    );
  }
}

export interface Ask {
  method?: string;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** Longer than the console's own timeout for a service, which is 30 s. */
const ANSWER_SECONDS = 45;
const LATE = `no answer came within ${ANSWER_SECONDS} s: a service hangs, or the console is open in too many tabs`;

/** Send a request to the console's own server; `path` begins with `/api/` or `/auth/`. Throws `Problem`. */
export async function ask<T>(
  path: string,
  { method = "GET", body, headers = {}, signal }: Ask = {},
): Promise<T> {
  let answer: Response;
  let text: string;
  let late = false;
  const ending = new AbortController();
  const end = () => ending.abort();
  const timer = setTimeout(() => {
    late = true;
    end();
  }, ANSWER_SECONDS * 1000);
  // Not `AbortSignal.any`, which browsers from 2023 lack.
  if (signal?.aborted) end();
  signal?.addEventListener("abort", end);
  try {
    answer = await fetch(path, {
      method,
      headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: ending.signal,
    });
    text = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "unreachable", late ? LATE : "the console cannot be reached", {});
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
  if (answer.status === 204) return undefined as T;
  const parsed = parse(text);
  // A service that dies while it answers leaves the headers, and part of the body or none.
  if (parsed === undefined && answer.headers.get("content-type")?.includes("json"))
    throw new Problem(0, "unreachable", "the connection broke off during the answer", {});
  if (answer.ok) return parsed as T;
  if (answer.status === 401) signedOut();
  const problem = (typeof parsed === "object" && parsed !== null ? parsed : {}) as Data;
  throw new Problem(
    answer.status,
    String(problem.type ?? "").replace("urn:annals:problem:", ""),
    String(problem.detail ?? problem.message ?? (text.slice(0, 300) || answer.statusText)),
    problem,
  );
}

const RETRIES = 4;
export const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Return a random id. Over plain HTTP, browsers have no `crypto.randomUUID`. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Idempotency keys of the commands whose outcome is unknown, by the content of the command. */
const unknown = new Map<string, string>();

/** Send a command. Its idempotency key makes it safe to send again when no answer came. When the user then
 *  submits the same command once more, it has the same key. */
export async function command(type: string, data: unknown, version?: number): Promise<Written> {
  const asked = JSON.stringify([type, data, version]);
  const key = unknown.get(asked) ?? newId();
  try {
    const written = await again<Written>(`/api/command/commands/${type}`, {
      method: "POST",
      body: data,
      headers: {
        "idempotency-key": key,
        ...(version === undefined ? {} : { "if-match": `"${version}"` }),
      },
    });
    unknown.delete(asked);
    return written;
  } catch (error) {
    if (error instanceof Problem && error.isTemporary) unknown.set(asked, key);
    else unknown.delete(asked);
    throw error;
  }
}

/** Send a request, and retry it after temporary failures. Only for requests that take effect at most once. */
export async function again<T>(path: string, given: Ask): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask<T>(path, given);
    } catch (error) {
      if (!(error instanceof Problem && error.isTemporary) || attempt > RETRIES) throw error;
      await pause(250 * 2 ** attempt);
    }
  }
}

/** Fetch the pages of a query until there are no more, or `most` rows are there, and join their items. `seen`
 *  receives the items of each page as it arrives. All other properties are those of the last page. */
export async function pages<T, P extends Page<T> = Page<T>>(
  path: string,
  { most, signal, seen }: { most: number; signal?: AbortSignal; seen?: (items: T[]) => void },
): Promise<P> {
  const all: T[] = [];
  let page: P | undefined;
  do {
    const url: string = page?.next
      ? `${path}${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(page.next)}`
      : path;
    page = await ask<P>(url, signal ? { signal } : {});
    all.push(...page.items);
    seen?.(page.items);
  } while (page.next && all.length < most);
  return { ...page, items: all };
}

/** Return the path with a query string. Parameters that are undefined, null or empty are left out. */
export function query(path: string, parameters: Record<string, string | number | undefined | null>): string {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== undefined && value !== null && value !== "",
  );
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text ? `${path}?${text}` : path;
}

let signedOut: () => void = () => {};

/** Register what to do when an answer says that nobody is signed in. */
export function onSignedOut(call: () => void): void {
  signedOut = call;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
