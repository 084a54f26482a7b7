"""What breaks off during a first start is done again at the next, and never taken for complete."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import resource
import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from annals.free_ports import free_port
from conftest import until
from suite import infra, keys, packages, page, ports, profiles, runtime, supervisor
from suite.infra.passwords import password
from suite.process import Process, Spec
from suite.profiles import DEFAULT_PROFILE, Infrastructure
from suite.suite import Suite

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>org.example</groupId><artifactId>thing</artifactId><version>1</version></project>"""


def _jar() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Main-Class: thing\n" * 4_000)
    return file.getvalue()


JAR = _jar()


class Maven(BaseHTTPRequestHandler):
    """A Maven Central with one artefact, whose connection breaks in the middle of a jar while `cut`."""

    cut = True

    def do_GET(self) -> None:
        body = JAR if self.path.endswith(".jar") else POM.encode()
        if not self.path.endswith((".jar", ".pom")):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:20_000] if self.cut else body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def maven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Maven]]:
    class Here(Maven): ...

    request = requests.request
    monkeypatch.setattr(runtime, "CACHE", tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Here) as server:

        def ask(method: str, url: str, **options: Any) -> requests.Response:
            path = url.partition("/maven2")[2]
            return request(method, f"http://127.0.0.1:{server.server_port}{path}", **options)

        monkeypatch.setattr(requests, "request", ask)
        Thread(target=server.serve_forever, daemon=True).start()
        yield Here
        server.shutdown()


@pytest.mark.parametrize(
    "fetch",
    [
        lambda: [runtime.jar("org.example", "thing", "1", "slim")],
        lambda: runtime.jars("thing", "1", "org.example:thing:1"),
    ],
    ids=["one jar", "jars with what they depend on"],
)
def test_a_download_that_breaks_off_is_begun_anew(
    maven: type[Maven], fetch: Callable[[], list[Path]]
) -> None:
    with pytest.raises(runtime.Missing, match="could not be fetched"):
        fetch()

    maven.cut = False
    (whole,) = fetch()
    assert whole.read_bytes() == JAR

    maven.cut = True  # it must not be asked again
    assert fetch() == [whole]


@contextmanager
def _disk_full() -> Iterator[None]:
    """Files can be created, but nothing can be written to them."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_password_and_keys_that_a_full_disk_did_not_take_are_made_later(tmp_path: Path) -> None:
    secret = tmp_path / "postgres.password"
    for make in (lambda: password(secret), lambda: keys.make(tmp_path)):
        with pytest.raises(OSError, match="File too large"), _disk_full():
            make()

    assert len(password(secret)) > 20
    keys.make(tmp_path)
    for file in (secret, tmp_path / "signing-keys.json", tmp_path / "shared-keys.json"):
        assert file.stat().st_size > 20
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("lost", ["signing-keys.json", "shared-keys.json"])
def test_of_two_key_files_the_one_that_is_there_outlives_the_loss_of_the_other(
    tmp_path: Path, lost: str
) -> None:
    keys.make(tmp_path)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    (tmp_path / lost).unlink()

    with pytest.raises(runtime.Missing, match=f"{lost} is gone.*restore it"):
        keys.make(tmp_path)

    (tmp_path / lost).write_text(before[lost])
    keys.make(tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damaged", ["signing-keys.json", "shared-keys.json"])
@pytest.mark.parametrize("content", [b"", b'{"audit-', b"7", b"\xff"])
def test_a_key_file_that_was_damaged_is_named(tmp_path: Path, damaged: str, content: bytes) -> None:
    """Its sidecar would not start, and only the sidecar's log would say why."""
    keys.make(tmp_path)
    (tmp_path / damaged).write_bytes(content)
    with pytest.raises(runtime.Missing, match=f"{damaged} is damaged.*restore it"):
        keys.make(tmp_path)


def test_keys_that_were_begun_are_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dies_at in range(3):
        home = tmp_path / str(dies_at)
        done: list[Path] = []

        def rename(source: Path, target: Path, dies_at: int = dies_at, done: list[Path] = done) -> None:
            if len(done) == dies_at:
                raise KeyboardInterrupt
            done.append(target)
            os.rename(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", rename)
            with pytest.raises(KeyboardInterrupt):
                keys.make(home)

        keys.make(home)
        private = json.loads((home / "signing-keys.json").read_text())["audit-signing-key"]
        public = json.loads((home / "shared-keys.json").read_text())["audit-public-keys"]
        key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(private))
        assert key.public_key().public_bytes_raw() == base64.b64decode(public)


CREATES = """#!/bin/sh
# As initdb and mariadb-install-db do: what they are known to have been by is there long before they are done.
for one; do
    case "$one" in --datadir=*) data="${one#--datadir=}";; esac
    test "$before" = -D && data="$one"; before="$one"
done
mkdir -p "$data/mysql" && touch "$data/PG_VERSION"
if ! test -e CUT; then echo "the disk is full" >&2; kill -9 $$; fi
touch "$data/whole"
"""


