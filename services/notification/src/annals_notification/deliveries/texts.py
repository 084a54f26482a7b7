"""Renders the titles of notices and the e-mails about them, with Jinja templates.

Titles are plain text. The template of e-mails escapes what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from annals_notification.deliveries.log import Claimed

_ASKED_TO_BE_TOLD = "notification.requested"

_TASK = "Task {{ stream | replace('task-', '', 1) }}"

# Texts are truncated here and in `_MAIL`, so that a sidecar takes an e-mail of 200 notices, escaped as HTML.
_TITLES = {
    _ASKED_TO_BE_TOLD: "{{ (title or '') | string | truncate(500) }}",
    "task.created": f"{_TASK} is new: {{{{ title }}}}",
    "task.updated": f"{_TASK} was changed",
    "task.assigned": f"{_TASK} was assigned to {{{{ assignee }}}}",
    "task.unassigned": f"{_TASK} is no longer assigned to {{{{ assignee }}}}",
    "task.accepted": f"{_TASK} was taken on by {{{{ assignee }}}}",
    "task.completed": f"{_TASK} is done",
    "task.reopened": f"{_TASK} is open again",
    "task.deleted": f"{_TASK} was deleted",
    "task.due_date_set": f"{_TASK} {{{{ 'is due ' ~ due if due else 'has no due date any more' }}}}",
    "handover_requested": "You are asked to take on task {{ task_id }}; please answer by {{ answer_by }}",
    "handover_reminder": "Please answer by {{ answer_by }} whether you take on task {{ task_id }}",
    "handover_withdrawn": "You are no longer asked to take on task {{ task_id }}",
    "reminder.due": "“{{ title }}” is due {{ due }}",
    "notification.webhook_disabled": "Your webhook was switched off: {{ answer }}",
}

_MAIL = """<!doctype html><html><body style="font-family: sans-serif">
{% for one in notices %}<h2 style="font-size: 1.1em">{{ one.title }}</h2>
{% if one.body %}<p style="white-space: pre-wrap">{{ one.body | truncate(3000) }}</p>
{% endif %}{% if one.actions %}<ul>
{% for name, path in one.actions.items() %}<li>{{ name }}: <code>POST {{ path }}</code></li>
{% endfor %}</ul>
{% endif %}<p style="color: #666">{{ one.kind }}, {{ one.occurred }}</p>
{% endfor %}</body></html>"""

_html = Environment(autoescape=True, undefined=StrictUndefined)
_text = Environment(autoescape=False, undefined=StrictUndefined)  # noqa: S701 - titles are plain text
_mail = _html.from_string(_MAIL)
_titles = {kind: _text.from_string(text) for kind, text in _TITLES.items()}


def title(kind: str, data: dict[str, Any]) -> str:
    """Return one line that says what happened, or `kind` if there is no text for it."""
    template = _titles.get(str(data.get("kind"))) or _titles.get(kind)
    if template is None:
        return kind
    known: dict[str, Any] = {
        "assignee": "",
        "task_id": "",
        "answer_by": "",
        "title": "",
        "due": "",
        "stream": "",
    }
    return template.render(known | data) or kind


def _body(kind: str, data: Mapping[str, Any]) -> str:
    body = data.get("body")
    return body if kind == _ASKED_TO_BE_TOLD and isinstance(body, str) else ""


def mail(claimed: Sequence[Claimed]) -> tuple[str, str]:
    """Return the subject and the HTML of an e-mail about one notice, or of a digest of several."""
    notices = [
        {
            "title": title(one.kind, dict(one.data)),
            "body": _body(one.kind, one.data),
            "kind": one.kind,
            "occurred": one.occurred.isoformat(timespec="minutes"),
            "actions": actions if isinstance(actions := one.data.get("actions"), dict) else {},
        }
        for one in claimed
    ]
    subject = str(notices[0]["title"]) if len(notices) == 1 else f"{len(notices)} notifications"
    return subject.replace("\n", " ")[:200], str(Markup(_mail.render(notices=notices)))  # noqa: S704 - escaped
