"""Problems for the exceptions of the domain and the event store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from annals.aggregates import NotFound, RuleViolation
from annals.store import (
    AppendTooLarge,
    Backpressure,
    ConflictError,
    OutcomeUnknown,
    StoreUnavailable,
    Undecodable,
)
from annals.web.problems import Problem, from_validation, unavailable

LOOK_FIRST = "look whether it did before you send it again"
REPEAT = "repeat the command with the same key to learn its outcome"


@contextmanager
def domain_problems(again: str = LOOK_FIRST) -> Iterator[None]:
    """Turn each exception of the domain and the event store into its Problem; only this code maps them.

    `again` tells the caller of a request that may still take effect what to do.
    """
    try:
        yield
    except ValidationError as error:
        raise from_validation(error) from error
    except ValueError as error:
        raise Problem(400, "malformed", str(error)) from error
    except PermissionError as error:
        raise Problem(403, "forbidden", str(error)) from error
    except NotFound as error:
        raise Problem(404, "not-found", str(error)) from error
    except ConflictError as error:
        stream = error.stream.name
        detail = str(error)
        raise Problem(
            409, "conflict", detail, expected=error.expected, actual=error.actual, stream=stream
        ) from error
    except AppendTooLarge as error:
        raise Problem(413, "too-large", str(error)) from error
    except RuleViolation as error:
        raise Problem(422, "rule", str(error), rule=error.rule) from error
    except Backpressure as error:
        raise Problem(503, "busy", str(error), headers={"Retry-After": str(error.retry_after)}) from error
    except OutcomeUnknown as error:
        raise Problem(503, "outcome-unknown", f"{error}; {again}", headers={"Retry-After": "2"}) from error
    except (StoreUnavailable, Undecodable) as error:
        raise unavailable(f"{error}; nothing was changed") from error
