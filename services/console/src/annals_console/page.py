"""The page: the files built from `web/`, held in memory, each with its compressed variants."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from annals.web.problems import Problem

_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
_FOR_EVER = "public, max-age=31536000, immutable"
INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class File:
    """One file; `bodies` are by content encoding, which is empty for the file itself."""

    media_type: str
    etag: str
    bodies: Mapping[str, bytes]


def load(directory: Path) -> dict[str, File]:
    """Return the files of the built page by path; none if it was not built."""
    if not (directory / INDEX).is_file():
        return {}
    files = {}
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.suffix in (".br", ".gz"):
            continue
        body = path.read_bytes()
        bodies = {"": body}
        for encoding, suffix in _ENCODINGS:
            packed = path.with_name(path.name + suffix)
            if packed.is_file():
                bodies[encoding] = packed.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if media_type.startswith("text/"):
            media_type += "; charset=utf-8"
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        files[path.relative_to(directory).as_posix()] = File(media_type, etag, bodies)
    return files


def serve_elsewhere(router: APIRouter, files: Mapping[str, File]) -> None:
    """Answer each GET that no route matches with a file, or with the page, which knows its own paths.

    This replaces the router's default: a route for all paths would also match a GET that another route
    refuses for its method.
    """
    otherwise = router.default

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            await _answer(Request(scope), files)(scope, receive, send)
        else:
            await otherwise(scope, receive, send)

    router.default = serve
    router.redirect_slashes = False


def _answer(request: Request, files: Mapping[str, File]) -> Response:
    path = request.scope["path"].removeprefix("/")
    if path.startswith(("api/", "auth/", "assets/")) and path not in files:
        raise Problem(404, "not-found", f"there is nothing at /{path}")
    name = path if path in files else INDEX
    if name not in files:
        raise Problem(503, "not-ready", "the page has not been built: run `make setup`")
    file = files[name]
    kept = _FOR_EVER if name.startswith("assets/") else "no-cache"
    headers = {"etag": file.etag, "cache-control": kept, "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    accepted = {
        one.partition(";")[0].strip() for one in request.headers.get("accept-encoding", "").split(",")
    }
    encoding = next((name for name, _ in _ENCODINGS if name in accepted and name in file.bodies), "")
    if encoding:
        headers["content-encoding"] = encoding
    return Response(file.bodies[encoding], headers=headers, media_type=file.media_type)
