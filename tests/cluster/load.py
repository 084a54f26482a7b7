"""Load from inside the cluster: runs in the toolbox, by its standard library alone.

    load      sends commands and starts sagas, each until it is acknowledged, and ends when /tmp/stop appears
    verify    reads what was acknowledged back: each stream's versions, each saga's end and what it did

What was acknowledged is kept in /tmp/acknowledged.
"""

import json
import os
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

INVOKE = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/invoke"
TOKEN = os.environ["DAPR_API_TOKEN"]
STOP, KEPT = pathlib.Path("/tmp/stop"), pathlib.Path("/tmp/acknowledged")
REFUSED = (400, 401, 403, 404, 409, 422)
failures = []

# The events that a hand-over leaves on each stream it writes to, no more and no fewer.
DONE = {
    "task": ["task.created", "task.assigned", "task.accepted"],
    "member": ["member.registered", "member.reserved"],
}


def ask(method, path, body=None, **headers):
    """Try once and return status and JSON; a status of 0 means no answer."""
    given = {"dapr-api-token": TOKEN, "content-type": "application/json", **headers}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{INVOKE}/{path}", data, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()[:300]
    except (OSError, ValueError) as error:
        return 0, repr(error)


def certain(method, path, body=None, **headers):
    """Repeat a request with the same key until it is acknowledged, and return that answer."""
    while True:
        status, said = ask(method, path, body, **headers)
        if 200 <= status < 300:
            return said
        failures.append((status, str(said)))
        if status in REFUSED:
            raise SystemExit(f"{path}: {status} {said}")
        time.sleep(0.2)


def command(kind, **data):
    key = {"idempotency-key": f"{kind}/{data['id']}/{uuid.uuid4()}"}
    return certain("POST", f"command/method/commands/{kind}", data, **key)


def tasks(kept):
    while not STOP.exists():
        name = f"load-{uuid.uuid4()}"
        command("task.create", id=name, title="Load")
        kept[f"task-{name}"] = command("task.update", id=name, title="More load")["version"]


def sagas(kept):
    while not STOP.exists():
        name = f"load-{uuid.uuid4()}"
        command("member.register", id=name, name="M", capacity=1)
        command("task.create", id=name, title="Hand over")
        body = {"task_id": name, "assignee": name, "deadline": "PT1H"}
        certain("POST", f"saga-orchestrator/method/sagas/task-handover?id={name}", body)
        kept[name] = None
        while True:
            path = f"saga-orchestrator/method/sagas/{name}/events/accept"
            status, said = ask("POST", path, **{"x-user-id": name})
            if status in (200, 202):
                break
            failures.append((status, str(said)))
            time.sleep(0.5)


def load():
    for path in (STOP, KEPT):
        path.unlink(missing_ok=True)
    streams, started = {}, {}
    threads = [threading.Thread(target=tasks, args=(streams,)) for _ in range(4)]
    threads += [threading.Thread(target=sagas, args=(started,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = {}
    for status, said in failures:
        kinds.setdefault(str(status), [0, said])[0] += 1
    KEPT.write_text(json.dumps({"streams": streams, "sagas": list(started), "tries_that_failed": kinds}))


def events(stream, field):
    """Return one field of each event of a stream."""
    while True:
        status, said = ask("GET", f"projector/method/queries/streams/{stream}/events")
        if status == 200:
            return [event[field] for event in said["items"]]
        if status == 404:
            return []
        time.sleep(0.5)


def patient(look, wanted, seconds=240):
    end = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < end:
        time.sleep(0.5)
    return found


def verify():
    kept = json.loads(KEPT.read_text())
    wrong = {}
    for stream, version in kept["streams"].items():
        wanted = list(range(1, version + 1))
        found = patient(lambda stream=stream: events(stream, "version"), wanted)
        if found != wanted:
            wrong[stream] = found
    for name in kept["sagas"]:

        def status(name=name):
            code, said = ask("GET", f"saga-orchestrator/method/sagas/{name}")
            return said["status"] if code == 200 else code

        if (found := patient(status, "completed")) != "completed":
            wrong[name] = found
        for kind, done in DONE.items():
            if (found := events(f"{kind}-{name}", "event_type")) != done:
                wrong[f"{kind}-{name}"] = found
    sent = {"streams": len(kept["streams"]), "sagas": len(kept["sagas"])}
    print(json.dumps({**sent, "tries_that_failed": kept["tries_that_failed"], "wrong": wrong}))


{"load": load, "verify": verify}[sys.argv[1]]()
