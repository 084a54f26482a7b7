"""Personal data: the properties of its tokens and keys."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal, NewType

import pytest
from pydantic import BaseModel, StringConstraints, ValidationError, create_model
from typing_extensions import TypeAliasType

from annals.aggregates import Command
from annals.events import DomainEvent, EventData
from annals.privacy import PERSONAL, InvalidKeys, KeyEncryptionKeys, SubjectKey, personal_fields
from annals.privacy.personal import Token, replaced, tokens_in
from annals.sagas import SagaInput


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_a_token_is_read_with_the_key_of_its_tenant_subject_and_field_only() -> None:
    key = SubjectKey.generate("acme", "ada")
    token = key.encrypt("name", "Ada Lovelace")
    assert "Ada Lovelace" not in str(token)
    assert Token.parse(str(token)) == token
    assert key.decrypt(token) == "Ada Lovelace"
    assert key.encrypt("name", "Ada Lovelace") == token, "a repeated command must look the same"
    assert SubjectKey("other", "ada", key.key).decrypt(token) is None
    assert SubjectKey("acme", "bob", key.key).decrypt(token) is None
    assert key.decrypt(Token("ada", "email", token.ciphertext)) is None
    assert key.decrypt(Token("ada", "name", token.ciphertext[:-4] + "AAAA")) is None
    assert key.decrypt(Token("ada", "name", "no base64!")) is None


def test_tokens_are_found_and_replaced_wherever_they_are() -> None:
    key = SubjectKey.generate("acme", "ada")
    token = key.encrypt("name", "Ada")
    value = {"a": [{"b": str(token)}, "annals-enc.v1/too/few"], "c": 1}
    assert tokens_in(value) == {token}
    assert replaced(value, {token: "Ada"}) == {"a": [{"b": "Ada"}, "annals-enc.v1/too/few"], "c": 1}
    assert replaced(value, {token: None})["a"][0] == {"b": None}


def test_a_wrapped_key_opens_under_any_key_that_is_still_listed() -> None:
    old, new = encoded(os.urandom(32)), encoded(os.urandom(32))
    key = SubjectKey.generate("acme", "ada")
    wrapped = KeyEncryptionKeys(old).wrap(key)
    assert KeyEncryptionKeys(f"{new}, {old}").unwrap("acme", "ada", wrapped) == key
    assert KeyEncryptionKeys(f"{new},{old}").wrap(key).wrapped_by != wrapped.wrapped_by
    with pytest.raises(InvalidKeys, match="is not in the secret store"):
        KeyEncryptionKeys(new).unwrap("acme", "ada", wrapped)
    with pytest.raises(InvalidKeys, match="was altered"):
        KeyEncryptionKeys(old).unwrap("acme", "bob", wrapped)


@pytest.mark.parametrize(
    "wrong", ["", "not base64!", encoded(b"short"), f"{encoded(bytes(32))},{encoded(bytes(16))}"]
)
def test_unusable_keys_are_refused(wrong: str) -> None:
    with pytest.raises(InvalidKeys):
        KeyEncryptionKeys(wrong)


class Register(Command):
    aggregate_id: int


class Registered(EventData):
    aggregate_id: int


class Registration(SagaInput):
    aggregate_id: int


@pytest.mark.parametrize("kind", [Register, Registered, Registration, DomainEvent])
def test_an_error_names_the_field_and_says_nothing_of_what_was_given(kind: type[BaseModel]) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"aggregate_id": {"name": "Ada Lovelace"}, "Ada": "Ada"})
    assert "aggregate_id" in str(refused.value)
    assert "Lovelace" not in str(refused.value)


Phone = Annotated[str, StringConstraints(max_length=40), PERSONAL]
AliasOfPhone = TypeAliasType("AliasOfPhone", Phone)


class Pronoun(StrEnum):
    SHE = "she"


class Note(BaseModel):
    text: Phone | None = None
    answers: list[Note] = []


@dataclass
class Address:
    street: Phone


def said(kind: Any) -> type[BaseModel]:
    return create_model("Said", __base__=Command, other=(str, ...), field=(kind, ...))


@pytest.mark.parametrize(
    "kind",
    [
        Phone,
        Phone | None,
        Annotated[str | None, PERSONAL],
        Annotated[Phone | None, StringConstraints(min_length=1)],
        AliasOfPhone,
        AliasOfPhone | None,
        Annotated[NewType("Number", str), PERSONAL],
        Annotated[Literal["she", "he"], PERSONAL] | None,
        Annotated[Pronoun, PERSONAL],
    ],
)
def test_a_text_is_personal_also_where_it_may_be_left_out(kind: Any) -> None:
    assert personal_fields(said(kind)) == ("field",)


@pytest.mark.parametrize(
    "kind",
    [
        list[Phone],
        dict[str, Phone],
        Phone | int,
        Annotated[Literal["she", 1], PERSONAL],
        Annotated[date, PERSONAL],
        Annotated[date, PERSONAL] | None,
        Note,
        list[Note] | None,
        Address,
    ],
)
def test_a_mark_that_cannot_be_protected_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"Said\.field is marked as personal"):
        personal_fields(said(kind))
