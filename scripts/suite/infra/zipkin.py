"""Zipkin, from Maven Central."""

from __future__ import annotations

from pathlib import Path

from suite import ports, runtime
from suite.process import Spec

ZIPKIN_VERSION = "3.5.1"
# With less optimisation, Zipkin starts in half the processor time; the suite's start is short of processors.
_QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# A span takes about 2 kB of the heap. Zipkin's default of 500,000 would end in an exhausted one.
_HEAP, _MOST_SPANS = ("-Xmx256m", "-XX:+ExitOnOutOfMemoryError"), 50_000


def zipkin_jar() -> Path:
    """Return the path of Zipkin's jar, which is fetched once. Raises runtime.Missing."""
    return runtime.jar("io.zipkin", "zipkin-server", ZIPKIN_VERSION, "slim")


def zipkin(port: int) -> Spec:
    """Return the spec of Zipkin, which keeps the last traces in memory. Raises runtime.Missing."""
    return Spec(
        "zipkin",
        [str(runtime.java()), *_HEAP, *_QUICK, "-jar", str(zipkin_jar())],
        lambda: ports.http_ok(port, "/health"),
        env={
            # Instead of `QUERY_PORT`, which would open the port to the network.
            "ARMERIA_PORTS_0_IP": "127.0.0.1",
            "ARMERIA_PORTS_0_PORT": str(port),
            "ARMERIA_PORTS_0_PROTOCOLS_0": "http",
            "LOGGING_LEVEL_ROOT": "WARN",
            "MEM_MAX_SPANS": str(_MOST_SPANS),
        },
    )
