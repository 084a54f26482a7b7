"""Sessions of browsers: the identity is kept in the signed cookie, and nowhere else."""

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
    """Sign a user in; everything that the session held before is removed."""
    request.session.clear()
    request.session[_IDENTITY] = identity.model_dump(mode="json", exclude={_UNTIL})
    request.session[_UNTIL] = identity.until


def end(request: Request) -> None:
    """Sign the user out."""
    request.session.clear()


def fail(request: Request, why: str) -> None:
    """Keep the reason of a failed sign-in for the next page."""
    request.session[_FAILURE] = why[:500]


def failure(request: Request) -> str | None:
    """Return, once, the reason of the last failed sign-in; None if there is none."""
    why = request.session.pop(_FAILURE, None)
    return None if why is None else str(why)


def current(session: Mapping[str, Any]) -> Identity | None:
    """Return the identity that is signed in; None if there is none or it has expired."""
    until = session.get(_UNTIL, 0)
    if _IDENTITY not in session or until < time.time():
        return None
    try:
        return Identity.model_validate(session[_IDENTITY] | {_UNTIL: until})
    except ValidationError:  # written by an older version of the console
        return None
