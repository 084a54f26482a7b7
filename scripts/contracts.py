"""Generates the contracts in docs/api: OpenAPI of each service, AsyncAPI of the topics, and pages of both.

`write` writes them; `check` fails if they do not match the code.
"""

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import yaml

import written
from annals.events import EventRegistry, IntegrationEvent, RecordedEvent
from annals.sagas.events import REGISTRY as SAGA_EVENTS
from annals.web import ServiceApp
from annals_command.app import create as create_command
from annals_command.domain.events import REGISTRY as DOMAIN_EVENTS
from annals_command.settings import CommandSettings
from annals_console.app import create as create_console
from annals_console.settings import AuthMode, ConsoleSettings
from annals_notification.app import create as create_notification
from annals_notification.settings import NotificationSettings
from annals_projector.app import create as create_projector
from annals_projector.settings import ProjectorSettings
from annals_saga_orchestrator.app import create as create_saga_orchestrator
from annals_saga_orchestrator.settings import SagaSettings

ROOT = Path(__file__).resolve().parents[1]
DIRECTORY = ROOT / "docs" / "api"
SUBSCRIPTIONS = ROOT / "components" / "shared" / "subscriptions.yaml"
VERSION = "0.1.0"

Document = dict[str, Any]

# The apps that publish to each topic of events. Its readers come from the subscriptions.
WRITERS = {
    "domain-events": ("command",),
    "saga-events": ("saga-orchestrator",),
    "integration-events": ("saga-orchestrator", "notification"),
}
ABOUT = {
    "domain-events": "Every event of tasks, members, data subjects and operations, in the order of its"
    " stream.",
    "saga-events": "Every event of the sagas, in the order of its saga.",
    "integration-events": "Events for other systems, and their requests to the notification service.",
}
INTEGRATION = {
    "notification.requested": "Requests a notification to somebody: `user`, `title`, `body`.",
    "reminder.requested": "Requests a notification at a given time: `reminder_id`, `at` with its time zone, "
    "and the notification's `user`, `title`, `body`. An id can be used only once: to move a reminder, cancel "
    "it and request another one under a new id.",
    "reminder.cancelled": "Cancels a reminder: `reminder_id`.",
}

# Nobody asks it: a console needs its issuer only once somebody signs in.
AN_ISSUER: dict[str, Any] = {
    "oidc_issuer": "https://issuer.example",
    "oidc_client_id": "console",
    "session_key": "-" * 32,
    "public_url": "https://annals.example",
}

SIDECAR = "Call it through a sidecar: `/v1.0/invoke/{name}/method/…`."
EDGE = (
    "Call it at its own address: `http://127.0.0.1:8080` on one machine, elsewhere that of"
    " `ANNALS_PUBLIC_URL`. With `ANNALS_AUTH=oidc`, browsers sign in at `/auth/login`, and other clients send"
    " a bearer token of the issuer; without either, requests to `/api` are answered with 401. The user, the"
    " tenant and the role are those of the sign-in or the token: if `x-tenant-id` names another tenant, the"
    " request is refused with 403."
)

ATTRIBUTES = {
    "id": "",
    "source": "",
    "tenantid": "",
    "correlationid": "the id shared by everything that has the same origin",
    "causationid": "the id of the command or event that led to it",
    "subject": "the stream",
    "partitionkey": "the stream and its tenant; events with the same key keep their order",
    "streamversion": "the event's version in its stream",
    "commandtype": "the type of the command that led to it, if one did",
    "traceparent": "the span that published it",
    "traceid": "the same as `traceparent`, under the name that Dapr uses",
    "tracestate": "",
}
"""A CloudEvent's attributes beside its type, time and data; `annals.events.cloudevents` writes them."""


