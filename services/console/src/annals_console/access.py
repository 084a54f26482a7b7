"""The requests that the edge passes on, and the role that each needs. All other requests are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from annals.web.problems import Problem, malformed
from annals_console.identity import Identity, Role

VIEWER, MEMBER, OPERATOR, SUITE = Role.VIEWER, Role.MEMBER, Role.OPERATOR, Role.SUITE_OPERATOR
OWN = "{own_user}"
"""A placeholder in a path for the caller's own user id; any other user id is refused."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One request that is allowed; `path` is the path at the service."""

    method: str
    service: str
    path: str
    role: Role
    summary: str
    role_for_others: Role | None = None
    """The lowest role that sees the data of other users; for roles below it, `user` is always the caller."""
    fields_of_services: tuple[str, ...] = ()
    """Fields of the body that only services may send; a caller's request with one of them is refused."""

    @property
    def role_to_choose_id(self) -> Role | None:
        """The lowest role that may choose the `id` of the saga that this request starts, if it starts one.

        A lower role could take an id that another saga needs later.
        """
        begins = self.method == "POST" and self.path.rpartition("/")[0] == "sagas"
        return OPERATOR if begins else None

    def refuse_fields_of_services(self, body: object, within: str = "") -> None:
        """Raise a Problem if a body has a field that only services may send; `within` says where it is."""
        for field in self.fields_of_services:
            if isinstance(body, dict) and field in body:
                raise malformed(f"{within}{field}", "to be left out: only services send it")


