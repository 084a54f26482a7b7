"""Generates docs/benchmarks.md from docs/benchmarks.json, the results of `make bench`.

`write` writes the page; `check` fails if it does not match the results.
"""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import written

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOUND, PAGE = DOCS / "benchmarks.json", DOCS / "benchmarks.md"

Part = dict[str, Any]

INTRODUCTION = """# Benchmarks

This page is generated from `docs/benchmarks.json`, which `make bench` writes. To repeat the measurements, use
a machine that does nothing else:

```sh
make bench                 # all of it, about 25 minutes
make bench PART=commands   # one part; the others keep their results
```

The parts are {parts}.

All subjects of a part run on one machine, together with the load generator, and on one PostgreSQL with its
durable defaults. At full load, and in the parts `sagas` and `growth`, the subjects take turns, and the tables
show the median of the rounds. At half load, and in the part `cost`, each subject is measured once, one after
the other. The subjects do not do the same work: Annals and "plain Dapr" go through two sidecars, publish each
event over NATS and keep a read model; the libraries store in PostgreSQL and do nothing else. No run fails
because it is slow. [Performance](performance.md) explains the numbers.
"""
SUBJECTS = """
- **noop**: an app that does nothing, called through two sidecars: the upper limit for any app on Dapr.
- **Annals**: the whole suite, in which every consumer takes each event; the notification service schedules
  three reminders of the due date.
- **plain Dapr**: keeps a stream as one list under one key, written with its etag. It makes one publish for
  each event, and its projector one write for each event. It has neither idempotency nor an outbox: a crash
  between its two calls loses an event.
- **pyeventsourcing**: its PostgreSQL infrastructure, behind FastAPI on uvicorn; and, as "threads", without a
  server, driven by threads of its own process.
- **Protean**: Message DB as its event store, behind the same FastAPI. It stores the command beside the event.
- **Emmett**: its PostgreSQL event store, behind Node's own HTTP server.
"""


def _one(part: Part, what: str, name: str) -> dict[str, float]:
    found: dict[str, float] = part["runs"][what][name]
    return found


def goals(found: Part) -> Iterable[tuple[str, str, str, str]]:
    """Yield each goal of the measured parts: its name, the goal, whether it is met, and the result."""
    if commands := found.get("commands"):
        ratio = _one(commands, "many", "Annals")["rate"] / _one(commands, "many", "noop")["rate"]
        yield _goal("commands, relative to empty invocations", ratio, 0.6, "{:.2f}")
        few = commands["clients"]["few"]
        annals = _one(commands, "few", "Annals")["rate"]
        for name in ("pyeventsourcing", "pyeventsourcing, threads"):
            ratio = annals / _one(commands, "few", name)["rate"]
            yield _goal(f"creates/s at {few} clients, relative to {name}", ratio, 2, "{:.2f}")
        half = _one(commands, "half", "Annals")
        ratio = half["p99"] / half["p50"]
        yield _goal("p99 at half load, relative to p50", ratio, 5, "{:.1f}", least=False)
    if loading := found.get("loading"):
        yield _goal("replay from the store", loading["replay"]["rate"], 15_000, "{:,.0f} events/s")
    if rebuild := found.get("rebuild"):
        yield _goal("rebuild of a read model", rebuild["rates"]["rebuild"], 15_000, "{:,.0f} events/s")
    if growth := found.get("growth"):
        sizes = sorted(growth["sizes"], key=int)
        first, last = (growth["sizes"][size] for size in (sizes[0], sizes[-1]))
        between = f"with {int(sizes[-1]):,} events, relative to {int(sizes[0]):,}"
        for name in ("creates", "assigns"):
            yield _goal(f"{name}/s {between}", last[name]["rate"] / first[name]["rate"], 0.9, "{:.2f}")
        yield _goal(f"speed of loading {between}", first["load"] / last["load"], 0.9, "{:.2f}")
    if sagas := found.get("sagas"):
        runs = sagas["runs"]
        ratio = (
            runs["Annals saga, 3 commands, with history"]["rate"] / runs["Dapr workflow, 3 commands"]["rate"]
        )
        yield _goal("sagas, relative to a bare workflow that does the same", ratio, 0.8, "{:.2f}")
    if start := found.get("start"):
        yield _goal("first `make start`, caches warm", start["seconds"]["first"], 15, "{:.1f} s", least=False)


