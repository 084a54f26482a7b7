"""An app that records what its sidecar delivers and answers as a file tells it.

It stands for any subscriber: what it receives is what broker and Dapr promise without Annals.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_RECORD = Path(os.environ["RECORD"])
_ORDERS = Path(os.environ["ORDERS"])
_seen: Counter[str] = Counter()


async def deliver(request: Request) -> Response:
    """Take a bulk or a single message."""
    body = json.loads(await request.body())
    entries = body.get("entries")
    given = [("", body)] if entries is None else [(entry["entryId"], entry["event"]) for entry in entries]
    orders = json.loads(_ORDERS.read_text())
    given = [(entry_id, _event(event)) for entry_id, event in given]
    answers = [(entry_id, _answer(event, orders)) for entry_id, event in given]
    with _RECORD.open("a") as record:
        record.writelines(
            _line(event, answer) for (_, event), (_, answer) in zip(given, answers, strict=True)
        )
    if orders.get("hang"):
        await asyncio.Event().wait()
    if entries is None:
        return JSONResponse({"status": answers[0][1]})
    return JSONResponse({"statuses": [{"entryId": one, "status": status} for one, status in answers]})


def _event(given: Any) -> dict[str, Any]:
    """Return the CloudEvent of a delivery; a subscription for raw messages delivers it in Base64."""
    raw = given if isinstance(given, str) else given.get("data_base64")
    if raw is None:
        return dict(given)
    try:
        return dict(json.loads(base64.b64decode(raw)))
    except ValueError:
        return {"id": raw}  # not a CloudEvent


def _answer(event: dict[str, Any], orders: dict[str, Any]) -> str:
    _seen[event["id"]] += 1
    if orders.get("hang"):
        return "NONE"
    return "RETRY" if _seen[event["id"]] <= orders.get("refuse", 0) else "SUCCESS"


def _line(event: dict[str, Any], answer: str) -> str:
    names = ("id", "subject", "streamversion", "tenantid")
    return json.dumps({name: event.get(name) for name in names} | {"answer": answer}) + "\n"


async def healthz(_: Request) -> Response:
    """Answer that the app is healthy."""
    return JSONResponse({})


app = Starlette(
    routes=[
        Route("/events/{topic}", deliver, methods=["POST"]),
        Route("/healthz", healthz),
        Route("/readyz", healthz),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
