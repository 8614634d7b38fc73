"""The README is one screen: its words are counted, its Python runs, its commands print what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from commands import call
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

REPOSITORY_ROOT = Path(__file__).parents[2]
README_TEXT = (REPOSITORY_ROOT / "README.md").read_text(encoding="utf-8")
MOST_WORDS = 700
FIRST_SCREEN = 40
"""Lines."""
SHOWN_OUTPUTS = re.findall(r"```bash\n(python [^\n]*)\n```\n\n```text\n(.*?)```", README_TEXT, re.DOTALL)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 2)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_is_short() -> None:
    assert len(README_TEXT.split()) <= MOST_WORDS


def test_installation_and_python_stand_on_the_first_screen() -> None:
    first = "\n".join(README_TEXT.splitlines()[:FIRST_SCREEN])
    assert "pip install -c constraints.txt -e ." in first and "make demo" in first
    (code,) = re.findall(r"```python\n(.*?)```", first, re.DOTALL)
    assert "DPSGD" in code and "audit_scores" in code
    assert len([line for line in code.splitlines() if line.strip()]) == 5


@pytest.mark.filterwarnings("ignore")
def test_python_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = {
        "module": Module(),
        "loader": DataLoader(TensorDataset(torch.randn(300, 4), torch.randint(0, 2, (300,))), batch_size=100),
        "in_scores": rng.normal(1, 1, 200),
        "out_scores": rng.normal(0, 1, 200),
    }
    (code,) = re.findall(r"```python\n(.*?)```", README_TEXT, re.DOTALL)
    exec(compile(code, "README.md", "exec"), names)
    assert names["trainer"].current_epoch == 10
    assert "Lower bounds on ε" in capsys.readouterr().out


def test_every_link_leads_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        targets = re.findall(r"\]\(([^)#]+)#?[^)]*\)", (REPOSITORY_ROOT / page).read_text(encoding="utf-8"))
        for target in targets:
            assert target.startswith("https://") or (REPOSITORY_ROOT / target).exists(), f"{page}: {target}"
    assert "docs/img/location30.png" in README_TEXT


@pytest.mark.slow
def test_commands_print_what_is_shown(tmp_path: Path) -> None:
    """On a sweep of two runs instead of ten: the lines that do not depend on numbers are those of the README."""
    assert len(SHOWN_OUTPUTS) == 3
    for command, shown in SHOWN_OUTPUTS:
        words = command.replace("experiment=quickstart", "experiment=smoke data=digits").split()[1:]
        if "ship=" in command:
            (run,) = (tmp_path / "runs" / "digits").glob("linear-dp_sgd-" + 8 * "[0-9a-f]")
            words = [word.replace("runs/digits/linear-dp_sgd-<hash>", str(run.relative_to(tmp_path))) for word in words]
        done = call(*words, folder=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert set(telling(shown)) <= set(telling(done.stdout)), command


def telling(printed: str) -> list[str]:
    """Words of an output without its numbers: headings, the words of counts, names of files."""
    return [
        re.sub(r"\d+", "#", " ".join(re.split(r"[^\w/-]+", line)).strip())
        for line in printed.splitlines()
        if re.match(r"released/|\d+ done| *defense ", line)
    ]
