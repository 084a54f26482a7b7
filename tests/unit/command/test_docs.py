"""The aggregate of docs/write-your-own-aggregate.md, as printed there."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from types import ModuleType
from typing import Any

import grimp
import pytest

import annals_command.commands  # noqa: F401 - the page's files come to a package that is there
from annals.aggregates import CommandBus, CommandRequest, NotFound
from annals.events import DomainEvent, EventRegistry
from annals.store import MemoryEventStore
from sealing import sealed
from suite.paths import ROOT

DOMAIN, COMMANDS, TESTED = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "write-your-own-aggregate.md").read_text(), re.DOTALL
)


@pytest.fixture(autouse=True)
def pasted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Load the page's files as the modules that the page names."""
    modules = []
    for name, text in (("domain.order", DOMAIN), ("commands.order_commands", COMMANDS)):
        module = ModuleType(f"annals_command.{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(text, module.__dict__)
        modules.append(module)
    return modules


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", TESTED))
def test_what_is_printed_tests_it(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(TESTED, namespace)
    namespace[name]()


def test_its_domain_imports_only_what_a_domain_may() -> None:
    """`make check` reads files that exist, and the page's is pasted later."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rule,) = (one for one in rules if "annals_command.domain" in one.get("source_modules", ()))
    forbidden = [name for name in rule["forbidden_modules"] if name.startswith("annals.")]
    imports = [one.module for one in ast.walk(ast.parse(DOMAIN)) if isinstance(one, ast.ImportFrom)]
    graph = grimp.build_graph("annals", cache_dir=None)
    own = [name for name in imports if name in graph.modules]
    assert own
    for name in own:
        for other in forbidden:
            assert not graph.find_shortest_chains(name, other, as_packages=True)


async def test_its_commands_are_carried_out(pasted: list[Any]) -> None:
    domain, commands = pasted
    registry = EventRegistry(domain.EVENTS, domain.UPCASTERS)
    store = MemoryEventStore()
    orders = CommandBus(store, registry, commands.HANDLERS, source="test", protect=sealed)
    with pytest.raises(NotFound):
        await orders.execute(CommandRequest("order.cancel", {"id": "one"}))
    placed = {"id": "one", "items": ["book"], "customer": "Ada"}
    stream = (await orders.execute(CommandRequest("order.place", placed))).appended.stream
    cancel = CommandRequest("order.cancel", {"id": "one"}, idempotency_key="key")
    assert (await orders.execute(cancel)).appended.version == 2
    said = [registry.decode(event) async for event in store.read_stream(stream)]
    assert [type(one).__name__ for one in said] == ["OrderPlaced", "OrderCancelled"]
    assert said[0].customer != "Ada"


def test_what_its_first_version_said_is_read(pasted: list[Any]) -> None:
    domain, _ = pasted
    old = DomainEvent(
        event_type="order.placed",
        source="test",
        aggregate_type="order",
        aggregate_id="one",
        data={"item": "book", "customer": "Ada"},
    )
    read = EventRegistry(domain.EVENTS, domain.UPCASTERS).decode(old)
    assert read == domain.OrderPlaced(items=("book",), customer="Ada")