def _commands(role: Role, *types: str, fields_of_services: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    return tuple(
        Rule("POST", "command", f"commands/{name}", role, f"Send {name}", None, fields_of_services)
        for name in types
    )


def _queries(role: Role, **paths: str) -> tuple[Rule, ...]:
    return tuple(
        Rule("GET", "projector", f"queries/{path}", role, title.replace("_", " ").capitalize())
        for title, path in paths.items()
    )


def _dead_letters(service: str) -> tuple[Rule, ...]:
    one = "dead-letters/{letter}"
    return (
        Rule("GET", service, "dead-letters", OPERATOR, "List the dead letters"),
        Rule("GET", service, "dead-letters/groups", OPERATOR, "List the groups of dead letters"),
        Rule("GET", service, one, OPERATOR, "Get a dead letter"),
        Rule("POST", service, f"{one}/dry-run", OPERATOR, "Try a replay"),
        Rule("POST", service, "dead-letters/groups/replay", OPERATOR, "Replay a group of dead letters"),
        Rule("POST", service, f"{one}/replay", OPERATOR, "Replay a dead letter"),
        Rule("POST", service, f"{one}/discard", OPERATOR, "Discard a dead letter"),
        Rule("PUT", service, f"{one}/data", OPERATOR, "Change the data that the consumer sees"),
    )


_SAGA = "sagas/{saga}"
_GENERATION = "projections/{read_model}/generations/{number}"

RULES: tuple[Rule, ...] = (
    *_commands(MEMBER, "task.create", "task.update"),
    # Only a hand-over reserves places. A task forgets earlier ones for those that it is told of.
    *_commands(MEMBER, "task.assign", fields_of_services=("reserved", "handover")),
    *_commands(MEMBER, "task.unassign", "task.complete", "task.reopen", "task.delete", "task.set_due_date"),
    *_commands(OPERATOR, "member.register", "member.set_capacity", "member.leave", "subject.erase"),
    Rule("GET", "command", "store/lanes", VIEWER, "The lanes"),
    *_queries(
        VIEWER,
        tasks="tasks",
        one_task="tasks/{task}",
        members="members",
        one_member="members/{member}",
        sagas="sagas",
        one_saga="sagas/{saga}",
        history_of_a_stream="streams/{stream}/events",
        state_of_a_stream="streams/{stream}/state",
        events="events",
        one_event="events/{event}",
    ),
    *_queries(OPERATOR, audit_trail="audit", export_of_the_audit_trail="audit/export"),
    Rule("GET", "projector", "projections", VIEWER, "The read models"),
    Rule("POST", "projector", "projections/{read_model}/rebuild", SUITE, "Build a new generation"),
    Rule("GET", "projector", _GENERATION, VIEWER, "One generation"),
    Rule("GET", "projector", f"{_GENERATION}/difference", SUITE, "What differs from the live one"),
    *(
        Rule("POST", "projector", f"{_GENERATION}/{what}", SUITE, f"{what.capitalize()} a generation")
        for what in ("pause", "resume", "switch", "retire")
    ),
    Rule("PUT", "projector", f"{_GENERATION}/throttle", SUITE, "Limit the events per second of a generation"),
    Rule("DELETE", "projector", _GENERATION, SUITE, "Drop a generation"),
    Rule("POST", "saga-orchestrator", "sagas/task-handover", MEMBER, "Hand a task over"),
    *(
        Rule("POST", "saga-orchestrator", f"{_SAGA}/events/{event}", MEMBER, f"Answer: {event}")
        for event in ("accept", "decline")
    ),
    Rule("POST", "saga-orchestrator", f"{_SAGA}/events/{{event}}", OPERATOR, "Raise any event"),
    *(
        Rule("POST", "saga-orchestrator", f"{_SAGA}/{what}", OPERATOR, f"{what.capitalize()} a saga")
        for what in ("cancel", "suspend", "resume", "restart", "retry", "terminate")
    ),
    Rule("GET", "notification", "stream", VIEWER, "Live events, as Server-Sent Events"),
    Rule("GET", "notification", "deliveries", VIEWER, "The delivery log", role_for_others=OPERATOR),
    Rule("GET", "notification", "reminders", VIEWER, "Reminders"),
    Rule("GET", "notification", "recurrences", VIEWER, "Recurrences, the oldest first"),
    Rule("GET", "notification", "recurrences/{id}", VIEWER, "A recurrence, with its next occurrence"),
    Rule("PUT", "notification", "recurrences/{id}", MEMBER, "Create or replace a recurrence"),
    Rule("POST", "notification", "recurrences/{id}/pause", MEMBER, "Pause a recurrence"),
    Rule("POST", "notification", "recurrences/{id}/resume", MEMBER, "Resume a recurrence"),
    Rule("DELETE", "notification", "recurrences/{id}", MEMBER, "Delete a recurrence"),
    Rule("GET", "notification", f"inbox/{OWN}", VIEWER, "One's own inbox"),
    Rule("POST", "notification", f"inbox/{OWN}/read", VIEWER, "Mark all as read"),
    Rule("PUT", "notification", f"inbox/{OWN}/{{notice}}/read", VIEWER, "Mark a notice as read"),
    Rule("DELETE", "notification", f"inbox/{OWN}/{{notice}}/read", VIEWER, "Mark a notice as unread"),
    Rule("GET", "notification", f"preferences/{OWN}", VIEWER, "One's own preferences"),
    Rule("PUT", "notification", f"preferences/{OWN}", VIEWER, "Replace one's own preferences"),
    Rule("DELETE", "notification", "preferences/{user}", OPERATOR, "Delete a user's preferences"),
    *(
        rule
        for name in ("projector", "saga-orchestrator", "notification", "command")
        for rule in _dead_letters(name)
    ),
)


def check_recurrence(identity: Identity, recurrence: dict[str, Any]) -> dict[str, Any]:
    """Return the recurrence with the caller as its user. Raises a Problem if they may not send its command.

    A command that recurs is sent in the name of the user who set it up.
    """
    command = recurrence.get("command")
    given = command if isinstance(command, dict) else {}
    wanted = f"commands/{given.get('type')}"
    rule = next((rule for rule in RULES if rule.service == "command" and rule.path == wanted), None)
    if rule is None or rule.role > identity.role:
        raise Problem(403, "forbidden", "only a user who may send a command may let it recur")
    rule.refuse_fields_of_services(given.get("data"), "command.data.")
    return recurrence | {"user": identity.user}
