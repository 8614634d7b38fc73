"""The rules that keep the code findable."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).parent.parent
PACKAGE_NAMES = ("data", "targets", "defenses", "attacks", "evaluation", "serving", "hydra_plugins")
SOURCE_FILES = [path for package in PACKAGE_NAMES for path in (REPOSITORY_ROOT / package).rglob("*.py")]
ENTRY_NAMES = ("train.py", "evaluate.py", "serve.py", "commandline.py", "fields.py")
ENTRY_FILES = [REPOSITORY_ROOT / name for name in ENTRY_NAMES]
SHORT_FILES = (
    *("attacks/*.py", "defenses/*.py", "targets/guards/*.py"),  # plug-ins
    *("targets/stacks/*.py", "defenses/dp_sgd/layers/*.py"),  # a file for each kind of layer
    *("*/__init__.py", "hydra_plugins/*.py"),
    "data/rows.py",  # what arrays and preprocessing share, neither of which may import the other
)
"""Patterns of files that may have fewer than 40 lines."""
LATE_IMPORTS = {
    "train.py": "an entry: --help and cached runs import no torch",
    "evaluate.py": "an entry, likewise",
    "serve.py": "an entry, likewise",
    "hydra_plugins/grids.py": "Hydra imports it for every command",
    "targets/job.py": "a cached run trains nothing",
    "targets/shipping.py": "what cannot be shipped is refused without Lightning",
    "targets/side_by_side.py": "likewise",
    "targets/trials.py": "likewise",
    "targets/plan.py": "likewise",
    "evaluation/plan.py": "likewise",
    "evaluation/cost.py": "likewise",
    "evaluation/signals/signals.py": "kept answers need no models",
    "evaluation/signals/shadows.py": "likewise",
    "evaluation/signals/saved.py": "likewise",
    "evaluation/signals/stored.py": "likewise",
    "evaluation/signals/inner.py": "likewise",
    "evaluation/signals/documents.py": "likewise",
    "evaluation/signals/secrets.py": "likewise",
    "evaluation/subjects/model_file.py": "saved answers need no torch",
    "evaluation/subjects/local_texts.py": "likewise",
    "targets/guards/memguard.py": "answering needs no torch, fitting does",
}
"""Files that import modules of the project inside functions, and why; each is a seam to torch."""


def test_imports_point_one_way():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=REPOSITORY_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "8 kept, 0 broken" in done.stdout


def test_one_concept_a_file():
    for path in SOURCE_FILES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 450, path
        assert path.stem not in ("utils", "helpers", "common", "core", "misc"), path
        assert not text or text.startswith('"""'), path


def test_a_file_is_worth_opening():
    for path in SOURCE_FILES:
        named = path.relative_to(REPOSITORY_ROOT)
        if not any(named.match(pattern) and len(named.parts) >= pattern.count("/") + 1 for pattern in SHORT_FILES):
            assert len(path.read_text(encoding="utf-8").splitlines()) >= 40, path


def test_no_class_name_stands_twice():
    names = Counter(
        node.name
        for path in SOURCE_FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


def module_of(path: Path) -> str:
    return ".".join(("palisade", *path.relative_to(REPOSITORY_ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports_of(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Modules of the project that a syntax tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("palisade"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else node.module


def test_imports_form_no_circle_even_where_they_are_late_or_for_types_alone():
    graph = {module_of(path): path for path in (*SOURCE_FILES, *ENTRY_FILES)}
    edges = {name: set(imports_of(ast.parse(path.read_text()), set(graph))) for name, path in graph.items()}
    while leaves := [name for name, imported in edges.items() if not imported & set(edges)]:
        for name in leaves:
            del edges[name]
    assert not edges


def test_late_imports_of_own_modules_are_the_listed_ones():
    late = defaultdict(int)
    for path in (*SOURCE_FILES, *ENTRY_FILES):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                late[str(path.relative_to(REPOSITORY_ROOT))] += len(list(imports_of(function, set())))
    assert {path for path, count in late.items() if count} == set(LATE_IMPORTS)


def test_one_place_imports_what_settings_name():
    texts = {
        str(path.relative_to(REPOSITORY_ROOT)): path.read_text(encoding="utf-8")
        for path in (*SOURCE_FILES, *ENTRY_FILES)
    }
    assert not [name for name, text in texts.items() if "hydra.utils" in text]
    assert "def instantiated(" in texts["data/settings.py"]


def test_the_way_of_a_record_is_as_documented():
    text = (REPOSITORY_ROOT / "docs" / "way_of_a_record.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| \d \| `(\S+)\.py` \| `(\S+)` \|", text, re.MULTILINE)
    assert len(steps) == 8
    for file, function in steps:
        value = importlib.import_module(f"palisade.{file.replace('/', '.')}")
        for name in function.split("."):
            value = getattr(value, name)
        assert callable(value) and value.__module__ == f"palisade.{file.replace('/', '.')}"


def test_every_package_is_installed():
    import tomllib

    listed = tomllib.loads((REPOSITORY_ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {str(path.parent.relative_to(REPOSITORY_ROOT)).replace("/", ".") for path in SOURCE_FILES} - {
        "hydra_plugins"
    }
    assert {"palisade", "palisade.conf", "hydra_plugins", *(f"palisade.{folder}" for folder in folders)} == set(listed)


def test_every_requirement_is_pinned():
    import re
    import tomllib

    project = tomllib.loads((REPOSITORY_ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lines = (REPOSITORY_ROOT / "constraints.txt").read_text().split()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert all("==" in line for line in lines) and "torch==2.13.0" in lines
    assert {re.split(r"[<>=\[]", name)[0].lower() for name in wanted} <= pinned


def test_the_claim_of_dp_sgd_names_code_and_tests_that_exist():
    package = importlib.import_module("palisade.defenses.dp_sgd")
    entries = re.findall(r"^    (\S+)\.py (\S+) → (test_\w+\.py)(?: (test_\w+))?$", package.__doc__, re.MULTILINE)
    assert len(entries) == package.__doc__.count("→") > 30
    for file, function, test_file, test in entries:
        value = importlib.import_module(f"palisade.defenses.dp_sgd.{file.replace('/', '.')}")
        for name in function.split("."):
            value = getattr(value, name)
        text = (REPOSITORY_ROOT / "tests" / "defenses" / "dp_sgd" / test_file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, (test_file, test)
