"""Decides which tests may run in parallel when `make test` uses several workers."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# These start the suite, which always uses the same ports.
SUITE = ("tests/system/", "tests/fuzz/test_running_suite.py", "tests/browser/", "tests/bench/", "tests/soak/")


class OneSuite(LoadScopeScheduling):  # type: ignore[misc] # its base is not typed
    """Gives each file to one worker, and all files that start the suite to the same worker."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = nodeid.partition("::")[0]
        return "the suite" if file.startswith(SUITE) else file
