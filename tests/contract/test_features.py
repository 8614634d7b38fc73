"""The list of features beside this file is whole, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS_FOLDER = Path(__file__).parents[1]
CONF_FOLDER = TESTS_FOLDER.parent / "conf"
FEATURE_LIST = (Path(__file__).parent / "features.md").read_text(encoding="utf-8")
CONF_GROUPS = sorted(path.name for path in CONF_FOLDER.iterdir() if path.is_dir() and any(path.glob("*.yaml")))
EXIT_CODES = ("0 ", "1 ", "2 ", "3 ", "4 ", "130 ")


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """The features of one section with the tests that show them."""
    section = re.search(rf"^## [^\n]*{re.escape(heading)}[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"features.md has no section {heading}"
    rows = [line.strip("| ").split(" | ") for line in section[1].splitlines() if line.startswith("| ")][1:]
    return {feature: re.findall(r"`([^`]+)`", shown) for feature, shown in rows}


@pytest.mark.parametrize("group", CONF_GROUPS)
def test_every_option_is_listed(group: str) -> None:
    options = {f"`{path.stem}`" for path in (CONF_FOLDER / group).glob("*.yaml")}
    assert options <= set(rows_of(FEATURE_LIST, f"`{group}=`"))


def test_every_flag_and_exit_code_is_listed() -> None:
    page = (TESTS_FOLDER.parent / "docs" / "flags.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    flags = {f"`{flag}`" for row in rows for flag in re.findall(r"`([^`]+)`", row)}
    assert len(flags) > 20 and flags <= set(rows_of(FEATURE_LIST, "Flags"))
    assert {f"{row.split()[0]} " for row in rows_of(FEATURE_LIST, "Exit codes")} == {*EXIT_CODES}


@pytest.mark.parametrize("heading", re.findall(r"^## (.*)$", FEATURE_LIST, re.MULTILINE))
def test_every_test_exists(heading: str) -> None:
    for feature, tests in rows_of(FEATURE_LIST, heading).items():
        assert tests, f"{feature}: no test shows it"
        for test in tests:
            file, _, function = test.partition("::")
            tree = ast.parse((TESTS_FOLDER / file).read_text(encoding="utf-8"))
            names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in names if function else any(name.startswith("test_") for name in names), test


def test_a_lost_row_is_noticed() -> None:
    assert "`lira`" not in rows_of(FEATURE_LIST.replace("| `lira` |", "| `other` |"), "`attack=`")
