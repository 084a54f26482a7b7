"""Tasks on pyeventsourcing, with its PostgreSQL infrastructure: behind HTTP, or driven by threads.

Run as a program with a number of threads and of seconds, it creates tasks and prints the latencies.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


class Task(Aggregate):
    @event("Created")
    def __init__(self, task: str, title: str, due: str) -> None:
        self.task = task
        self.title = title
        self.due = due
        self.assignee: str | None = None
        self.done = False

    @staticmethod
    def create_id(task: str) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_URL, f"/tasks/{task}")

    @event("Assigned")
    def assign(self, assignee: str) -> None:
        self._require_open()
        self.assignee = assignee

    @event("Completed")
    def complete(self) -> None:
        self._require_open()
        self.done = True

    def _require_open(self) -> None:
        if self.done:
            raise ValueError("the task is completed")


class Tasks(Application):
    def create(self, given: dict[str, Any]) -> int:
        task = Task(given["id"], given["title"], given["due"])
        self.save(task)
        return task.version

    def assign(self, given: dict[str, Any]) -> int:
        task: Task = self.repository.get(Task.create_id(given["id"]))
        task.assign(given["assignee"])
        self.save(task)
        return task.version

    def complete(self, given: dict[str, Any]) -> int:
        task: Task = self.repository.get(Task.create_id(given["id"]))
        task.complete()
        self.save(task)
        return task.version


def main(threads: int, seconds: float) -> None:
    tasks = Tasks()
    tasks.create({"id": str(uuid.uuid4()), "title": "The first", "due": ""})
    latencies: list[list[float]] = [[] for _ in range(threads)]
    begun = time.perf_counter()

    def one(took: list[float]) -> None:
        while (started := time.perf_counter()) < begun + seconds:
            tasks.create(
                {"id": str(uuid.uuid4()), "title": "Write the report", "due": "2030-01-01T09:00:00Z"}
            )
            took.append((time.perf_counter() - started) * 1000)

    running = [threading.Thread(target=one, args=(took,)) for took in latencies]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    elapsed = time.perf_counter() - begun
    print(json.dumps({"seconds": elapsed, "latencies": [each for took in latencies for each in took]}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
