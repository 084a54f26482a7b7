"""An app that does nothing, to measure what two sidecars cost."""

from __future__ import annotations

import os
from typing import Any

import uvicorn


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    )
    await send({"type": "http.response.body", "body": b"{}"})


if __name__ == "__main__":
    port = int(os.environ["APP_PORT"])
    uvicorn.run(app, port=port, access_log=False, lifespan="off", log_level="warning")
