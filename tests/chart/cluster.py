"""A Kubernetes API that only stores objects, to test what Helm does to an existing release.

It knows the kinds that the chart renders. A patch is merged as JSON: lists are replaced.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]

_KINDS: Mapping[str, tuple[str, ...]] = {
    "v1": ("ConfigMap", "Secret", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment",),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "batch/v1": ("Job",),
    "dapr.io/v1alpha1": ("Component", "Configuration", "Resiliency", "WorkflowAccessPolicy"),
    "dapr.io/v2alpha1": ("Subscription",),
    "kafka.strimzi.io/v1": ("Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "postgresql.cnpg.io/v1": ("Cluster",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
}


def _plural(kind: str) -> str:
    name = kind.lower()
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


class Cluster:
    """The cluster's objects, by their paths in the API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, Object] = {}

    def __getitem__(self, named: str) -> Object:
        """Return an object by its plural and name, such as `secrets/annals-kafka`."""
        (found,) = (one for path, one in self.objects.items() if path.endswith(f"/{named}"))
        return found

    def __contains__(self, named: str) -> bool:
        return any(path.endswith(f"/{named}") for path in self.objects)

    def answer(self, method: str, path: str, query: str, body: bytes) -> tuple[HTTPStatus, Object]:
        """Answer a request as the API would."""
        if (known := _discovered(path)) is not None:
            return HTTPStatus.OK, known
        there = self.objects.get(path)
        match method:
            case "POST":
                made = _read(body)
                at = f"{path}/{made['metadata']['name']}"
                if at in self.objects:
                    return HTTPStatus.CONFLICT, _status("AlreadyExists", HTTPStatus.CONFLICT)
                self.objects[at] = made
                return HTTPStatus.CREATED, made
            case "GET" if path.rpartition("/")[2] in _PLURALS:
                return HTTPStatus.OK, self._list(path, query)
            case _ if there is None:
                return HTTPStatus.NOT_FOUND, _status("NotFound", HTTPStatus.NOT_FOUND)
            case "PUT":
                self.objects[path] = _read(body)
            case "PATCH":
                self.objects[path] = _merged(there, _read(body))
            case "DELETE":
                return HTTPStatus.OK, self.objects.pop(path)
        return HTTPStatus.OK, self.objects[path]

    def _list(self, path: str, query: str) -> Object:
        selector = parse_qs(query).get("labelSelector", [""])[0]
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        items = [
            one
            for at, one in self.objects.items()
            if at.startswith(f"{path}/") and wanted.items() <= one["metadata"].get("labels", {}).items()
        ]
        return {"kind": f"{_PLURALS[path.rpartition('/')[2]]}List", "apiVersion": "v1", "items": items}


_PLURALS = {_plural(kind): kind for kinds in _KINDS.values() for kind in kinds}


def _discovered(path: str) -> Object | None:
    match path.strip("/").split("/"):
        case ["openapi", "v2"]:
            return {}  # a protobuf document without any schema
        case ["version"]:
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups: dict[str, list[Object]] = {}
            for at in _KINDS.keys() - {"v1"}:
                name, _, version = at.partition("/")
                groups.setdefault(name, []).append({"groupVersion": at, "version": version})
            listed = [
                {"name": name, "versions": found, "preferredVersion": found[0]}
                for name, found in groups.items()
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        case ["api", "v1"]:
            return _resources("v1")
        case ["apis", group, version]:
            return _resources(f"{group}/{version}")
    return None


def _resources(at: str) -> Object:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {
            "name": _plural(kind),
            "singularName": kind.lower(),
            "namespaced": True,
            "kind": kind,
            "verbs": verbs,
        }
        for kind in _KINDS[at]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": at, "resources": resources}


def _status(reason: str, code: HTTPStatus) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}


def _merged(there: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(there, dict):
        return patch
    kept = {name: value for name, value in there.items() if patch.get(name, value) is not None}
    changed = {
        name: _merged(there.get(name), value)
        for name, value in patch.items()
        if value is not None and not name.startswith("$")
    }
    return kept | changed


_PROTOBUF = b"k8s\0"


def _read(body: bytes) -> Object:
    """Return a request's object. Helm sends its own records, which are secrets, as protobuf."""
    if not body.startswith(_PROTOBUF):
        return dict(json.loads(body)) if body else {}
    secret = _fields(_fields(body.removeprefix(_PROTOBUF))[2][0])
    metadata = _fields(secret[1][0])
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata[1][0].decode(),
            "labels": {name: value.decode() for name, value in _entries(metadata[11])},
        },
        "type": secret[3][0].decode(),
        "data": {name: base64.b64encode(value).decode() for name, value in _entries(secret[2])},
    }


def _entries(pairs: list[bytes]) -> Iterator[tuple[str, bytes]]:
    for pair in map(_fields, pairs):
        yield pair[1][0].decode(), pair[2][0]


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Return the byte fields of a protobuf message by their number."""
    found: dict[int, list[bytes]] = {}
    rest = memoryview(message)
    while rest:
        tag, rest = _varint(rest)
        value, rest = _varint(rest)
        if tag & 7 == 2:
            found.setdefault(tag >> 3, []).append(bytes(rest[:value]))
            rest = rest[value:]
    return found


def _varint(rest: memoryview) -> tuple[int, memoryview]:
    value = shift = 0
    for index, byte in enumerate(rest):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, rest[index + 1 :]
    raise ValueError("a number that does not end")


@contextmanager
def serving() -> Iterator[Cluster]:
    """Serve an empty cluster on a loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for many requests
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            at = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            status, said = cluster.answer(self.command, at.path, at.query, body)
            text = json.dumps(said).encode() if said else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - named by the base class

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    cluster = Cluster(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