@pytest.mark.parametrize("server", [infra.Postgres, infra.MariaDb])
def test_a_server_whose_creation_broke_off_is_created_anew(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    server: Callable[[Path, int], infra.Postgres | infra.MariaDb],
) -> None:
    cut, data = tmp_path / "mended", tmp_path / "data"
    for name in ("initdb", "mariadb-install-db"):
        (tmp_path / name).write_text(CREATES.replace("CUT", str(cut)))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(runtime, "postgres_bin", lambda: tmp_path)
    monkeypatch.setattr(packages, "program", lambda name: tmp_path / name)
    monkeypatch.setattr(packages, "beside", lambda _, name: tmp_path / name)

    with pytest.raises(runtime.Missing, match="the disk is full"):
        server(data, 1).initialise()
    cut.touch()
    server(data, 1).initialise()
    (whole,) = data.rglob("whole")
    assert whole.parent in (data / "postgres", data / "mariadb" / "data")

    cut.unlink()
    server(data, 1).initialise()  # it must not be created again


class Served:
    """A server that is running."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.secrets: dict[str, str] = {}

    def initialise(self) -> None: ...

    def spec(self) -> Spec:
        return Spec("served", [], lambda: ports.open_port(self.port))


def test_a_zipkin_that_is_there_already_takes_the_place_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(infra, "Postgres", lambda *_: Served(free_port()))
    monkeypatch.setattr(profiles, "_SERVERS", {"nats": lambda _: Served(free_port())})
    monkeypatch.setattr(infra.ControlPlane, "specs", lambda _: [])
    monkeypatch.setattr(infra, "zipkin", lambda port: Spec("zipkin", [], lambda: ports.open_port(port)))
    choice = profiles.Choice.of("embedded", "postgresql")
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]
        monkeypatch.setattr(profiles, "ZIPKIN_PORT", port)

        found = profiles.prepare(choice, tmp_path)
        assert not found.beside
        assert port not in found.ports.values()
        said = " ".join(capsys.readouterr().err.split())
        assert f"port {port} is used by pid {os.getpid()}" in said
        assert "If that is a Zipkin, it receives the traces" in said

    assert [spec.name for spec in profiles.prepare(choice, tmp_path).beside] == ["zipkin"]


async def test_the_suite_starts_without_what_is_only_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ready() -> bool:
        return False

    broken = Spec("zipkin", ["/bin/sh", "-c", "echo no such jar; exit 1"], ready)
    given = Infrastructure([], [broken], {}, {}, infra.ControlPlane(tmp_path, profiles.CONTROL_PLANE_PORT))
    monkeypatch.setattr(page, "build", lambda: None)
    monkeypatch.setattr(profiles, "prepare", lambda *_: given)
    suite = Suite(DEFAULT_PROFILE, home=tmp_path, restart=False)
    suite.apps = []

    async with asyncio.timeout(10), suite:
        assert "Going on without zipkin: " in (told := capsys.readouterr().err)
        assert "no such jar" in told


class Started:
    """A suite without any process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.choice = profiles.Choice.of("embedded", "postgresql")
        self.addresses: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self.stopped = False

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True


async def test_a_disk_that_is_full_for_a_while_ends_no_suite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suite = Started()
    report, partial = tmp_path / "suite.json", tmp_path / "suite.partial"
    monkeypatch.setattr(supervisor, "Suite", lambda *_, **__: suite)
    monkeypatch.setattr(supervisor, "STATE", report)
    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.01)

    async def running() -> bool:
        return report.exists() and '"running"' in report.read_text()

    async def of_now() -> bool:
        return report.stat().st_mtime_ns > full.st_mtime_ns

    supervising = asyncio.create_task(supervisor.supervise(suite.choice))
    try:
        await until(running)
        partial.symlink_to("/dev/full")
        full = partial.lstat()
        await asyncio.wait([supervising], timeout=0.1)
        partial.unlink()
        await until(of_now)
        assert not suite.stopped

        partial.symlink_to("/dev/full")
        os.kill(os.getpid(), signal.SIGTERM)
        await supervising
        assert suite.stopped
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_suite_that_nobody_could_find_again_is_not_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suite = Started()
    started: list[bool] = []
    monkeypatch.setattr(suite, "start", lambda: started.append(True))
    monkeypatch.setattr(supervisor, "Suite", lambda *_, **__: suite)
    monkeypatch.setattr(supervisor, "STATE", tmp_path / "suite.json")
    (tmp_path / "suite.partial").symlink_to("/dev/full")
    try:
        with pytest.raises(OSError, match="No space left"):
            await supervisor.supervise(suite.choice)
        assert not started
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_process_is_restarted_also_where_its_log_takes_no_word_of_it(tmp_path: Path) -> None:
    async def ready() -> bool:
        return True

    (tmp_path / "one.log").symlink_to("/dev/full")
    process = Process(Spec("one", ["sleep", "0.01"], ready), tmp_path)

    async def restarted_twice() -> bool:
        return process.restarts > 1

    await process.start()
    try:
        await until(restarted_twice, 10)
    finally:
        await process.stop()


def test_of_a_log_only_its_end_is_read(tmp_path: Path) -> None:
    async def ready() -> bool:
        return True

    process = Process(Spec("one", [], ready), tmp_path)
    assert process.log_tail() == ""
    process.log.write_text("first\nlast")
    assert process.log_tail() == "first\nlast"
    with process.log.open("wb") as log:
        log.truncate(4 << 30)  # takes no disk space, but reading it whole would take that much memory
        log.seek(0, os.SEEK_END)
        log.write(b"\nthe reason\n")
    assert process.log_tail(1) == "the reason"
