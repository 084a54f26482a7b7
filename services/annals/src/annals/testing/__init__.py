"""What users of the library test with."""

from annals.testing.aggregates import given

__all__ = ["given"]
