"""Dapr jobs: calls back to this app at a set time, whatever happens to its process until then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from dapr.proto import api_v1, common_v1
from google.protobuf import any_pb2, duration_pb2  # built at import: type checkers do not see their names

from annals.dapr.sidecar import DaprSidecar

_RETRY_SECONDS = 10


class Jobs:
    """One-shot jobs of this app: the sidecar posts `data` to `/job/{name}`, at least once.

    A call that fails is repeated every ten seconds without limit, because Dapr's default gives up after
    three seconds. Both methods raise DaprError.
    """

    def __init__(self, sidecar: DaprSidecar) -> None:
        self._sidecar = sidecar

    async def schedule(self, name: str, due: datetime, data: Mapping[str, Any]) -> None:
        """Schedule a job, replacing one of the same name. A job that is due already is called at once."""
        retry = common_v1.JobFailurePolicyConstant(interval=duration_pb2.Duration(seconds=_RETRY_SECONDS))  # type: ignore[attr-defined]
        job = api_v1.Job(
            name=name,
            due_time=due.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            data=any_pb2.Any(value=orjson.dumps(data)),  # type: ignore[attr-defined]
            failure_policy=common_v1.JobFailurePolicy(constant=retry),
        )
        await self._sidecar.call("ScheduleJob", api_v1.ScheduleJobRequest(job=job, overwrite=True))

    async def delete(self, name: str) -> None:
        """Delete a job; a job that does not exist is no error."""
        await self._sidecar.call("DeleteJob", api_v1.DeleteJobRequest(name=name))
