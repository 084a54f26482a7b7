"""The smoke test of `helm test`: sends a command and queries the read model for its result."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

SIDECAR = os.environ["ANNALS_SIDECAR"]
HEADERS = {"dapr-api-token": os.environ["DAPR_API_TOKEN"], "content-type": "application/json"}
SECONDS = 120


def call(method, path, body=None, **headers):
    """Call a service and return its JSON answer; retry for two minutes, while sidecars find each other."""
    end = time.monotonic() + SECONDS
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{SIDECAR}/v1.0/invoke/{path}", data, {**HEADERS, **headers}, method=method
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            if error.code < 500 or time.monotonic() > end:
                sys.exit(f"{method} {path}: {error.code} {said}")
        except OSError as error:
            if time.monotonic() > end:
                sys.exit(f"{method} {path}: {error}")
        time.sleep(1)


name = f"smoke-{uuid.uuid4()}"
done = call(
    "POST", "command/method/commands/task.create", {"id": name, "title": "Smoke"}, **{"idempotency-key": name}
)
print("command:", done)
seen = call("GET", f"projector/method/queries/tasks/{name}?position={done['position']}")
print("query:", seen)
if (seen["id"], seen["title"], seen["version"]) != (name, "Smoke", 1):
    sys.exit("the task that was read is not the one that was made")
