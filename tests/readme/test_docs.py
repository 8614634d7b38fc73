"""The ten lines of docs/dp_sgd.md run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

PAGE = Path(__file__).parents[2] / "docs" / "dp_sgd.md"


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
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, str(PAGE), "exec"), {})
    assert "differential privacy per record (add/remove one record), PRV accountant" in capsys.readouterr().out


def test_every_setting_is_explained():
    import inspect

    from defenses.dp_sgd import DPSGD

    named = set(inspect.signature(DPSGD.__init__).parameters) - {"self", "models"}
    table = PAGE.read_text(encoding="utf-8").split("## Settings")[1].split("## Pitfalls")[0]
    assert all(f"`{name}`" in table for name in named)
