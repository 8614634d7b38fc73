"""Pages for people are complete and run as they stand, on two small fleets that all of them share."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import commands_of
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from palisade.commandline import EXIT_GATE_EXCEEDED
from palisade.evaluate import evaluate_runs
from palisade.targets import engines
from palisade.train import composed, run_single

REPOSITORY_ROOT = Path(__file__).parents[2]
DOCS_FOLDER = REPOSITORY_ROOT / "docs"
PAGE_NAMES = ("threat_models", "reading_the_curve", "own_model", "impact_assessment", "tuning", "scale")
SMALL_GRID = "tuning.grid={defense: {max_grad_norm: [1], trainer: {epochs: [2]}}}"
SMALL_SETTINGS = ("fleet.models=4", "fleet.workers=1", "trainer.epochs=5")


def text(page: str) -> str:
    return (DOCS_FOLDER / f"{page}.md").read_text(encoding="utf-8")


def trained(*overrides: str) -> None:
    run_single(composed(*overrides, *SMALL_SETTINGS))


def evaluated(*overrides: str) -> int:
    """The exit code of `evaluate.py`, in this process: to start another one takes longer than what it does."""
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        config = compose("evaluate", overrides=list(overrides))
    settings: Any = OmegaConf.to_container(config, resolve=True)
    try:
        evaluate_runs({**settings, "command": shlex.join(["python", "evaluate.py", *overrides])})
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the commands: with two fleets on digits, a table of visits, and saved answers."""
    place = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    visits = {
        "patient": np.repeat(np.arange(150), 2),
        "age": rng.integers(18, 90, 300),
        "sex": rng.choice(["f", "m"], 300),
    }
    visits["iron"] = rng.normal(size=300)
    pd.DataFrame({**visits, "ill": rng.choice(["no", "yes"], 300)}).to_csv(place / "visits.csv", index=False)
    for name, sure in (("in", 1.0), ("out", 0.5)):
        labels = rng.integers(3, size=150)
        logits = rng.normal(size=(150, 3)) + sure * np.eye(3)[labels]
        np.savez(place / f"{name}.npz", logits=logits, labels=labels, features=rng.normal(size=(150, 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(engines, "count", lambda workers: 1)  # starting processes takes longer than what they do here
        trained("data=digits")
        trained("data=digits", "defense=dp_sgd", "defense.epsilon=8", "defense.trainer.epochs=5")
        yield place


@pytest.mark.slow
@pytest.mark.parametrize(("page", "count"), list(zip(PAGE_NAMES, (3, 3, 4, 2, 3, 2), strict=True)))
def test_every_command_works(folder: Path, monkeypatch: pytest.MonkeyPatch, page: str, count: int) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(REPOSITORY_ROOT / "examples"))  # PYTHONPATH=examples
    page_commands = commands_of(DOCS_FOLDER / f"{page}.md")
    assert len(page_commands) == count
    for line in page_commands:
        python, script, *words = [word for word in line if word != "PYTHONPATH=examples"]
        assert python == "python"
        if script == "train.py":
            apart = ["runs=own"] if any(word.startswith("network.") for word in words) else []  # not on one curve
            if "tuning=dp_sgd" in words:
                words = [*(word for word in words if not word.startswith("tuning.")), "~tuning.grid", f"+{SMALL_GRID}"]
            trained(*words, *apart)
        elif script == "evaluate.py":
            quick = [] if any(word.startswith(("attack=", "audit=")) for word in words) else ["attack=[loss,lira]"]
            if "search=frontier" in words:
                words = [word for word in words if not word.startswith("search.t")]
                words += ["search.trials=1", "~search.space.dp_sgd", "search.train.fleet.models=4"]
                words += ["+search.train.fleet.workers=1", "+search.train.trainer.epochs=5"]
            code = evaluated(*words, *quick)
            judged = any(word.startswith(("gate.", "choose.")) for word in words)
            assert code == 0 or (judged and code == EXIT_GATE_EXCEEDED), words
        else:
            monkeypatch.setattr(sys, "argv", [script, *words])
            with pytest.raises(SystemExit) as stopped:
                runpy.run_path(str(REPOSITORY_ROOT / script), run_name="__main__")
            assert stopped.value.code == 0, words


def test_every_page_leads_somewhere() -> None:
    for page in (path.stem for path in DOCS_FOLDER.glob("*.md")):
        for target in re.findall(r"\]\(([^)#]*)#?[^)]*\)", text(page)):
            generated = target.startswith(
                ("reference/", "development/", "examples/")
            )  # by docs/reference.py; a strict build checks them
            assert generated or not target or (DOCS_FOLDER / target).exists(), f"{page}: {target}"
        for example in re.findall(r"`(?:python )?(examples/\w+\.\w+)`", text(page)):
            assert (REPOSITORY_ROOT / example).exists(), f"{page}: {example}"


def test_no_number_at_the_start_of_a_line_becomes_a_list() -> None:
    for path in (REPOSITORY_ROOT / "README.md", *DOCS_FOLDER.glob("*.md")):
        last = 0
        for number in map(int, re.findall(r"^ *([0-9]+)\. ", path.read_text(encoding="utf-8"), re.MULTILINE)):
            assert number in (1, last + 1), f"{path.name}: {number}. begins a line"
            last = number


def flags_of_the_code() -> set[str]:
    """The names of all flags: the first argument of every `Flag(…)`."""
    names: set[str] = set()
    for path in sorted((REPOSITORY_ROOT / "evaluation").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Flag":
                name = node.args[0]
                if isinstance(name, ast.JoinedStr):
                    *_, ending = (part.value for part in ast.iter_child_nodes(name) if isinstance(part, ast.Constant))
                    names |= {f"1{ending}", f"0.1{ending}"}
                else:
                    names.add(constants[name.id] if isinstance(name, ast.Name) else ast.literal_eval(name))
    return names


def test_every_flag_is_explained_and_every_explained_flag_exists() -> None:
    rows = [line for line in text("flags").splitlines() if line.startswith("| `")]
    explained = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(explained) == len(set(explained))
    assert set(explained) == flags_of_the_code()
    assert all(len(row.split("|")) == 5 and all(cell.strip() for cell in row.split("|")[1:4]) for row in rows)


def test_every_attack_stands_beside_the_grant_that_it_needs() -> None:
    nodes = {
        name: node
        for path in (REPOSITORY_ROOT / "conf" / "attack").glob("*.yaml")
        for name, node in yaml.safe_load(path.read_text()).items()
        if name != "defaults"
    }
    rows = text("threat_models").split("## Which attacks run")[1].split("\n## ")[0].splitlines()
    rows_by_access = {
        row.split("`")[1]: set(re.findall(r"`(\w+)`", row.split("|")[2])) for row in rows if row.startswith("| `")
    }
    assert rows_by_access == {
        access: {name for name, node in nodes.items() if instantiate(node).threat.access == access}
        for access in rows_by_access
    }
    assert set(rows_by_access) == {path.stem for path in (REPOSITORY_ROOT / "conf" / "threat").glob("*.yaml")}


def test_exit_codes_are_those_of_the_commands() -> None:
    from palisade import commandline

    codes = {int(code) for code in re.findall(r"^\| (\d) \|", text("reading_the_curve"), re.MULTILINE)}
    named = ("EXIT_DONE", "EXIT_SOME_FAILED", "EXIT_BAD_INPUT", "EXIT_CLAIM_VIOLATED", "EXIT_GATE_EXCEEDED")
    assert codes == {getattr(commandline, name) for name in named}
