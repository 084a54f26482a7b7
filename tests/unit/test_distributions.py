"""Our own packages come from the checkout, because an index has somebody else's project `annals`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from suite.paths import ROOT

PROJECTS = sorted((ROOT / "services").glob("*/pyproject.toml"))
DOCS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
INSTALLED = [
    (page, what)
    for page in DOCS
    for line in re.findall(r"pip install (.*)", page.read_text())
    for what in line.replace("'", "").split()
]


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def test_what_is_ours_is_asked_for_by_its_name_and_found_in_the_checkout() -> None:
    workspace = _read(ROOT / "pyproject.toml")
    named = {_read(path)["project"]["name"] for path in PROJECTS}
    asked = {
        re.split(r"[^\w-]", wanted)[0]
        for project in (workspace, *map(_read, PROJECTS))
        for wanted in project["project"]["dependencies"]
    }

    assert "annals" not in named
    assert {name for name in asked if name.startswith("annals")} == named
    assert workspace["tool"]["uv"]["sources"].keys() == named


@pytest.mark.parametrize(("page", "what"), INSTALLED, ids=[what for _, what in INSTALLED])
def test_what_a_page_has_installed_is_a_folder_of_the_checkout(page: Path, what: str) -> None:
    folder, _, extra = what.removesuffix("]").partition("[")
    project = _read(ROOT / folder / "pyproject.toml")["project"]

    assert folder.startswith("./")
    assert not extra or extra in project["optional-dependencies"]
