"""Jobs: to be called back at a time, however often this process dies until then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from dapr.proto import api_v1, common_v1
from google.protobuf import any_pb2, duration_pb2  # made when imported: no checker knows their names

from annals.dapr.sidecar import DaprSidecar

_RETRY_SECONDS = 10


class Jobs:
    """One-shot jobs of this app: the sidecar posts `data` to `/job/{name}`, at least once.

    A call that fails is made again every ten seconds, for ever: Dapr's default gives up after three
    seconds. Both methods raise DaprError.
    """

    def __init__(self, sidecar: DaprSidecar) -> None:
        self._sidecar = sidecar

    async def schedule(self, name: str, due: datetime, data: Mapping[str, Any]) -> None:
        """Schedule a job, in the place of one of the same name. One that is past is called at once."""
        retry = common_v1.JobFailurePolicyConstant(interval=duration_pb2.Duration(seconds=_RETRY_SECONDS))  # type: ignore[attr-defined]
        job = api_v1.Job(
            name=name,
            due_time=due.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            data=any_pb2.Any(value=orjson.dumps(data)),  # type: ignore[attr-defined]
            failure_policy=common_v1.JobFailurePolicy(constant=retry),
        )
        await self._sidecar.call("ScheduleJob", api_v1.ScheduleJobRequest(job=job, overwrite=True))

    async def delete(self, name: str) -> None:
        """Delete a job; one that is not there is no error."""
        await self._sidecar.call("DeleteJob", api_v1.DeleteJobRequest(name=name))
