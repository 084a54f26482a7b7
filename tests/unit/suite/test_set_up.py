"""What the Makefile's targets rely on: an environment, packages, a clean end of what was begun."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bootstrap
from suite import __main__ as command
from suite import infra, packages, page, profiles, runtime, supervisor
from suite.profiles import Choice


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make a complete environment with uv, in a folder whose name has to be quoted."""
    made = tmp_path / "it's $here" / ".venv"
    subprocess.run([bootstrap.uv(), "venv", "--quiet", "--python", sys.executable, made], check=True)
    (made / ".installed").write_text(bootstrap.fingerprint())
    monkeypatch.setattr(bootstrap, "ENVIRONMENT", made)
    return made


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, environment: Path) -> list[list[str]]:
    """Record the commands that would run, without running them, once the environment exists."""
    seen: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "uv", lambda: Path("uv"))
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: seen.append(argv))
    return seen


def test_an_environment_that_has_all_is_left_alone(environment: Path, ran: list[list[str]]) -> None:
    bootstrap.main()

    assert ran == []


def test_an_environment_whose_python_is_gone_is_made_anew(environment: Path, ran: list[list[str]]) -> None:
    python = environment / "bin" / "python"
    python.unlink()
    python.symlink_to(environment / "removed")

    bootstrap.main()

    assert ran[0][:2] == ["uv", "venv"]
    assert "--clear" in ran[0]


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_an_environment_of_another_folder_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, environment: Path, ran: list[list[str]], how: Callable[[Path, Path], Any]
) -> None:
    other = environment.parents[1] / "other" / ".venv"
    other.parent.mkdir()
    how(environment, other)
    monkeypatch.setattr(bootstrap, "ENVIRONMENT", other)

    bootstrap.main()

    assert ran[0][:2] == ["uv", "venv"]
    assert "--clear" in ran[0]


def test_an_environment_is_not_made_anew_for_other_packages(environment: Path, ran: list[list[str]]) -> None:
    (environment / ".installed").write_text("of another lock")

    bootstrap.main()

    assert ran[0][:3] == ["uv", "pip", "sync"]
    assert (environment / ".installed").read_text() == bootstrap.fingerprint()


def test_two_checkouts_at_once_install_uv_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Path] = []

    def create(home: Path, **_: Any) -> None:
        made.append(home)
        (home / "bin").mkdir(parents=True)

    def install(argv: Sequence[Path], **_: Any) -> None:
        time.sleep(0.2)  # in which the other one comes
        (Path(argv[0]).parent / "uv").touch()

    monkeypatch.setattr(bootstrap, "CACHE", tmp_path)
    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(subprocess, "run", install)

    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda _: bootstrap.uv(), range(2))

    assert one == other
    assert len(made) == 1


def test_a_python_without_pip_is_said_to_want_a_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def without(self: venv.EnvBuilder, context: Any) -> None:
        """Fail as on a machine without the module ensurepip."""
        self._call_new_python(context, "-m", "no_ensurepip", stderr=subprocess.STDOUT)  # type: ignore[attr-defined]

    monkeypatch.setattr(bootstrap, "CACHE", tmp_path)
    monkeypatch.setattr(venv.EnvBuilder, "_setup_pip", without)

    with pytest.raises(SystemExit, match=r"python3-venv(?s:.*)No module named no_ensurepip"):
        bootstrap.uv()


@pytest.mark.parametrize("version", ["3.10.14", "3.15.0"])
def test_a_python_that_there_are_no_wheels_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, ran: list[list[str]], version: str
) -> None:
    other = SimpleNamespace(version_info=tuple(map(int, version.split("."))), version=version, exit=sys.exit)
    monkeypatch.setattr(bootstrap, "sys", other)

    with pytest.raises(SystemExit, match=rf"needs Python 3\.11 to 3\.14, not {version}: make PYTHON="):
        bootstrap.main()
    assert ran == []


