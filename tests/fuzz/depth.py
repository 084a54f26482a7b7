"""How many examples the fuzz tests try: a few fixed ones in `make test`, many new ones in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

DEEP = os.environ.get("ANNALS_FUZZ") == "deep"
_SLOW_OR_LARGE = (HealthCheck.too_slow, HealthCheck.data_too_large)
DEPTH = settings(
    max_examples=300 if DEEP else 8,
    stateful_step_count=60 if DEEP else 25,
    derandomize=not DEEP,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=(*_SLOW_OR_LARGE, HealthCheck.filter_too_much),
)
# A short run gives up at once when the filters reject almost every example, not after some hundred.
EXAMPLES_AT_HAND = DEPTH if DEEP else settings(DEPTH, suppress_health_check=_SLOW_OR_LARGE)
