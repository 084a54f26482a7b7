"""The calls that sagas make, as JSON for the activity that performs them. Pure."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

from annals.sagas.declaration import Action, AskQuery, CallActivity, PublishEvent, SagaContext, SendCommand


def describe(action: Action, context: SagaContext[Any]) -> dict[str, Any]:
    """Return an action as JSON for an activity, which knows no declarations.

    Values such as dates, ids and models become JSON as pydantic makes it. Raises ValueError for a value that
    has no JSON, before the step has begun.
    """
    described: dict[str, Any] = to_jsonable_python(_described(action, context))
    return described


def _described(action: Action, context: SagaContext[Any]) -> dict[str, Any]:
    match action:
        case SendCommand():
            return {
                "kind": "command",
                "app": action.app,
                "type": action.type,
                "data": action.data(context),
                "accept": list(action.accept),
                "user": action.user(context) if action.user else None,
            }
        case AskQuery():
            path, fields = action.path(context), list(action.fields)
            return {"kind": "query", "app": action.app, "path": path, "fields": fields}
        case PublishEvent():
            data = action.data(context)
            return {"kind": "publish", "type": action.type, "data": data, "targets": list(action.targets)}
        case CallActivity():
            return {"kind": "activity", "name": action.name, "input": action.input(context)}