def test_packages_that_cannot_be_installed_are_said_to_be_so(
    monkeypatch: pytest.MonkeyPatch, environment: Path
) -> None:
    def fail(argv: Sequence[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, argv)

    (environment / ".installed").unlink()
    monkeypatch.setattr(bootstrap, "uv", lambda: Path("uv"))
    monkeypatch.setattr(subprocess, "run", fail)

    with pytest.raises(SystemExit, match=r"could not be installed.*README\.md"):
        bootstrap.main()


@pytest.mark.parametrize("target", ["stop", "status", "logs"])
def test_a_suite_that_runs_is_seen_and_stopped_without_a_network(target: str) -> None:
    plan = subprocess.run(
        ["make", "--dry-run", target], cwd=bootstrap.ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert f"suite {target}" in plan
    assert "setup" not in plan


def test_ctrl_c_during_the_start_stops_what_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    # The child has not reported anything yet, so no report can lead to it.
    def interrupted() -> None:
        raise KeyboardInterrupt

    reports = iter([lambda: None, interrupted])
    monkeypatch.setattr(supervisor, "read", lambda: next(reports)())
    monkeypatch.setattr(command, "_setup", lambda _: 0)
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        monkeypatch.setattr(supervisor, "start_in_background", lambda _: child)
        try:
            assert command._run(Choice.of("embedded", "postgresql")) != 0
            assert child.poll() == -signal.SIGTERM
        finally:
            child.kill()


def _report(state: str) -> supervisor.Report:
    return supervisor.Report(supervisor.Identity(os.getpid(), 0), "embedded", "postgresql", state)


@pytest.fixture
def supervising(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Return a function that has `start` run some Python code in place of the supervisor."""
    children: list[subprocess.Popen[bytes]] = []

    def given(code: str) -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen([sys.executable, "-c", code]))
        monkeypatch.setattr(supervisor, "start_in_background", lambda _: children[0])
        return children[0]

    monkeypatch.setattr(command, "_setup", lambda _: 0)
    yield given
    for child in children:
        child.kill()
        child.wait()


def test_a_supervisor_that_ended_before_its_first_report_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
    supervising: Callable[[str], subprocess.Popen[bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(supervisor, "read", lambda: None)
    monkeypatch.setattr(command, "_START_SECONDS", 20)
    supervising("raise SystemExit('dapr.yaml cannot be read')")
    began = time.monotonic()

    assert command._start(Choice.of("embedded", "postgresql")) == 1
    assert time.monotonic() - began < 15
    assert "did not start" in capsys.readouterr().out


def test_of_two_starts_at_once_the_second_leaves_the_first_alone(
    monkeypatch: pytest.MonkeyPatch,
    supervising: Callable[[str], subprocess.Popen[bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The first has reported nothing yet as the second looks, and fails as the second waits.
    first = _report("failed")
    first.error = "a port is taken by another"
    reports = chain([None], repeat(first))
    monkeypatch.setattr(supervisor, "read", lambda: next(reports))
    supervising(f"import time; time.sleep(0.3); raise SystemExit({supervisor.TAKEN})")

    assert command._start(Choice.of("embedded", "postgresql")) == 1
    told = capsys.readouterr().out.replace("\n", " ")
    assert "The suite is failed" in told
    assert "a port is taken" not in told


async def test_a_second_supervisor_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "STATE", tmp_path / "suite.json")
    monkeypatch.setattr(supervisor, "Suite", lambda *_, **__: pytest.fail("it made a suite"))
    with (
        supervisor._only_one(),
        pytest.raises(SystemExit) as ended,
    ):
        await supervisor.supervise(Choice.of("embedded", "postgresql"))
    assert ended.value.code == supervisor.TAKEN
    assert {path.name for path in tmp_path.iterdir()} == {"suite.lock"}


def test_a_suite_that_takes_long_is_said_to_start_still(
    monkeypatch: pytest.MonkeyPatch,
    supervising: Callable[[str], subprocess.Popen[bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    reports = chain([None], repeat(_report("starting")))
    monkeypatch.setattr(supervisor, "read", lambda: next(reports))
    monkeypatch.setattr(command, "_START_SECONDS", 0.3)
    child = supervising("import signal; signal.pause()")

    assert command._start(Choice.of("embedded", "postgresql")) == 1
    assert "still starting" in (told := capsys.readouterr().out.replace("\n", " "))
    assert "did not start" not in told
    assert child.poll() is None


@pytest.mark.parametrize(("state", "code"), [("running", 0), ("starting", 1), ("stopping", 1)])
def test_a_suite_that_is_there_is_said_to_be_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    monkeypatch.setattr(supervisor, "read", lambda: _report(state))
    monkeypatch.setattr(command, "_setup", lambda _: pytest.fail("it was set up"))
    assert command._start(Choice.of("embedded", "postgresql")) == code
    told = capsys.readouterr().out.replace("\n", " ")
    assert ("is already running" if state == "running" else f"is {state}") in told


def test_what_a_choice_takes_to_fetch_is_fetched_before_the_start_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: Path) -> Any:
        raise runtime.Missing("kafka could not be fetched")

    monkeypatch.setattr(runtime, "dapr", Path)
    monkeypatch.setattr(page, "build", lambda: None)
    monkeypatch.setattr(supervisor, "read", lambda: None)
    monkeypatch.setattr(profiles, "_SERVERS", {"kafka": missing})
    monkeypatch.setattr(infra, "Postgres", lambda *_: None)
    monkeypatch.setattr(supervisor, "start_in_background", lambda _: pytest.fail("it was started"))

    assert command._start(Choice.of("kafka-postgres", "postgresql")) == 1
    assert "kafka could not be fetched" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_terminal_that_is_closed_ends_what_runs_in_it(
    monkeypatch: pytest.MonkeyPatch, came: list[int], number: signal.Signals
) -> None:
    stopped: list[bool] = []

    def closed(*_: Any) -> None:
        raise OSError("Input/output error")

    def read() -> supervisor.Report:
        os.kill(os.getpid(), number)
        return _report("running")

    monkeypatch.setattr(command.Live, "__exit__", closed)
    monkeypatch.setattr(sys, "argv", ["suite", "run"])
    monkeypatch.setattr(command, "_start", lambda _: 0)
    monkeypatch.setattr(supervisor, "read", read)
    monkeypatch.setattr(supervisor, "stop", lambda: stopped.append(True))

    with pytest.raises(OSError, match="Input/output"):
        command.main()
    assert stopped
    assert came == []


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "_POLICY", file)
    return file


@pytest.fixture
def came() -> Any:
    """Record signals; put the original handlers back afterwards."""
    seen: list[int] = []
    handle: Callable[[int, Any], None] = lambda number, _: seen.append(number)  # noqa: E731
    before = {one: signal.signal(one, handle) for one in (signal.SIGTERM, signal.SIGHUP)}
    yield seen
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_an_installation_leaves_no_policy_behind(
    policy: Path, came: list[int], number: signal.Signals
) -> None:
    with packages._services_stay_off():
        os.kill(os.getpid(), number)
        assert policy.exists()
        assert came == []

    assert not policy.exists()
    assert came == [number]


def test_a_policy_that_an_installation_left_is_not_taken_for_the_machines_own(policy: Path) -> None:
    with packages._services_stay_off():
        left = policy.read_text()
    policy.write_text(left)

    with packages._services_stay_off():
        assert policy.exists()
    assert not policy.exists()


def test_a_machines_own_policy_stays(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 0\n")

    with packages._services_stay_off():
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert policy.exists()


@pytest.mark.parametrize(("failing", "code"), [("update", 1), ("install", 1), ("nothing", 0)])
def test_the_tests_of_the_page_do_not_go_on_without_the_browser_that_they_need(
    tmp_path: Path, failing: str, code: int
) -> None:
    for name, does in {"id": "echo 0", "apt-get": f'[ "$1" != {failing} ]'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)

    script = bootstrap.ROOT / "scripts" / "install-chromium"
    ended = subprocess.run(
        ["/bin/sh", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, "need Chromium" in ended.stderr) == (code, code == 1)
