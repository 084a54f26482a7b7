"""Installs the packages of requirements.lock and the suite's own into .venv, unless they are up to date.

Runs under any Python from 3.11 to 3.14 with nothing else installed. uv does the work; it is installed in an
environment of its own in the cache. Every downloaded package except uv must match its hash in the lock.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(
    os.environ.get("ANNALS_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "annals"
)
PACKAGES = ("annals", "cli", "command", "console", "notification", "projector", "saga-orchestrator")
ENVIRONMENT = ROOT / ".venv"


def fingerprint() -> str:
    """Return a digest that changes whenever the packages to install change."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (
        ROOT / "requirements.lock",
        *(ROOT / "services" / name / "pyproject.toml" for name in PACKAGES),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def own() -> bool:
    """Return whether the environment was created where it is now.

    The programs of a copied environment would run the code of the original.
    """
    script = ENVIRONMENT / "bin" / "activate"
    lines = script.read_text().splitlines() if script.exists() else []
    unquoted = str.maketrans("", "", "'\"")  # the script quotes a quote in the path once more
    return f"VIRTUAL_ENV={ENVIRONMENT}".translate(unquoted) in [line.translate(unquoted) for line in lines]


def uv() -> Path:
    """Return the path of the uv program, which is installed on first use."""
    home = CACHE / "uv" / f"{sys.version_info.major}.{sys.version_info.minor}"
    program = home / "bin" / "uv"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two checkouts at once would clear each other's environment
        if not program.exists():
            print("Installing uv ...", flush=True)
            try:
                venv.create(home, with_pip=True, clear=True)
            except subprocess.CalledProcessError as error:  # Debian ships ensurepip in a separate package
                sys.exit(
                    f"This Python cannot create an environment with pip. On Debian and Ubuntu, run:\n"
                    f"apt install python3-venv\n"
                    f"{error}\n{(error.output or b'').decode()}"
                )
            subprocess.run([home / "bin" / "pip", "install", "--quiet", "uv>=0.9,<1"], check=True)
    return program


def main() -> None:
    """Install the packages unless they are up to date; exit with a message if that is impossible."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):  # newer Pythons lack some of the lock's wheels
        sys.exit(f"Annals needs Python 3.11 to 3.14, not {sys.version.split()[0]}: make PYTHON=python3.12 …")
    wanted = fingerprint()
    stamp = ENVIRONMENT / ".installed"
    found = stamp.read_text() if stamp.exists() else ""
    there = (ENVIRONMENT / "bin" / "python").exists()  # false if the Python it links to was removed
    usable = there and own()
    if usable and found == wanted:
        return
    tool = str(uv())
    print("Installing the suite's packages into .venv ...", flush=True)
    if not usable:
        make = [tool, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)]
        subprocess.run(make, check=True)
    environment = os.environ | {"VIRTUAL_ENV": str(ENVIRONMENT)}
    lock = str(ROOT / "requirements.lock")
    sync = [tool, "pip", "sync", "--quiet", "--require-hashes", lock]
    try:
        subprocess.run(sync, check=True, env=environment, cwd=ROOT)
    except subprocess.CalledProcessError:
        sys.exit("The packages could not be installed: see above. README.md names the supported machines.")
    # Relative to `cwd`: in an absolute path, uv would take a # for the end of the path.
    editable = [part for name in PACKAGES for part in ("-e", f"./services/{name}")]
    install = [tool, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", *editable]
    subprocess.run(install, check=True, env=environment, cwd=ROOT)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
