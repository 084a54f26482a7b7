"""Which tests may run beside which: `make test` has several workers."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# They start the suite, and its ports are always the same.
SUITE = ("tests/system/", "tests/fuzz/test_running_suite.py", "tests/browser/", "tests/bench/", "tests/soak/")


class OneSuite(LoadScopeScheduling):  # type: ignore[misc] # its base is not typed
    """A file is one worker's; those that start the suite are all of the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = nodeid.partition("::")[0]
        return "the suite" if file.startswith(SUITE) else file