def apps() -> Iterator[tuple[str, ServiceApp]]:
    """Create every service, and yield its name and application: the console once for each way to sign in."""
    yield "command", create_command(CommandSettings())
    yield "projector", create_projector(ProjectorSettings())
    yield "saga-orchestrator", create_saga_orchestrator(SagaSettings())
    yield "notification", create_notification(NotificationSettings())
    for auth in AuthMode:
        yield "console", create_console(ConsoleSettings(auth=auth, **AN_ISSUER))


async def openapi() -> dict[str, Document]:
    """Return each service's OpenAPI document. Routes exist once a service starts, which needs no sidecar."""
    documents: dict[str, Document] = {}
    begun = []  # Kept: Python ends a lifespan that nobody holds, and a service that ends so early may fail.
    for name, app in apps():
        begun.append(app.router.lifespan_context(app))
        await begun[-1].__aenter__()
        made = app.openapi()
        document = documents.setdefault(name, made)
        document["paths"] |= made["paths"]
        document["components"]["schemas"] |= made["components"]["schemas"]
        require_reachable(name, document)
    return documents


def require_reachable(name: str, document: Document) -> None:
    """Raise LookupError if an earlier path takes all requests to a later one."""
    before: list[tuple[str, str]] = []
    for path, methods in document["paths"].items():
        for earlier, method in before:
            if method in methods and re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", earlier), path):
                raise LookupError(f"{name}: {method} {path} is never reached, {earlier} takes it")
        before += [(path, method) for method in methods]


def asyncapi() -> Document:
    """Return the AsyncAPI 3 document of all topics."""
    messages: Document = {}
    channels: Document = {}
    operations: Document = {}
    for topic, about in ABOUT.items():
        named = dict(messages_of(topic))
        messages |= named
        channels[topic] = {
            "address": topic,
            "description": about,
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in named},
        }
        for app in WRITERS[topic]:
            operations[f"{app}.send.{topic}"] = operation("send", topic, app)
    for app, topic in readers():
        if topic in channels:
            operations[f"{app}.receive.{topic}"] = operation("receive", topic, app)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Annals topics",
            "version": VERSION,
            "description": "CloudEvents 1.0 in JSON, whose data is the whole envelope of an event.",
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {
                "RecordedEvent": schema_of(RecordedEvent.model_json_schema()),
                "IntegrationEvent": schema_of(IntegrationEvent.model_json_schema()),
            },
        },
    }


def messages_of(topic: str) -> Iterator[tuple[str, Document]]:
    """Yield the name and the description of each message on a topic."""
    if topic == "integration-events":
        for event_type, about in INTEGRATION.items():
            yield event_type, message(event_type, about, "IntegrationEvent", {})
        return
    registry: EventRegistry = DOMAIN_EVENTS if topic == "domain-events" else SAGA_EVENTS
    for name, schema in registry.schemas().items():
        event_type = name.partition("@")[0]
        data = schema_of(schema)
        yield name, message(event_type, schema.get("description", ""), "RecordedEvent", data)


def message(event_type: str, about: str, envelope: str, data: Document) -> Document:
    """Describe one message: a CloudEvent whose data is an envelope, which holds the event's data."""
    of_stream = ("subject", "partitionkey", "streamversion", "commandtype")
    absent = () if envelope == "RecordedEvent" else of_stream
    summary, _, description = about.partition("\n\n")
    attributes = {
        name: {"type": "string"} | ({"description": text} if text else {})
        for name, text in ATTRIBUTES.items()
        if name not in absent
    }
    properties: Document = {"event_type": {"const": event_type}} | ({"data": data} if data else {})
    return {
        "name": event_type,
        "title": event_type,
        "summary": summary,
        **({"description": description} if description else {}),
        "contentType": "application/cloudevents+json",
        "payload": {
            "type": "object",
            "required": ["specversion", "id", "source", "type", "data"],
            "properties": {
                "specversion": {"const": "1.0"},
                "datacontenttype": {"const": "application/json"},
                "type": {"const": event_type},
                "time": {"type": "string", "format": "date-time"},
                **attributes,
                "data": {
                    "allOf": [
                        {"$ref": f"#/components/schemas/{envelope}"},
                        {"type": "object", "properties": properties},
                    ]
                },
            },
        },
    }


