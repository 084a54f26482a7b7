"""How deep is dug: a little in `make test`, the same each time; `make fuzz` digs deep, and anew each time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

DEEP = os.environ.get("ANNALS_FUZZ") == "deep"
DEPTH = settings(
    max_examples=300 if DEEP else 8,
    stateful_step_count=60 if DEEP else 25,
    derandomize=not DEEP,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
)
