"""Imports that the pages and the notebook show exist: code moves, and these are run by slow tests alone."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY_ROOT = Path(__file__).parents[2]
SHOWN_PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*.ipynb", "examples/*.py")
    for path in REPOSITORY_ROOT.glob(pattern)
)
IMPORT_LINE = re.compile(r"^from (palisade[\w.]*) import (\w+(?:, \w+)*)", re.MULTILINE)
IMAGINED_MODULES = {"palisade.defenses.confidence_penalty", "palisade.attacks.surprise"}
"""Modules that CONTRIBUTING.md writes as examples."""


def imports(page: Path) -> Iterator[tuple[str, str]]:
    """Modules with the names taken from them."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    for line in IMPORT_LINE.finditer(text):
        (statement,) = ast.parse(line[0]).body
        assert isinstance(statement, ast.ImportFrom)
        for name in statement.names:
            if line[1] not in IMAGINED_MODULES:
                yield line[1], name.name


@pytest.mark.parametrize("page", SHOWN_PAGES, ids=lambda path: str(path.relative_to(REPOSITORY_ROOT)))
def test_every_import_exists(page: Path) -> None:
    for module, name in imports(page):
        assert hasattr(import_module(module), name), f"{page.name}: {module} has no {name}"


def test_the_pages_show_imports() -> None:
    assert sum(len(list(imports(page))) for page in SHOWN_PAGES) > 20
