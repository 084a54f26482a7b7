"""The owner of a lane: leases it, writes the appends that wait, publishes them, and adopts orphaned lanes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from annals.dapr import DaprError
from annals.store.append_queue import AppendQueue
from annals.store.group_commit import Committed, GroupCommit, LaneTaken, OneUnfit, Waiting
from annals.store.lease import LEASE_SECONDS, Leases
from annals.store.protocol import (
    Append,
    Appended,
    AppendTooLarge,
    Backpressure,
    OutcomeUnknown,
    StoreUnavailable,
)
from annals.store.publisher import Publisher
from annals.store.sizes import TRANSACTION_BYTES
from annals.telemetry import metrics
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_BATCH_COMMITS = 64  # in one transaction
_WAITING_COMMITS = 5_000  # in the queue; beyond it, appends are refused
# Encoded size of the queue; the objects themselves take several times as much memory.
_WAITING_BYTES = 32_000_000
_DEADLINE_SECONDS = 10.0  # for an append that sets no deadline
_RETRY_SECONDS = 0.5
_DRAIN_SECONDS = 10.0  # for each part of a drain: the batch in progress, then publishing and release
_ADOPTED_LANES = 8  # at a time; other instances adopt the rest


class Lane:
    """The one lane that this process writes. `run` must be running for `append` to return."""

    def __init__(
        self,
        leases: Leases,
        group_commit: GroupCommit,
        new_publisher: Callable[[int, int, int], Publisher],
        *,
        max_backlog: Callable[[], int],
    ) -> None:
        self._leases = leases
        self._group_commit = group_commit
        self._new_publisher = new_publisher
        self._max_backlog = max_backlog
        self._queue = AppendQueue()
        self._single_writes_left = 0  # how many appends at the front of the queue must be written one by one
        self._wake = asyncio.Event()
        self._draining = False
        self._commit_timeout: asyncio.Timeout | None = None  # of the batch in progress, if there is one
        self._lane: int | None = None
        self._tail = 0
        self._publisher: Publisher | None = None
        self._adopted: dict[int, Publisher] = {}  # by lane
        metrics.PUBLISH_BACKLOG.set_function(lambda: sum(one.backlog for one in self._publishers()))
        metrics.PUBLISH_BACKLOG_AGE.set_function(
            lambda: max((one.backlog_age for one in self._publishers()), default=0.0)
        )

    @property
    def held(self) -> int | None:
        """The lane that this process holds now, or None."""
        return self._lane

    async def append(self, append: Append, previous: str, size: int) -> Appended:
        """Put an append into the queue and wait for its outcome; see `Waiting` for `previous` and `size`."""
        most = TRANSACTION_BYTES - append.reserve
        if size > most:
            what = "the events and the state after them"
            raise AppendTooLarge(f"{what} take {size} bytes, one append may take {most}")
        if self._draining:
            raise StoreUnavailable("this instance is shutting down")
        if len(self._queue) >= _WAITING_COMMITS or self._queue.bytes >= _WAITING_BYTES:
            what = f"{len(self._queue)} commands of {self._queue.bytes} bytes wait to be written"
            raise Backpressure(what, retry_after=1)
        if self._publisher is not None and self._publisher.backlog > self._max_backlog():
            raise Backpressure(f"{self._publisher.backlog} commits wait to be published", retry_after=5)
        loop = asyncio.get_running_loop()
        deadline = append.deadline
        if deadline is None:
            deadline = loop.time() + _DEADLINE_SECONDS
        waiting = Waiting(append, previous, size, loop.create_future())
        self._queue.join(waiting)
        self._wake.set()
        try:
            async with asyncio.timeout_at(deadline):
                with metrics.APPEND_DURATION.time():
                    return await waiting.done
        except TimeoutError:
            if waiting.begun:
                raise OutcomeUnknown(
                    "the store has not answered; the command may still take effect"
                ) from None
            raise StoreUnavailable("the store did not take the command in time") from None
        finally:
            self._queue.leave(waiting)

    async def run(self) -> None:
        """Hold a lane and write what waits, and take another lane when one is lost. Returns after `drain`."""
        said = Said()
        while not self._draining:
            try:
                lane = await self._leases.acquire()
                self._tail = await self._leases.tail(lane)
                published = await self._leases.published(lane)
            except (DaprError, StoreUnavailable) as error:
                if said.is_news(error):
                    _log.warning("no lane could be leased yet", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            said.is_over()
            await self._hold(lane, published)

    @property
    def draining(self) -> bool:
        """Whether shutdown has been requested."""
        return self._draining

    async def drain(self) -> None:
        """Refuse new appends; `run` then writes and publishes what waits, releases the lane and returns.

        If the store does not answer, `run` returns all the same. The outcome of the appends is then unknown,
        and the lane stays leased until its lease runs out.
        """
        self._draining = True
        self._wake.set()
        if self._commit_timeout is not None:
            self._commit_timeout.reschedule(asyncio.get_running_loop().time() + _DRAIN_SECONDS)

    async def _hold(self, lane: int, published: int) -> None:
        publisher = self._publisher = self._new_publisher(lane, published, self._tail)
        lost = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(publisher.run()),
                tasks.create_task(self._renew(lane, lost)),
                tasks.create_task(self._adopt(lane)),
            ]
            self._lane = lane
            try:
                answered = await self._write(lane, lost, publisher)
            finally:
                self._lane = None
            if self._draining and answered:
                await self._leave(lane, publisher)
            for helper in helpers:
                helper.cancel()

    async def _leave(self, lane: int, publisher: Publisher) -> None:
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await publisher.drain()
                await self._leases.release(lane, self._tail)
        except (TimeoutError, DaprError) as error:
            if backlog := publisher.backlog:
                what = "left the lane with a backlog; its next owner publishes it"
                _log.warning(what, lane=lane, backlog=backlog)
            else:
                why = str(error) or "no answer in time"
                _log.warning("cannot release the lane; its lease will run out", lane=lane, error=why)

    async def _write(self, lane: int, lost: asyncio.Event, publisher: Publisher) -> bool:
        """Write what waits until the lane is lost or drained; False if the store left a batch unanswered."""
        while not lost.is_set():
            batch = self._take()
            if not batch:
                if self._draining:
                    return True
                self._wake.clear()
                await self._wake.wait()
                continue
            metrics.APPEND_BATCH_SIZE.observe(len(batch))
            try:
                committed = await self._commit(lane, batch)
            except TimeoutError:
                _log.warning("left the lane in the middle of an append: the store does not answer", lane=lane)
                for waiting in batch:
                    waiting.reject(
                        OutcomeUnknown("the store has not answered; the command may still take effect")
                    )
                return False
            except LaneTaken as error:
                _log.warning("lane lost", reason=str(error))
                self._queue.put_back(batch)
                return True
            except OneUnfit:
                # Write each append by itself, so that only the unfit one is refused.
                self._queue.put_back(batch)
                self._single_writes_left = len(batch)
                continue
            if committed:
                self._tail = committed[-1].appended.position.seq
                publisher.offer(committed)
            for commit in committed:
                commit.waiting.resolve(commit.appended)
        return True

    async def _commit(self, lane: int, batch: list[Waiting]) -> list[Committed]:
        """Commit a batch; see `GroupCommit`. Raises TimeoutError when a drain has waited for too long."""
        async with asyncio.timeout(_DRAIN_SECONDS if self._draining else None) as self._commit_timeout:
            try:
                return await self._group_commit.commit(lane, self._tail, batch)
            finally:
                self._commit_timeout = None

    def _take(self) -> list[Waiting]:
        """Take the next batch: at most one append per stream and command id; the others keep their order."""
        batch: list[Waiting] = []
        later: list[Waiting] = []
        busy: set[object] = set()
        size = 0
        most = 1 if self._single_writes_left else _BATCH_COMMITS
        self._single_writes_left = max(self._single_writes_left - 1, 0)
        while self._queue and len(batch) < most:
            waiting = self._queue.take()
            if waiting.done.done():
                continue  # its caller gave up before it was taken
            append = waiting.append
            claims: set[object] = {append.stream}
            if append.command_id is not None:
                claims.add((append.stream.tenant, append.command_id))
            if busy & claims:
                later.append(waiting)
                busy |= claims
                continue
            if batch and size + waiting.size > TRANSACTION_BYTES:
                later.append(waiting)
                break
            busy |= claims
            size += waiting.size
            waiting.begun = True
            batch.append(waiting)
        self._queue.put_back(later)
        return batch

    async def _renew(self, lane: int, lost: asyncio.Event) -> None:
        await self._keep(lane, lambda: self._tail)
        lost.set()
        self._wake.set()

    async def _keep(self, lane: int, end: Callable[[], int]) -> None:
        """Renew a lease until the lane is lost. `end` returns the sequence of the lane's last known commit.

        A further commit behind that end counts as foreign only if two checks find it with the same end: at
        one check, it may be a commit of this instance that the store has not answered yet.
        """
        written: int | None = None  # the end at the last check, if a commit was found behind it
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            tail = end()
            try:
                kept = await self._leases.renew(lane, tail)
                further = kept and await self._leases.reaches(lane, tail + 1)
            except DaprError as error:
                # Writing the lane stays safe: a new owner's commit would make the next insert fail.
                _log.warning("cannot renew the lease", lane=lane, error=str(error))
                continue
            if not kept:
                reason = "its lease went to another instance"
            elif further and written == tail:
                # A former owner wrote it late. Taking the lane again finds the commit and publishes it.
                reason = "another instance wrote a commit behind its end"
            else:
                written = tail if further else None
                continue
            _log.warning("lane lost", lane=lane, reason=reason)
            return

    def _publishers(self) -> list[Publisher]:
        """Return the publishers of the lanes that this process looks after now."""
        return [*([self._publisher] if self._publisher else []), *self._adopted.values()]

    async def _adopt(self, own: int) -> None:
        """Publish the backlogs that instances left behind in lanes they no longer hold."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    for lane, (lease, etag) in (await self._leases.read()).items():
                        if len(self._adopted) == _ADOPTED_LANES:
                            break
                        # An adopted lane whose lease could not be renewed looks free, and is still in hand.
                        if lane != own and lane not in self._adopted and lease.free(time.time()):
                            await self._take_orphan(tasks, lane, lease.tail, etag)
                except DaprError as error:
                    _log.warning("cannot look after orphaned lanes", error=str(error))
                await asyncio.sleep(LEASE_SECONDS)

    async def _take_orphan(self, tasks: asyncio.TaskGroup, lane: int, hint: int, etag: str) -> None:
        tail = await self._leases.tail(lane)
        published = await self._leases.published(lane)
        if published >= tail or not await self._leases.take(lane, hint, etag):
            return
        _log.info("publishing an orphaned lane", lane=lane, tail=tail)
        publisher = self._adopted[lane] = self._new_publisher(lane, published, tail)
        publishing = tasks.create_task(self._publish_orphan(lane, publisher, tail))
        publishing.add_done_callback(lambda _: self._adopted.pop(lane))

    async def _publish_orphan(self, lane: int, publisher: Publisher, tail: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publisher.run())
            through = tasks.create_task(publisher.drain())
            lost = tasks.create_task(self._keep(lane, lambda: tail))
            await asyncio.wait([through, lost], return_when=asyncio.FIRST_COMPLETED)
            for task in (publishing, through, lost):
                task.cancel()
        try:
            await self._leases.release(lane, tail)
        except DaprError as error:
            _log.warning(
                "cannot release an orphaned lane; its lease will run out", lane=lane, error=str(error)
            )