def _goal(
    what: str, value: float, wanted: float, form: str, *, least: bool = True
) -> tuple[str, str, str, str]:
    met = value >= wanted if least else value <= wanted
    sign, figure = "≥" if least else "≤", form.format(wanted)
    return what, f"{sign} {figure}", "met" if met else "**missed**", form.format(value)


def table(head: Iterable[str], rows: Iterable[Iterable[str]], words: int = 1) -> Iterable[str]:
    """Yield a table; its first `words` columns hold text, the others hold figures."""
    cells = list(head)
    yield "| " + " | ".join(cells) + " |"
    yield "|---" * words + "|---:" * (len(cells) - words) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def said(text: str) -> str:
    """Return `text` as one paragraph, wrapped at 110 characters."""
    return textwrap.fill(" ".join(text.split()), 110, break_long_words=False, break_on_hyphens=False) + "\n"


def _fastest_first(runs: Part) -> list[tuple[str, Part]]:
    return sorted(runs.items(), key=lambda each: -each[1]["rate"])


def _latencies(run: dict[str, float]) -> list[str]:
    return [_figure(run[name]) for name in ("p50", "p99", "p999")]


def _figure(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def commands(part: Part) -> Iterable[str]:
    """Yield the section on commands per second, at full load and at half of it."""
    clients = part["clients"]
    yield "## Commands"
    yield SUBJECTS
    titles = {
        "few": f"`task.create`, {clients['few']} clients, full load",
        "many": f"`task.create`, {clients['many']} clients, full load",
        "lives": f"`task.create`, `task.assign`, `task.complete` in turn, {clients['many']} clients",
        "half": "`task.create` at half the rate of full load, sent at fixed times",
    }
    for what, title in titles.items():
        runs = part["runs"][what]
        yield f"### {title}\n"
        if what == "half":
            yield said(
                """A latency is measured from the time when the command was due, not from when a connection
                was free for it. So a subject that is slow for a moment is charged for every command that
                waited."""
            )
        limit, annals = runs["noop"]["rate"], runs["Annals"]["rate"]
        yield from table(
            ["subject", "does", "per second", "/ noop", "Annals / it", "p50 ms", "p99 ms", "p99.9 ms"],
            (
                [
                    name,
                    part["does"][name],
                    _figure(run["rate"]),
                    f"{run['rate'] / limit:.2f}",
                    f"{annals / run['rate']:.2f}",
                    *_latencies(run),
                ]
                for name, run in _fastest_first(runs)
            ),
            words=2,
        )
        yield ""
    yield "### From an event's time to its appearance in the read model, at half load\n"
    yield "For Annals, the figures are upper bounds: the edges of its histogram's buckets.\n"
    yield from table(
        ["subject", "p50 s", "p99 s"],
        ([name, f"{lag['p50']:.3f}", f"{lag['p99']:.3f}"] for name, lag in part["lag"].items()),
    )
    yield "\n### Resident memory afterwards\n"
    yield from table(
        ["process", "MiB"],
        (
            [f"{subject}: {process}", f"{size:.0f}"]
            for subject, processes in part["memory"].items()
            for process, size in processes.items()
        ),
    )


def cost(part: Part) -> Iterable[str]:
    """Yield the section on what a command costs in processor time, traffic, statements and log."""
    yield "## What a command costs besides time\n"
    yield said(
        f"""`task.create` by {part["clients"]} clients. Bytes and packets are all that a command sends over
        loopback: between client, sidecars, app, database and broker, including the projection of its event.
        What the suite does at rest, which takes {part["cores of the suite at rest"]:.2f} of a core, is
        subtracted. Processor time is that of all processes except the load generator. Statements are those
        of the subject's database, including BEGIN and COMMIT; so they are about the round trips to it."""
    )
    yield from table(
        [
            "subject",
            "processor ms",
            "KiB over loopback",
            "packets",
            "SQL statements",
            "KiB of write-ahead log",
        ],
        (
            [
                name,
                f"{sum(each['cpu'].values()):.2f}",
                f"{each['bytes'] / 1024:.1f}",
                f"{each['packets']:.0f}",
                f"{each['statements']:.1f}",
                f"{each['wal'] / 1024:.1f}",
            ]
            for name, each in sorted(part["each"].items(), key=lambda each: sum(each[1]["cpu"].values()))
        ),
    )
    yield "\nThe processor time of a command of Annals, by process:\n"
    taken = part["each"]["Annals"]["cpu"]
    yield from table(
        ["process", "ms"],
        ([name, f"{cpu:.2f}"] for name, cpu in sorted(taken.items(), key=lambda each: -each[1])),
    )


def loading(part: Part) -> Iterable[str]:
    """Yield the section on loading streams, by their length, and on replay."""
    yield "## Loading and replay\n"
    first = next(iter(sorted(part["milliseconds"], key=int)))
    yield from table(
        ["a stream of", "loaded in ms", "/ the shortest"],
        (
            [f"{int(length):,} events", f"{took:.2f}", f"{took / part['milliseconds'][first]:.2f}"]
            for length, took in sorted(part["milliseconds"].items(), key=lambda each: int(each[0]))
        ),
    )
    replay = part["replay"]
    yield ""
    rates = part["transactions"]
    yield said(
        f"""Replay of {replay["events"]:,} events from the store: {replay["rate"]:,.0f}/s. Bare transactions
        of a sidecar, one after the other: {rates["1"]:,.0f} commits/s with one commit in each,
        {rates["16"]:,.0f} commits/s with sixteen."""
    )


def rebuild(part: Part) -> Iterable[str]:
    """Yield the section on rebuilding a read model, and on backup."""
    yield "## Rebuild and backup\n"
    yield f"{part['events']:,} events, one in each commit, in streams of ten.\n"
    yield from table(["what", "events/s"], ([name, f"{rate:,.0f}"] for name, rate in part["rates"].items()))
    yield ""
    yield from table(
        ["commands, 4 clients", "per second", "p50 ms", "p99 ms", "p99.9 ms"],
        ([name, _figure(run["rate"]), *_latencies(run)] for name, run in part["commands"].items()),
    )
    yield ""
    yield from table(
        ["memory, MiB", "at rest", "at most"],
        ([name, f"{one['at rest']:.0f}", f"{one['at most']:.0f}"] for name, one in part["memory"].items()),
    )


def sagas(part: Part) -> Iterable[str]:
    """Yield the section that compares sagas with bare workflows."""
    yield "## Sagas\n"
    yield said(
        f"""{part["concurrent"]} at a time, each timed from its start to its end. Dapr keeps its workflows in
        PostgreSQL, and Temporal's development server in a file of its own. Those with commands send those of
        Annals, through a sidecar."""
    )
    annals = part["runs"]["Annals saga, 3 commands, with history"]["rate"]
    yield from table(
        ["subject", "per second", "Annals / it", "p50 ms", "p99 ms", "p99.9 ms"],
        (
            [name, _figure(run["rate"]), f"{annals / run['rate']:.2f}", *_latencies(run)]
            for name, run in _fastest_first(part["runs"])
        ),
    )


def streams(part: Part) -> Iterable[str]:
    """Yield the section on live streams."""
    yield "## Live streams\n"
    yield from table(
        ["clients of `/stream`", "p50 ms", "p99 ms", "service MiB"],
        (
            [f"{int(number):,}", _figure(one["p50"]), _figure(one["p99"]), f"{one['memory']:.0f}"]
            for number, one in sorted(part["told"].items(), key=lambda each: int(each[0]))
        ),
    )
    each = part["KiB for each client"]
    yield f"\nFrom the command's answer until a client has the event. Each client takes {each:.0f} KiB."


def replicas(part: Part) -> Iterable[str]:
    """Yield the section on several replicas of the command service."""
    yield "## Replicas of the command service\n"
    yield said(
        f"""`task.create`, {part["clients"]} clients. All replicas run on one machine and share its cores."""
    )
    one = part["runs"]["1"]["rate"]
    yield from table(
        [
            "replicas",
            "per second",
            "/ one",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "shares",
            "MiB, sidecars included",
        ],
        (
            [
                number,
                _figure(run["rate"]),
                f"{run['rate'] / one:.2f}",
                *_latencies(run),
                ", ".join(f"{share:.0%}" for share in part["shares"][number]),
                f"{part['memory'][number]:.0f}",
            ]
            for number, run in sorted(part["runs"].items(), key=lambda each: int(each[0]))
        ),
    )


def growth(part: Part) -> Iterable[str]:
    """Yield the section on rates and load times as the store grows."""
    yield "## As the store grows\n"
    yield said(
        f"""Each size has a command service and a database of its own. They run side by side and are measured
        in turn, with {part["clients"]} clients, one sidecar and no projector. SQL fills the stores with
        copies of a task of ten events that the service itself has written; any of these is assigned."""
    )
    sizes = dict(sorted(part["sizes"].items(), key=lambda each: int(each[0])))
    first = next(iter(sizes.values()))
    yield from table(
        [
            "events",
            "creates/s",
            "/ the smallest",
            "p99 ms",
            "assigns/s",
            "/ the smallest",
            "p99 ms",
            "load ms",
        ],
        (
            [
                f"{int(size):,}",
                _figure(one["creates"]["rate"]),
                f"{one['creates']['rate'] / first['creates']['rate']:.2f}",
                _figure(one["creates"]["p99"]),
                _figure(one["assigns"]["rate"]),
                f"{one['assigns']['rate'] / first['assigns']['rate']:.2f}",
                _figure(one["assigns"]["p99"]),
                f"{one['load']:.2f}",
            ]
            for size, one in sizes.items()
        ),
    )


def start(part: Part) -> Iterable[str]:
    """Yield the section on start-up time and memory at rest."""
    yield "## Start, and memory at rest\n"
    took = part["seconds"]
    yield said(
        f"""`make start` until ready, caches warm: {took["first"]:.1f} s the first time, without data;
        {took["again"]:.1f} s again, with data."""
    )
    yield from table(
        ["process", "MiB"],
        [
            *([name, f"{size:.0f}"] for name, size in sorted(part["memory"].items())),
            ["total; shared memory counts in each process", f"{sum(part['memory'].values()):,.0f}"],
        ],
    )


PARTS: dict[str, Callable[[Part], Iterable[str]]] = {
    "commands": commands,
    "cost": cost,
    "loading": loading,
    "growth": growth,
    "replicas": replicas,
    "sagas": sagas,
    "rebuild": rebuild,
    "streams": streams,
    "start": start,
}


def page() -> str:
    """Return the whole page."""
    found = json.loads(FOUND.read_text())
    lines = [INTRODUCTION.format(parts=", ".join(f"`{name}`" for name in PARTS)), "## Goals\n"]
    lines += table(["what", "goal", "", "found"], goals(found), words=3)
    for name, section in PARTS.items():
        if name in found:
            lines += ["", *section(found[name])]
    lines += ["", "## Machine and versions\n"]
    measured = {name: found[name]["measured"] for name in PARTS if name in found}
    lines += table(
        ["part", "at commit", "on", "measured", "load average before"],
        (
            [name, about["commit"], about["machine"], about["at"], f"{about['load']:.1f}"]
            for name, about in measured.items()
        ),
        words=3,
    )
    lines += ["", "With a load average above a few tenths, the machine was doing something else as well."]
    if "commands" in found:
        versions = found["commands"]["versions"]
        lines += ["", said(", ".join(f"{name} {version}" for name, version in versions.items()) + ".")]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(written.run(lambda: {PAGE: page()}, "docs/benchmarks.json", "benchmarks"))
