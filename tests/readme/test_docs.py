"""Code of docs/dp_sgd.md, docs/attacks.md and docs/defenses.md runs as it stands."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from commands import call, commands_of
from torch import nn
from torch.utils.data import TensorDataset

DP_SGD_PAGE = Path(__file__).parents[2] / "docs" / "dp_sgd.md"


class MyModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


@pytest.mark.filterwarnings("ignore")
def test_ten_lines(monkeypatch, capsys, tmp_path):
    project = ModuleType("my_project")
    project.MyModule = MyModule
    project.my_dataset = TensorDataset(torch.randn(1000, 4), torch.randint(0, 2, (1000,)))
    monkeypatch.setitem(sys.modules, "my_project", project)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", DP_SGD_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, str(DP_SGD_PAGE), "exec"), {})
    assert "differential privacy per record (add/remove one record), PRV accountant" in capsys.readouterr().out


def test_every_setting_is_explained():
    import inspect

    from palisade.defenses.dp_sgd import DPSGD

    named = set(inspect.signature(DPSGD.__init__).parameters) - {"self", "models"}
    table = DP_SGD_PAGE.read_text(encoding="utf-8").split("## Settings")[1].split("## Pitfalls")[0]
    assert all(f"`{name}`" in table for name in named)


ATTACKS_PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


def test_attacks_from_a_notebook(capsys):
    rng = np.random.default_rng(0)
    membership = rng.random((8, 200)) < 0.5
    logits = rng.normal(size=(8, 200, 3)) + 4 * membership[:, :, None] * [1, 0, 0]
    namespace = {"logits": logits, "labels": np.zeros(200, dtype=int), "membership": membership}
    (code,) = re.findall(r"```python\n(.*?)```", ATTACKS_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(ATTACKS_PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "Lower bounds on ε" in printed and "Estimate(value=" in printed


def test_every_attack_is_in_the_table():
    conf = Path(__file__).parents[2] / "conf" / "attack"
    keys = {path.stem for path in conf.glob("*.yaml")} - {"quick", "standard", "full"}
    table = ATTACKS_PAGE.read_text(encoding="utf-8").split("## The suite")[1].split("##")[0]
    assert keys == set(
        re.findall(r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    )


def run(folder: Path, script: str, *arguments: str) -> None:
    done = call(script, *arguments, folder=folder)
    assert done.returncode == 0, f"{script} {shlex.join(arguments)}\n{done.stderr}"


@pytest.mark.slow
def test_every_command_of_the_attacks_page_works(tmp_path):
    commands = commands_of(ATTACKS_PAGE)
    assert len(commands) == 8
    small = ["fleet.models=4", "trainer.epochs=10", "split.pool=300"]
    for command in [["python", "train.py", "data=digits", *small], *commands]:
        _, script, *arguments = command
        if script == "train.py" and small[0] not in arguments:
            arguments += small + (["defense.trainer.epochs=5"] if "defense=dp_sgd" in arguments else [])
        if script == "evaluate.py" and not any(argument.startswith("attack=") for argument in arguments):
            arguments.append("attack=quick")
        if "attack=full" in arguments:
            arguments = [*arguments, "attack.boundary.budget=60", "attack.cascading.shadows=4"]
        run(tmp_path, script, *arguments)


DEFENSES_PAGE = Path(__file__).parents[2] / "docs" / "defenses.md"


@pytest.mark.parametrize(("group", "section"), [("defense", "## Training"), ("guard", "## Guards")])
def test_every_defense_and_guard_is_in_a_table(group, section):
    files = (Path(__file__).parents[2] / "conf" / group).glob("*.yaml")
    aliases = {"memguard"} if group == "defense" else set()
    table = DEFENSES_PAGE.read_text(encoding="utf-8").split(section)[1].split("\n## ")[0]
    first = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", first)) == {path.stem for path in files} - aliases


@pytest.mark.slow
def test_every_command_of_the_defenses_page_works(tmp_path):
    commands = commands_of(DEFENSES_PAGE)
    assert len(commands) == 5
    for _, script, *arguments in commands:
        small = ["fleet.models=3", "trainer.epochs=3"] if script == "train.py" else ["attack=quick"]
        private = ["defense.base.trainer.epochs=3"] if "defense@defense.base=dp_sgd" in arguments else []
        run(tmp_path, script, *arguments, *small, *private)
