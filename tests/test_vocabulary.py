"""Names and first lines: nouns of the field, never a participle or a bare word that could mean anything."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).parents[1]
PARTICIPLE_NAMES = {"found", "told", "given", "made", "kept"}
QUESTION_WORDS = re.compile(r"(What|Whether|Whoever|Who|How|Where|When|Why|Which|That|The same)\b")
WHOLE_TERMS = {"ACCURACY", "AUC", "BASE", "CNN", "CPU", "FPR", "FPRS", "MLP", "RMIA", "TPR"}
"""Constants and classes that are whole terms of the field in one word."""
GIT_LISTING = subprocess.run(
    ["git", "ls-files", "*.py"], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True
)
TRACKED_SOURCES = [path for path in GIT_LISTING.stdout.split() if (REPOSITORY_ROOT / path).is_file()]


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse((REPOSITORY_ROOT / source).read_text(encoding="utf-8"))


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that a file gives, uses or imports, with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield line, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                if not name.startswith("test_"):  # a test's name is a sentence
                    yield line, name
            case ast.alias(name=name, asname=alias):
                yield line, alias or name.rpartition(".")[2]


def constants(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names in capitals that a module gives at its top level."""
    for statement in tree.body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        for target in (name for each in targets for name in getattr(each, "elts", [each])):
            if isinstance(target, ast.Name) and target.id.isupper():
                yield target.lineno, target.id


def first_lines(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text.partition("\n")[0]


def test_a_participle_is_never_a_name() -> None:
    """`given` is Hypothesis' own in tests."""
    wrong = [
        f"{source}:{line}: {name}"
        for source in TRACKED_SOURCES
        for line, name in identifiers(parsed(source))
        if PARTICIPLE_NAMES & set(name.lower().split("_")) and (name != "given" or not source.startswith("tests/"))
    ]
    assert not wrong


def test_a_constant_carries_its_subject() -> None:
    assert not [
        f"{source}:{line}: {name}"
        for source in TRACKED_SOURCES
        for line, name in constants(parsed(source))
        if "_" not in name.strip("_") and name not in WHOLE_TERMS
    ]


def test_a_docstring_begins_by_naming_the_thing() -> None:
    assert not [
        f"{source}:{line}: {text}"
        for source in TRACKED_SOURCES
        if not source.startswith("tests/")
        for line, text in first_lines(parsed(source))
        if QUESTION_WORDS.match(text)
    ]
