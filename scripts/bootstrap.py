"""Make the virtual environment what requirements.lock says; does nothing when it is so already.

Runs under any Python from 3.11 to 3.14 with nothing installed. uv does the work, in an environment of
its own in the cache; everything but uv itself is installed with its hash required.
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
    """Changes whenever what is to be installed does."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (
        ROOT / "requirements.lock",
        *(ROOT / "services" / name / "pyproject.toml" for name in PACKAGES),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def own() -> bool:
    """Whether the environment was made where it is: programs of one that was copied run the other's code."""
    script = ENVIRONMENT / "bin" / "activate"
    lines = script.read_text().splitlines() if script.exists() else []
    unquoted = str.maketrans("", "", "'\"")  # a quote in the path is quoted again there
    return f"VIRTUAL_ENV={ENVIRONMENT}".translate(unquoted) in [line.translate(unquoted) for line in lines]


def uv() -> Path:
    """The uv program, installed on first use."""
    home = CACHE / "uv" / f"{sys.version_info.major}.{sys.version_info.minor}"
    program = home / "bin" / "uv"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two checkouts at once would clear each other's
        if not program.exists():
            print("Installing uv ...", flush=True)
            try:
                venv.create(home, with_pip=True, clear=True)
            except subprocess.CalledProcessError as error:  # Debian has ensurepip in a package of its own
                sys.exit(
                    f"Python makes no environment with pip; on Debian and Ubuntu: apt install python3-venv\n"
                    f"{error}\n{(error.output or b'').decode()}"
                )
            subprocess.run([home / "bin" / "pip", "install", "--quiet", "uv>=0.9,<1"], check=True)
    return program


def main() -> None:
    """Install, unless it is done."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):  # for a newer one the lock has not all wheels
        sys.exit(f"Annals needs Python 3.11 to 3.14, not {sys.version.split()[0]}: make PYTHON=python3.12 …")
    wanted = fingerprint()
    stamp = ENVIRONMENT / ".installed"
    found = stamp.read_text() if stamp.exists() else ""
    there = (ENVIRONMENT / "bin" / "python").exists()  # not where it leads to a Python that was removed
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
        sys.exit("The packages could not be installed, as said above; README.md names the machines for them.")
    # From here on: in a whole path uv takes a # for the end of it.
    editable = [part for name in PACKAGES for part in ("-e", f"./services/{name}")]
    install = [tool, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", *editable]
    subprocess.run(install, check=True, env=environment, cwd=ROOT)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
