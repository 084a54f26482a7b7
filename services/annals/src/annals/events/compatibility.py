"""Checks whether events stored under one JSON Schema can be read under another. Pure."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """Return why an event of `old` may be invalid under `new`, or lose data; empty if they are compatible.

    A removed field is a reason, because its data would be forgotten. References are resolved before types are
    compared, so a changed shared definition counts too. The fields of nested objects are not compared.
    """
    found = []
    before, after = old.get("properties", {}), new.get("properties", {})
    for name, schema in before.items():
        if name not in after:
            found.append(f"{name} is gone")
        elif not _accepts(_types(schema, old), _types(after[name], new)):
            found.append(f"{name} changed its type")
    required = set(new.get("required", ())) - set(old.get("required", ()))
    found += [f"{name} is required now" for name in sorted(required)]
    return found


def _types(schema: Schema, root: Schema) -> set[str]:
    """Return the types that a schema accepts, each as a text that can be compared."""
    if "$ref" in schema:
        target = root["$defs"][schema["$ref"].rpartition("/")[2]]
        return _types(target, root)
    if "anyOf" in schema:
        return {kind for option in schema["anyOf"] for kind in _types(option, root)}
    if "enum" in schema:
        return {f"enum {value!r}" for value in schema["enum"]}
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return {f"array of {one}" for one in _types(schema.get("items", {}), root)}
    if "format" in schema:
        return {f"{kind} as {schema['format']}"}
    return {kind}


def _accepts(old: set[str], new: set[str]) -> bool:
    if "any" in new:
        return True
    widened = {kind.split(" ")[0] if kind.startswith("enum") else kind for kind in old}
    return old <= new or (widened == {"enum"} and "string" in new)
