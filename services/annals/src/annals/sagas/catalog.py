"""The sagas that an orchestrator declares, and what their declarations say about a saga that runs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from annals.sagas.declaration import CallActivity, Saga, StartOn, StartSaga, StartSagas
from annals.sagas.start import children, start_of, triggered_id
from annals.sagas.state import SagaState
from annals.sagas.step_state import StepStatus


class UnknownSaga(Exception):
    """No saga of this type is declared; `known` lists the types that are."""

    def __init__(self, saga_type: str, known: list[str]) -> None:
        super().__init__(f"no saga is called {saga_type!r}")
        self.known = known


class NotDeclared(Exception):
    """This replica does not declare the version of a saga, or refuses its input: not yet, or not any more.

    A request that needs the declaration is refused. A workflow for it would be held by Dapr until a worker
    knows the version, or would fail at its first turn.
    """


class SagaCatalog:
    """The sagas that an orchestrator declares.

    Raises ValueError if a version is declared twice, if a saga starts one that is not in the catalogue, if
    two actions of a newest version have the same key, or if two sagas that one event starts would have the
    same id. Older versions must stay: their sagas may run.
    """

    def __init__(self, *sagas: Saga[Any]) -> None:
        self._versions: dict[str, dict[int, Saga[Any]]] = {}
        for saga in sagas:
            versions = self._versions.setdefault(saga.type, {})
            if saga.version in versions:
                raise ValueError(f"version {saga.version} of {saga.type} is declared twice")
            versions[saga.version] = saga
        for saga in sagas:
            for step in saga.flat():
                if isinstance(step.action, StartSaga | StartSagas) and step.action.saga not in self._versions:
                    raise ValueError(
                        f"{saga.type}: {step.name} starts {step.action.saga}, which is not declared"
                    )
        for newest in map(self.newest, self.types):
            names = {step.name for step in newest.flat()}
            for step in newest.flat():
                if step.compensation is not None and (same := f"{step.name}/undo") in names:
                    both = f"{same} would have the key of {step.name}'s compensation"
                    raise ValueError(f"{newest.type}: {both}: give it another name, in a new version")
        started: dict[str, str] = {}
        for newest in map(self.newest, self.types):
            for event_type in {one.event_type for one in newest.triggers if isinstance(one, StartOn)}:
                other = started.setdefault(triggered_id(newest.type, event_type), newest.type)
                if other != newest.type:
                    both = f"a saga {other} and a saga {newest.type} that {event_type} starts"
                    raise ValueError(f"{both} would have the same id: give one another name")

    def require_functions(self, names: Collection[str]) -> None:
        """Raise ValueError if a `CallActivity` calls a function that is not among `names`."""
        for saga in self.all():
            for step in saga.flat():
                for action in (step.action, step.compensation):
                    if isinstance(action, CallActivity) and action.name not in names:
                        raise ValueError(
                            f"{saga.type}: {step.name} calls the function {action.name}, which does not exist"
                        )

    @property
    def types(self) -> list[str]:
        """The types of the sagas, sorted."""
        return sorted(self._versions)

    def all(self) -> list[Saga[Any]]:
        """Every version of every saga."""
        return [saga for versions in self._versions.values() for saga in versions.values()]

    def newest(self, saga_type: str) -> Saga[Any]:
        """Return the newest version of a saga, the one that is started. Raises UnknownSaga."""
        versions = self._versions.get(saga_type)
        if versions is None:
            raise UnknownSaga(saga_type, self.types)
        return versions[max(versions)]

    def find(self, saga_type: str, version: int, steps: Sequence[str] | None) -> Saga[Any] | None:
        """Return a version of a saga; None if it is not declared, or not with these steps, if they are known.

        With a step more, or one less, a workflow would take the result of one step for that of another: Dapr
        replays the results of activities in their order, and does not compare what they were asked.
        """
        saga = self._versions.get(saga_type, {}).get(version)
        if saga is None or (steps is not None and saga.step_names != tuple(steps)):
            return None
        return saga

    def of(self, state: SagaState) -> Saga[Any] | None:
        """Return the declaration of a saga that has started, or None: see `find`."""
        return self.find(state.saga_type, state.saga_version, tuple(state.steps))

    def require(self, state: SagaState) -> Saga[Any]:
        """Return the declaration of a saga. Raises NotDeclared if it is not here, or refuses the input."""
        saga = self.of(state)
        if saga is None:
            which = f"version {state.saga_version} of {state.saga_type}"
            if state.saga_version not in self._versions.get(state.saga_type, {}):
                raise NotDeclared(f"this replica has no {which}")
            raise NotDeclared(
                f"{which} has other steps in this replica than when the saga began: {', '.join(state.steps)}."
                " Declare it with those, and the changed saga as a new version"
            )
        try:
            saga.input.model_validate(state.input)
        except ValidationError as error:
            raise NotDeclared(f"this replica refuses the input of the saga: {error}") from error
        return saga

    def undoable(self, state: SagaState) -> frozenset[str]:
        """Return the steps of a saga that have a compensation; all, if its version is not declared."""
        saga = self.of(state)
        if saga is None:
            return frozenset(state.steps)
        return frozenset(step.name for step in saga.flat() if step.compensation is not None)

    def running_children(self, saga_id: str, tenant: str, state: SagaState) -> list[str] | None:
        """Return the ids of the children that a saga runs.

        None if its version is not declared, or refuses the input that says which children they are.
        """
        saga = self.of(state)
        if saga is None:
            return None
        start = start_of(saga_id, tenant, state)
        try:
            return [
                child
                for step in saga.flat()
                if state.step(step.name).status is StepStatus.RUNNING
                for child in children(saga, step, start)
            ]
        except ValidationError:
            return None

    def same_input(self, state: SagaState, given: Mapping[str, Any]) -> bool:
        """Return whether a saga, as its own version reads it, was started with the input `given`."""
        saga = self.of(state)
        try:
            return (
                saga is not None and saga.input.model_validate(given).model_dump(mode="json") == state.input
            )
        except ValidationError:
            return False
