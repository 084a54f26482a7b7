"""Given / when / then tests for code that uses the library: aggregates, projections and sagas."""

from annals.testing.aggregates import given
from annals.testing.projections import projected
from annals.testing.sagas import done, failed, rejected, scenario, timed_out

__all__ = ["done", "failed", "given", "projected", "rejected", "scenario", "timed_out"]
