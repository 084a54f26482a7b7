"""Marks fields as personal, and defines the tokens that take the place of their values. Pure.

A command's personal fields are encrypted before anything is decided, so that aggregates, events, read
models and topics only ever hold tokens: `annals-enc.v1/{subject}/{field}/{ciphertext}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel

_PREFIX = "annals-enc.v1"
# A ciphertext has at least 16 bytes, and is in URL-safe base64 without padding.
_TOKEN = re.compile(
    re.escape(_PREFIX) + r"/([A-Za-z0-9._~@:-]{1,128})/([A-Za-z_][A-Za-z0-9_]*)"
    r"/((?=.{22})(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?)"
)


@dataclass(frozen=True, slots=True)
class Personal:
    """Marks a text field as personal: `name: Annotated[str, PERSONAL]`. Its subject is the aggregate.

    An optional field is `Annotated[str, PERSONAL] | None`.
    """


PERSONAL = Personal()


class SubjectErased(Exception):
    """The subject's key was shredded: no personal data of the subject can be recorded any more."""


def personal_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the names of a model's personal fields.

    Raises ValueError if a mark is on anything but a text field of the model itself: such a value would be
    stored unencrypted.
    """
    found = []
    for name, field in model.model_fields.items():
        if not _marked((field.annotation, *field.metadata), set()):
            continue
        if not all(_is_text(member) for member in _members(field.annotation)):
            raise ValueError(f"{model.__name__}.{name} is marked as personal, and is not a text or None")
        found.append(name)
    return tuple(found)


def _marked(kinds: Iterable[Any], seen: set[Any]) -> bool:
    """Return whether any of these types contains a mark; those in `seen` are not searched again."""
    return any(isinstance(kind, Personal) or _marked(_parts(kind, seen), seen) for kind in kinds)


def _parts(kind: Any, seen: set[Any]) -> Iterable[Any]:
    if arguments := get_args(kind):
        return arguments
    meant = _value(kind)
    if (meant is kind and not isinstance(kind, type)) or kind in seen:
        return ()
    seen.add(kind)
    if meant is not kind:
        return (meant,)
    if issubclass(kind, BaseModel):
        return [part for one in kind.model_fields.values() for part in (one.annotation, *one.metadata)]
    if is_dataclass(kind) or is_typeddict(kind):
        return get_type_hints(kind, include_extras=True).values()
    return ()


def _members(kind: Any) -> list[Any]:
    """Return the types that a value may have: unions and aliases resolved, annotations left out."""
    kind = _value(kind)
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for one in get_args(kind) for member in _members(one)]
    if get_origin(kind) is Literal:
        return [type(one) for one in get_args(kind)]
    return [kind]


def _is_text(kind: Any) -> bool:
    kind = getattr(kind, "__supertype__", kind)  # the type behind a NewType
    return kind is NoneType or (isinstance(kind, type) and issubclass(kind, str))


def _value(kind: Any) -> Any:
    """Return the type that an alias stands for, or the type itself."""
    return getattr(kind, "__value__", kind)


@dataclass(frozen=True, slots=True)
class Token:
    """An encrypted field. None of its parts can contain a slash: the rules for ids exclude it."""

    subject: str
    field: str
    ciphertext: str

    def __str__(self) -> str:
        return "/".join((_PREFIX, self.subject, self.field, self.ciphertext))

    @classmethod
    def parse(cls, text: str) -> Token | None:
        """Parse a token. Returns None for any other text, which a field that is not personal may hold."""
        match = _TOKEN.fullmatch(text)
        return cls(match[1], match[2], match[3]) if match else None


T = TypeVar("T")


def tokens_in(value: Any) -> set[Token]:
    """Return all tokens in a JSON value."""
    if isinstance(value, str):
        token = Token.parse(value)
        return {token} if token else set()
    if isinstance(value, dict):
        return {token for item in value.values() for token in tokens_in(item)}
    if isinstance(value, list | tuple):
        return {token for item in value for token in tokens_in(item)}
    return set()


def replaced(value: T, plain: dict[Token, str | None]) -> T | Any:
    """Return a JSON value with the tokens in `plain` replaced by their texts, or by None if erased."""
    if isinstance(value, str):
        token = Token.parse(value)
        return plain.get(token, value) if token else value
    if isinstance(value, dict):
        return {name: replaced(item, plain) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item, plain) for item in value]
    return value
