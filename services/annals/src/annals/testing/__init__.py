"""What users of the library test with."""

from annals.testing.aggregates import given
from annals.testing.sagas import done, failed, rejected, scenario, timed_out

__all__ = ["done", "failed", "given", "rejected", "scenario", "timed_out"]