def schema_of(schema: Document) -> Document:
    """Return a JSON Schema with its definitions inlined, so that it can stand anywhere in a document."""
    definitions = schema.get("$defs", {})

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return put(definitions[value["$ref"].rpartition("/")[2]])
            return {name: put(item) for name, item in value.items() if name != "$defs"}
        return [put(item) for item in value] if isinstance(value, list) else value

    inlined: Document = put(schema)
    return inlined


def operation(action: str, topic: str, app: str) -> Document:
    """Describe an operation: an app sends to a topic, or receives from it."""
    return {"action": action, "channel": {"$ref": f"#/channels/{topic}"}, "tags": [{"name": app}]}


def readers() -> Iterator[tuple[str, str]]:
    """Yield each subscription's app and topic."""
    for one in yaml.safe_load_all(SUBSCRIPTIONS.read_text()):
        for app in one["scopes"]:
            yield app, one["spec"]["topic"]


def service_page(name: str, document: Document) -> str:
    """Return a service's OpenAPI document as a page."""
    lines = [
        f"# The API of `{name}`",
        "",
        f"{EDGE if name == 'console' else SIDECAR.format(name=name)} The complete contract:"
        f" [{name}.openapi.json]({name}.openapi.json).",
        "",
    ]
    if shared := document["components"].get("parameters"):
        lines += ["Every request accepts these headers:", ""]
        lines += [f"- `{name}`: {given['description']}" for name, given in shared.items()]
        lines.append("")
    for path, methods in sorted(document["paths"].items()):
        for method, one in methods.items():
            lines += [f"## {method.upper()} `{path}`", "", sentence(one.get("summary", ""))]
            if about := one.get("description"):
                lines += ["", about]
            if body := about_body(one, document):
                lines += ["", body]
            rows = [
                (given["name"], given["in"], kind(given["schema"], document), about_parameter(given))
                for given in one.get("parameters", ())
                if "$ref" not in given
            ]
            rows += [
                (field, "body", kind(schema, document), schema.get("description", ""))
                for field, schema in body_fields(one, document).items()
            ]
            if rows:
                lines += ["", "| field | in | type | |", "|---|---|---|---|"]
                lines += [f"| `{field}` | {place} | {what} | {text} |" for field, place, what, text in rows]
            if answer := answered(one, document):
                lines += ["", f"Answers with {answer}."]
            lines.append("")
    lines += ["# Schemas", ""]
    for title, schema in sorted(listed(document).items()):
        lines += [f"## {title}", "", sentence(schema.get("description", "")), ""]
        lines += ["| field | type | |", "|---|---|---|"]
        lines += [
            f"| `{field}` | {kind(given, document)} | {given.get('description', '')} |"
            for field, given in schema["properties"].items()
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def answered(one: Document, document: Document) -> str:
    """Return the type of an operation's answer on success; "" if that has no named schema."""
    for status, answer in one["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        if status.startswith("2") and "$ref" in schema:
            items = resolved(schema, document)["properties"].get("items")
            paged = _name(schema).startswith("Page_")
            return f"a page of {kind(items['items'], document)}" if paged else kind(schema, document)
    return ""


def listed(document: Document) -> Mapping[str, Document]:
    """Return the named objects with fields, except pages: the operation that answers one names its items."""
    return {
        name: schema
        for name, schema in document["components"]["schemas"].items()
        if schema.get("properties") and not name.startswith("Page_")
    }


def _name(schema: Document) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def about_body(one: Document, document: Document) -> str:
    """Return what there is to say of an operation's body beside its fields; "" if that is nothing.

    The body of a command has the text of the operation itself.
    """
    body = one.get("requestBody", {})
    for media_type, content in body.get("content", {}).items():
        schema = resolved(content["schema"], document)
        about = str(schema.get("description", ""))
        if media_type != "application/json":
            text = f"The body is `{media_type}`."
        elif schema and not body_fields(one, document):
            what = kind(schema, document)
            text = f"The body is {'an ' if what.startswith('array') else ''}{what}."
        elif about and not about.startswith(one["summary"]):
            text = f"The body: {about[0].lower()}{about[1:]}"
        else:
            return ""
        return text if body.get("required") else f"{text} It may be left out."
    return ""


def body_fields(one: Document, document: Document) -> Mapping[str, Document]:
    """Return the fields of an operation's JSON body; none if the body has no schema."""
    content = one.get("requestBody", {}).get("content", {})
    schema = resolved(content.get("application/json", {}).get("schema", {}), document)
    fields: Mapping[str, Document] = schema.get("properties", {})
    return fields


def resolved(schema: Document, document: Document) -> Document:
    """Follow a schema's `$ref`, if it has one. Raises KeyError if the document lacks the target."""
    if "$ref" not in schema:
        return schema
    found = document
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def kind(schema: Document, document: Document) -> str:
    """Return a schema's type in a word or two, as a link if the page has a section on it."""
    if "$ref" in schema and _name(schema) in listed(document):
        return f"[{_name(schema)}](#{_name(schema).lower()})"
    schema = resolved(schema, document)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(one, document) for one in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {kind(schema.get('items', {}), document)}"
    return str(schema.get("format") or schema.get("type") or "any")


def about_parameter(given: Document) -> str:
    """Return a parameter's description, or else that of its schema."""
    return str(given.get("description") or given["schema"].get("description") or "")


def sentence(text: str) -> str:
    """End a summary with a full stop, unless it ends a sentence already."""
    return text if not text or text.endswith((".", "!", "?")) else text + "."


def topics_page(document: Document) -> str:
    """Return the AsyncAPI document as a page."""
    lines = [
        "# Topics",
        "",
        "CloudEvents 1.0 in JSON, whose `data` is the whole envelope of an event. The complete contract:"
        " [asyncapi.json](asyncapi.json); the schemas of the events' data: [../events](../events).",
        "",
    ]
    for topic, channel in document["channels"].items():
        users: dict[str, list[str]] = {"send": [], "receive": []}
        for one in document["operations"].values():
            if one["channel"]["$ref"].endswith(f"/{topic}"):
                users[one["action"]].append(f"`{one['tags'][0]['name']}`")
        lines += [
            f"## `{topic}`",
            "",
            channel["description"],
            "",
            f"Written by {', '.join(users['send'])}; read by {', '.join(users['receive'])}.",
            "",
            "| message | |",
            "|---|---|",
        ]
        for name in channel["messages"]:
            about = document["components"]["messages"][name]
            text = f"{about['summary']} {about.get('description', '')}"
            lines.append(f"| `{name}` | {' '.join(text.split())} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def generated() -> dict[Path, str]:
    """Return all files as the code describes them: path to text."""
    # The loop is never closed: before they end, the services would wait for the sidecars that are not there.
    services = asyncio.new_event_loop().run_until_complete(openapi())
    topics = asyncapi()
    for document in (*services.values(), topics):
        require_resolved(document, document)
    files = {f"{name}.openapi.json": as_json(document) for name, document in services.items()}
    files |= {f"{name}.md": service_page(name, document) for name, document in services.items()}
    files |= {"asyncapi.json": as_json(topics), "topics.md": topics_page(topics)}
    return {DIRECTORY / name: text for name, text in files.items()}


def require_resolved(within: Any, document: Document) -> None:
    """Raise KeyError if `within` refers to something that the document lacks."""
    if isinstance(within, dict):
        resolved(within, document)
        for inner in within.values():
            require_resolved(inner, document)
    elif isinstance(within, list):
        for inner in within:
            require_resolved(inner, document)


def as_json(document: Document) -> str:
    """Return a document in the form in which it is committed."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    code = written.run(generated, "the code", "contracts", whole=DIRECTORY)
    sys.stdout.flush()
    os._exit(code)
