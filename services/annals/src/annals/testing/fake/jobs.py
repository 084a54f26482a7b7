"""The job scheduler: ScheduleJob, GetJob, DeleteJob and ListJobs, and the calls of jobs that fall due."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import grpc
from dapr.proto import api_v1

from annals.testing.fake import schedules
from annals.testing.fake.clock import Appointment, Clock
from annals.testing.fake.errors import Refused

Call = Callable[[str, bytes], Awaitable[bool]]

_DEFAULT_RETRIES = 3
_DEFAULT_INTERVAL = timedelta(seconds=1)


@dataclass(slots=True)
class _Job:
    asked: api_v1.Job
    following: schedules.Next | None
    due: datetime
    left: int | None
    expires: datetime | None
    appointment: Appointment | None = None


class FakeScheduler:
    """The jobs of all apps. A due job is called by a sidecar of its app, or waits until there is one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: dict[tuple[str, str], _Job] = {}
        self._callers: dict[str, list[Call]] = {}

    def connect(self, app_id: str, call: Call) -> None:
        """Register a sidecar, which calls the jobs of its app from now on."""
        self._callers.setdefault(app_id, []).append(call)
        for (owner, name), job in tuple(self._jobs.items()):
            if owner == app_id and job.appointment is None:  # the job fell due while there was no sidecar
                self._book(app_id, name, job, self._clock.now(), 0)

    def disconnect(self, app_id: str, call: Call) -> None:
        """Remove a sidecar that is gone."""
        self._callers[app_id].remove(call)

    def get(self, app_id: str, name: str) -> api_v1.Job | None:
        """Return a job that is still to be called; None if there is none."""
        job = self._jobs.get((app_id, name))
        return None if job is None else job.asked

    def names(self, app_id: str) -> list[str]:
        """Return the names of an app's jobs that are still to be called."""
        return [name for owner, name in self._jobs if owner == app_id]

    def schedule(self, app_id: str, asked: api_v1.Job, *, overwrite: bool) -> None:
        """Schedule a job. Raises Refused if it is invalid, or exists and `overwrite` is false."""
        key, now = (app_id, asked.name), self._clock.now()
        if key in self._jobs and not overwrite:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"job already exists: '{asked.name}'")
        try:
            job = _job(asked, now)
        except ValueError as error:
            text = f"failed to schedule job: {error}"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, text, "DAPR_SCHEDULER_SCHEDULE_JOB") from error
        self.delete(app_id, asked.name)
        self._jobs[key] = job
        self._book(app_id, asked.name, job, job.due, 0)

    def delete(self, app_id: str, name: str) -> None:
        """Delete a job; a job that does not exist is no error."""
        job = self._jobs.pop((app_id, name), None)
        if job is not None and job.appointment is not None:
            job.appointment.cancel()

    def _book(self, app_id: str, name: str, job: _Job, at: datetime, failures: int) -> None:
        async def tick() -> None:
            await self._tick(app_id, name, job, failures)

        job.appointment = self._clock.call_at(at, tick)

    async def _tick(self, app_id: str, name: str, job: _Job, failures: int) -> None:
        callers = self._callers.get(app_id)
        if not callers:
            job.appointment = None
            return
        callers.append(callers.pop(0))  # the sidecars take turns
        done = await callers[-1](name, job.asked.data.value)
        if self._jobs.get((app_id, name)) is not job:
            return  # the job was deleted or replaced during the call
        wait = None if done else _wait(job.asked, failures + 1)
        if wait is not None:
            self._book(app_id, name, job, self._clock.now() + wait, failures + 1)
            return
        job.left = None if job.left is None else job.left - 1
        following = job.following(job.due) if job.following is not None and job.left != 0 else None
        if following is None or (job.expires is not None and following > job.expires):
            del self._jobs[app_id, name]
            return
        job.due = following
        self._book(app_id, name, job, following, 0)


class JobsApi:
    """The job methods of the sidecar's gRPC API, under their names there."""

    def __init__(self, app_id: str, scheduler: FakeScheduler) -> None:
        self._app_id = app_id
        self._scheduler = scheduler

    async def ScheduleJob(self, request: api_v1.ScheduleJobRequest) -> api_v1.ScheduleJobResponse:
        if not request.job.name:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Name is required", "DAPR_SCHEDULER_JOB_NAME")
        self._scheduler.schedule(self._app_id, request.job, overwrite=request.overwrite)
        return api_v1.ScheduleJobResponse()

    async def GetJob(self, request: api_v1.GetJobRequest) -> api_v1.GetJobResponse:
        job = self._scheduler.get(self._app_id, request.name)
        if job is None:
            text = (
                f"failed to get job due to: rpc error: code = NotFound desc = job not found: {request.name}"
            )
            raise Refused(grpc.StatusCode.INTERNAL, text, "DAPR_SCHEDULER_GET_JOB")
        return api_v1.GetJobResponse(job=job)

    async def DeleteJob(self, request: api_v1.DeleteJobRequest) -> api_v1.DeleteJobResponse:
        self._scheduler.delete(self._app_id, request.name)
        return api_v1.DeleteJobResponse()

    async def ListJobs(self, request: api_v1.ListJobsRequest) -> api_v1.ListJobsResponse:  # noqa: ARG002
        found = (self._scheduler.get(self._app_id, name) for name in self._scheduler.names(self._app_id))
        return api_v1.ListJobsResponse(jobs=[job for job in found if job is not None])

    ScheduleJobAlpha1 = ScheduleJob
    GetJobAlpha1 = GetJob
    DeleteJobAlpha1 = DeleteJob


def _job(asked: api_v1.Job, now: datetime) -> _Job:
    has_schedule = asked.HasField("schedule")
    if not has_schedule and not asked.HasField("due_time"):
        raise ValueError("Schedule is empty")
    if asked.HasField("ttl") and not has_schedule:
        raise ValueError("job must have a schedule to have a ttl")
    following = schedules.schedule(asked.schedule) if has_schedule else None
    due = schedules.moment(asked.due_time, now) if asked.HasField("due_time") else None
    if due is None:
        due = following(now) if following is not None else None
    if due is None:
        raise ValueError(f"the schedule {asked.schedule} never comes")
    expires = schedules.moment(asked.ttl, now) if asked.HasField("ttl") else None
    repeats = asked.repeats if asked.HasField("repeats") and asked.repeats else None
    return _Job(asked, following, due, repeats, expires)


def _wait(asked: api_v1.Job, failures: int) -> timedelta | None:
    """Return the wait before a failed call is repeated; None to give up."""
    policy = asked.failure_policy.WhichOneof("policy") if asked.HasField("failure_policy") else None
    if policy == "drop":
        return None
    if policy is None:
        return _DEFAULT_INTERVAL if failures <= _DEFAULT_RETRIES else None
    constant = asked.failure_policy.constant
    if constant.HasField("max_retries") and failures > constant.max_retries:
        return None
    return constant.interval.ToTimedelta() if constant.HasField("interval") else timedelta(0)
