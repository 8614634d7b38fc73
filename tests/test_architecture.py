"""The rules that keep the code findable."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "targets", "defenses", "attacks", "evaluation", "hydra_plugins")
SOURCES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_imports_point_one_way():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "5 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_concept_a_file(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    assert path.stem not in ("utils", "helpers", "common", "core", "misc")
    assert not text or text.startswith('"""')


def test_every_package_is_installed():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in SOURCES} - {"hydra_plugins"}
    assert {"palisade", "palisade.conf", "hydra_plugins", *(f"palisade.{folder}" for folder in folders)} == set(listed)


def test_every_requirement_is_pinned():
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text().split()
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
        text = (ROOT / "tests" / "defenses" / "dp_sgd" / test_file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, (test_file, test)
