"""Calls to the services, all of them through a Dapr sidecar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

_SECONDS = 30.0
_CONNECT_SECONDS = 3.0
_LAST_PORT = 65_535
_NO_PROXY = ("all://127.0.0.1", "all://[::1]", "all://localhost")
"""Addresses of this machine, for which no proxy is used; a sidecar elsewhere may be behind one."""


class Exit(IntEnum):
    """The exit codes of the process."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 5
    FOUND_WRONG = 6
    """A check, such as by `doctor` or `audit verify`, found something wrong."""


_EXITS = {
    400: Exit.USAGE,
    403: Exit.REFUSED,
    404: Exit.NOT_FOUND,
    409: Exit.REFUSED,
    413: Exit.REFUSED,
    422: Exit.REFUSED,
}


class Failed(Exception):
    """A command failed: the message for people, the problem for programs, and the exit code."""

    def __init__(self, message: str, code: Exit, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.problem = problem


class SidecarNotReady(Failed):
    """A sidecar answers, and cannot reach others yet, or not any more."""


class SidecarRefused(Failed):
    """A sidecar refused: the call lacks its API token, or the called app's access control forbids it."""


def headers_of(tenant: str, user: str | None, api_token: str | None) -> dict[str, str]:
    """Return the headers for tenant and user, and for the sidecar's API token."""
    return (
        header("x-tenant-id", "--tenant", tenant)
        | header("x-user-id", "--user", user)
        | header("dapr-api-token", "--api-token", api_token)
    )


def http_address(text: str) -> str:
    """Return a sidecar's address without a slash at its end. Raises Failed if it is not an HTTP URL."""
    try:
        url = httpx.URL(text)
        found = url.scheme in ("http", "https") and url.host and (url.port or 0) <= _LAST_PORT
    except (httpx.InvalidURL, UnicodeEncodeError):
        found = False
    if not found:
        raise Failed(f"--sidecar takes an address such as http://127.0.0.1:3501, not {text!r}", Exit.USAGE)
    return text.rstrip("/")


def header(name: str, option: str, value: str | None) -> dict[str, str]:
    """Return an option as a header; no header if the option is not given.

    Raises Failed for an empty option, as from a variable that is not set: without its header, the call would
    mean something else. Raises Failed for characters beyond ASCII, too: each service on the way would turn
    them into different ones.
    """
    if value is None:
        return {}
    if not value:
        raise Failed(f"{option} is given, but empty", Exit.USAGE)
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        raise Failed(f"{option} takes ASCII only, without leading or trailing blanks", Exit.USAGE)
    return {name: value}


def segment(text: str) -> str:
    """Encode a name, such as an id, as one segment of a path. Raises Failed for a name that cannot be one.

    Even an encoded slash ends a segment: services and sidecars decode a path before they read it.
    """
    if text in ("", ".", "..") or "/" in text:
        raise Failed(f"{text!r} cannot be a name or an id", Exit.USAGE)
    try:
        return quote(text, safe="~@:")
    except UnicodeEncodeError as error:
        raise Failed(f"{text!r} cannot be a name or an id", Exit.USAGE) from error


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A sidecar's HTTP API. Every method raises Failed."""

    url: str
    headers: Mapping[str, str]
    http: httpx.Client = field(
        default_factory=lambda: httpx.Client(
            timeout=httpx.Timeout(_SECONDS, connect=_CONNECT_SECONDS), mounts=dict.fromkeys(_NO_PROXY)
        )
    )

    def get(self, app: str, path: str, **params: Any) -> Any:
        """Send a GET to a service; see `call`."""
        return self.call("GET", app, path, params=params)

    def call(
        self,
        method: str,
        app: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = _SECONDS,
    ) -> Any:
        """Send a request to a service and return the JSON that it answers, None for a 204."""
        request = self._request(
            method,
            app,
            path,
            json=body,
            content=content,
            params=_given(params),
            headers={**self.headers, **(headers or {})},
            timeout=httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
        )
        with self._reaching(method, app, seconds):
            answer = self.http.send(request)
        _raise_problem(answer, app)
        if answer.status_code == HTTPStatus.NO_CONTENT:
            return None
        try:
            return answer.json()
        except ValueError as error:
            kind = answer.headers.get("content-type", "").partition(";")[0]
            if method == "GET" and kind not in ("", "application/json"):
                raise Failed(f"the service {app} answers in {kind}, not in JSON", Exit.USAGE) from error
            # If a service dies while it answers, the sidecar ends the answer as if that were all of it: half
            # of the body, or no body.
            message = f"the service {app} broke off in the middle of its answer"
            raise _unanswered(method, app, message) from error

    @contextmanager
    def stream(self, app: str, path: str, **params: Any) -> Iterator[httpx.Response]:
        """Open an answer that arrives in pieces, with no limit on how long it takes."""
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        request = self._request(
            "GET", app, path, params=_given(params), headers=dict(self.headers), timeout=timeout
        )
        with self._reaching("GET", app), closing(self.http.send(request, stream=True)) as answer:
            if answer.is_error:
                answer.read()
            _raise_problem(answer, app)
            yield answer

    def healthy(self) -> None:
        """Raise Failed unless the sidecar is healthy and accepts the API token."""
        with self._reaching("GET", "sidecar"):
            # Whether calls leave the sidecar. Its own app may be away: the checks that follow say so.
            answer = self.http.get(f"{self.url}/v1.0/healthz/outbound", headers=dict(self.headers))
            if answer.is_error:
                raise SidecarNotReady(
                    f"the sidecar at {self.url} is not ready (HTTP {answer.status_code})", Exit.UNAVAILABLE
                )
            # Only the health check needs no token. Everything else does, even an API that is switched off.
            answer = self.http.get(f"{self.url}/v1.0/metadata", headers=dict(self.headers))
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            _raise_problem(answer, "sidecar")

    def _request(self, method: str, app: str, path: str, **given: Any) -> httpx.Request:
        url = f"{self.url}/v1.0/invoke/{app}/method/{path.lstrip('/')}"
        try:
            return self.http.build_request(method, url, **given)
        except (httpx.InvalidURL, ValueError, RecursionError) as error:
            # Half a character from a shell; numbers or nesting that JSON cannot have; a URL that is too long.
            raise Failed(f"this cannot be sent: {error}", Exit.USAGE) from error

    @contextmanager
    def _reaching(self, method: str, app: str, seconds: float = _SECONDS) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            message = f"no sidecar answers at {self.url}: start the suite (make start), or pass --sidecar URL"
            raise Failed(message, Exit.UNAVAILABLE) from error
        except httpx.TimeoutException as error:
            message = f"the sidecar at {self.url} did not answer within {seconds:g} s"
            raise _unanswered(method, app, message) from error
        except httpx.HTTPError as error:
            message = f"the sidecar at {self.url} broke off: {str(error) or type(error).__name__}"
            raise _unanswered(method, app, message) from error


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the parameters that have a value."""
    return {name: value for name, value in (params or {}).items() if value is not None}


def _unanswered(method: str, app: str, message: str, problem: Mapping[str, Any] | None = None) -> Failed:
    """Return the error for a missing answer. Any request but a GET may have taken effect all the same."""
    if method != "GET":
        message += f"; {app} may have done what was asked"
    return Failed(message, Exit.UNAVAILABLE, problem)


def _raise_problem(answer: httpx.Response, app: str) -> None:
    if not answer.is_error:
        return
    try:
        said = answer.json()
    except ValueError:
        said = None
    problem = said if isinstance(said, dict) else {}
    code = _EXITS.get(answer.status_code, Exit.ERROR)
    if "type" not in problem:  # the sidecar's own answer
        problem.setdefault(
            "detail", problem.get("message") or answer.text.strip() or f"HTTP {answer.status_code}"
        )
        if answer.status_code in (500, 502, 503, 504):  # it did not find the app, or got no answer
            message = f"the service {app} did not answer: {problem['detail']}"
            raise _unanswered(answer.request.method, app, message, problem)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise SidecarRefused(f"{problem['detail']}: set DAPR_API_TOKEN", code, problem)
        if answer.status_code == HTTPStatus.FORBIDDEN:
            raise SidecarRefused(str(problem["detail"]), code, problem)
    if answer.status_code in (503, 504):
        code = Exit.UNAVAILABLE
    lines = [str(problem.get("detail") or f"HTTP {answer.status_code}")]
    lines += [f"  {one.get('field')}: {one.get('expected')}" for one in problem.get("errors", [])]
    if known := problem.get("known"):
        lines.append(f"  known: {', '.join(known)}")
    raise Failed("\n".join(lines), code, problem)
