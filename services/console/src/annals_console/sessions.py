"""Who a browser's session belongs to: kept in its signed cookie, and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from annals_console.identity import Identity

COOKIE = "annals_session"
_IDENTITY, _UNTIL, _FAILURE = "identity", "until", "failure"


def begin(request: Request, identity: Identity) -> None:
    """Sign somebody in; whatever the session held before is gone."""
    request.session.clear()
    request.session[_IDENTITY] = identity.model_dump(mode="json", exclude={_UNTIL})
    request.session[_UNTIL] = identity.until


def end(request: Request) -> None:
    """Sign out."""
    request.session.clear()


def fail(request: Request, why: str) -> None:
    """Keep why nobody could be signed in, for the page that comes next."""
    request.session[_FAILURE] = why[:500]


def failure(request: Request) -> str | None:
    """Why nobody could be signed in just now. It is told once."""
    why = request.session.pop(_FAILURE, None)
    return None if why is None else str(why)


def current(session: Mapping[str, Any]) -> Identity | None:
    """Who is signed in; None when nobody is, or not any more."""
    until = session.get(_UNTIL, 0)
    if _IDENTITY not in session or until < time.time():
        return None
    try:
        return Identity.model_validate(session[_IDENTITY] | {_UNTIL: until})
    except ValidationError:  # of an older version of the console
        return None
