"""The `lanes`, `export` and `import` commands, which are about the event store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from annals_cli.files import STDOUT, broken_off, written_whole
from annals_cli.lines import lines
from annals_cli.output import notes, told
from annals_cli.session import session
from annals_cli.sidecar import Exit, Failed, Sidecar

_CHUNK_BYTES = 800_000
_CHUNK_LINES = 256
# Of first commits. Their streams' states may take as much again, and a sidecar accepts 4 MiB by default.
_LARGE_BEGINNING = 2_000_000


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(lanes)
    app.command("export")(export)
    app.command("import")(import_)


def lanes(context: typer.Context) -> None:
    """List the lanes of the store: who writes them, how long they are, how much waits for the broker."""
    given = session(context)
    answer = given.sidecar.get("command", "store/lanes")
    columns = ("lane", "owner", "tail", "published", "backlog")
    given.output.table(answer, answer["items"], columns, empty="no lane was leased yet")


def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="where to; - for standard output")],
    with_keys: Annotated[
        bool, typer.Option(help="with the wrapped keys of personal data: such a backup undoes later erasures")
    ] = False,
) -> None:
    """Write every stream of all tenants, and the definitions of the read models, to a file."""
    given = session(context)
    definitions: list[dict[str, Any]] = []
    unknown: Failed | None = None
    try:
        definitions = _definitions(given.sidecar)
    except Failed as failed:  # a backup is needed most when a service is away
        unknown = failed
    total = sum(lane["tail"] for lane in given.sidecar.get("command", "store/lanes")["items"])
    end: dict[str, Any] | None = None
    beginning = 0
    with (
        given.sidecar.stream("command", "store/export", keys="true" if with_keys else None) as answer,
        written_whole(file) as out,
        given.output.progress() as progress,
    ):
        bar = progress.add_task("export", total=total)
        out.write(json.dumps({"read_models": definitions}).encode() + b"\n")
        for line in lines(answer.iter_bytes()):
            out.write(line)
            if line.startswith(b'{"end"'):
                end = json.loads(line)["end"]
            elif line.startswith(b'{"failed"'):
                raise Failed(f"the export was broken off: {json.loads(line)['failed']}", Exit.UNAVAILABLE)
            elif line.startswith(b'{"lane"'):
                progress.advance(bar)
                beginning += len(line) if _begins_lane(line) else 0
        if end is None:
            raise broken_off(file)
    done = f"{end['events']} events of {end['commits']} commits, of all tenants, in {file}"
    exported = {"file": str(file), "read_models": unknown is None} | end
    given.output.done(exported, done, aside=file == STDOUT)
    if unknown is not None and not given.output.as_json:
        notes.print(told(("The file lacks the definitions of the read models:", "yellow"), f" {unknown}"))
    if beginning > _LARGE_BEGINNING and not given.output.as_json:
        size = f"{beginning / 1_000_000:.1f} MB"
        large = f"The first commits of the lanes take {size}, and an import sends them in one request."
        notes.print(told((large, "yellow"), " It may need sidecars with a larger --max-body-size."))


def import_(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="an export; a file, as it is read twice", exists=True, dir_okay=False)
    ],
) -> None:
    """Fill an empty store from an export, for all tenants. An import that broke off may be run again."""
    given = session(context)
    with file.open("rb") as source:
        if not source.seekable():
            raise Failed(
                f"{file} is not a file: it is read twice, so that nothing is sent of an altered one",
                Exit.USAGE,
            )
        definitions, end = _checked(source)
        source.seek(0)
        source.readline()  # of the definitions, which the store does not take
        taken = 0
        with given.output.progress() as progress:
            bar = progress.add_task("import", total=end["commits"])
            for chunk in _chunks(source):
                taken += given.sidecar.call(
                    "POST",
                    "command",
                    "store/import",
                    content=b"".join(chunk),
                    headers={"content-type": "application/x-ndjson"},
                    seconds=120,
                )["commits"]
                progress.advance(bar, sum(line.startswith(b'{"lane"') for line in chunk))
    changed: list[str] | None = None
    unknown = "the export was made without the projector"
    try:
        changed = _changed(given.sidecar, definitions)
    except Failed as failed:  # a restore may require the projector to be stopped
        unknown = str(failed)
    answer = {"commits": end["commits"], "taken": taken, "changed_read_models": changed}
    given.output.done(
        answer,
        f"{end['events']} events of {end['commits']} commits are in the store ({taken} commits were new); "
        "the read models fill by themselves, unless they are left over from another store. "
        f"Verify it: {given.line('audit', 'verify')}",
    )
    if given.output.as_json:
        return
    if changed is None:
        notes.print(
            told(("It is not known whether read models changed since the export:", "yellow"), f" {unknown}")
        )
    elif changed:
        notes.print(told(("Changed since the export:", "yellow"), f" {', '.join(changed)}"))


def _checked(source: BinaryIO) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the definitions of the read models in an export's first line, and what its last line says.

    Raises Failed unless these lines are whole, and the last one fits the lines between them.
    """
    digest = hashlib.sha256()
    end: dict[str, Any] | None = None
    definitions: dict[str, str] = {}
    for number, line in enumerate(source):
        if number == 0:
            if not line.startswith(b'{"read_models"'):
                raise Failed("this file was not written by annals export", Exit.USAGE)
            try:  # the checksum does not cover this line
                definitions = {one["name"]: one["definition"] for one in json.loads(line)["read_models"]}
            except (ValueError, KeyError, TypeError) as error:
                raise Failed("the file was altered: its first line cannot be read", Exit.USAGE) from error
        elif line.startswith(b'{"end"'):
            with suppress(ValueError):  # half a line is no end
                end = json.loads(line)["end"]
        else:
            digest.update(line)
    if end is None:
        raise Failed("the file was cut off: its last line is missing", Exit.USAGE)
    if not isinstance(end, dict) or not end.keys() >= {"sha256", "commits", "events"}:
        raise Failed("the file was altered: its last line cannot be read", Exit.USAGE)
    if end["sha256"] != digest.hexdigest():
        raise Failed("the file was altered: its checksum does not match", Exit.USAGE)
    return definitions, end


def _chunks(source: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the lines in chunks, the first with the first commit of every lane; see `annals.store.export`."""
    chunk: list[bytes] = []
    size = 0
    beginning = True
    for line in source:
        if line.startswith(b'{"end"'):
            break
        belongs = beginning and (not chunk or _begins_lane(line) or line.startswith(b'{"subject"'))
        full = size + len(line) > _CHUNK_BYTES or len(chunk) >= _CHUNK_LINES
        if chunk and not belongs and (beginning or full):
            yield chunk
            chunk, size, beginning = [], 0, False
        chunk.append(line)
        size += len(line)
    if chunk:
        yield chunk


def _begins_lane(line: bytes) -> bool:
    return line.startswith(b'{"lane"') and b'"seq":1,' in line[:40]


def _definitions(sidecar: Sidecar) -> list[dict[str, Any]]:
    return [
        {"name": one["name"], "version": one["version"], "definition": one["definition"]}
        for one in sidecar.get("projector", "projections")["items"]
    ]


def _changed(sidecar: Sidecar, then: dict[str, str]) -> list[str] | None:
    """Return the read models whose definitions differ from those in the export; None if it has none."""
    now = {one["name"]: one["definition"] for one in _definitions(sidecar)}
    return (
        sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name)) if then else None
    )
