"""Every command of docs/commands.md, in its order, on data small enough for a test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import call, commands_of

from palisade.commandline import EXIT_GATE_EXCEEDED

REPOSITORY_ROOT = Path(__file__).parents[2]
COMMANDS_PAGE = REPOSITORY_ROOT / "docs" / "commands.md"
PAGE_TEXT = COMMANDS_PAGE.read_text(encoding="utf-8")
SMALL_SETTINGS = ["fleet.models=4", "trainer.epochs=5"]
FEW_RECORDS = "split.pool=300"


def smaller(words: Sequence[str], folder: Path) -> str:
    """The command on the smoke sweep's size."""
    command = " ".join(words)
    command = command.replace("experiment=quickstart", "experiment=smoke data=digits").replace(" fleet.models=16", "")
    command = command.replace("experiment=defense_comparison", "experiment=smoke")  # its runs compose in a test
    if "ship=" in command:
        (run,) = (folder / "runs" / "digits").glob("linear-dp_sgd-" + 8 * "[0-9a-f]")
        return command.replace("runs/digits/linear-dp_sgd-<hash>", str(run.relative_to(folder)))
    if "train.py" in command and "experiment=" not in command:
        command = command.replace("defense.epochs=10", "defense.epochs=3")
        private = ["defense.trainer.epochs=5"] if "defense=dp_sgd" in command else []
        command = " ".join([command, *SMALL_SETTINGS, *private])
    return f"{command} {FEW_RECORDS}" if "train.py" in command and "data=digits" in command else command


@pytest.mark.slow
def test_every_command_works(tmp_path):
    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {
            "patient_id": np.repeat(np.arange(100), 3),
            "age": np.where(rng.random(300) < 0.1, np.nan, rng.integers(18, 90, 300)),
            "sex": rng.choice(["f", "m"], 300),
            "income": rng.choice(["low", "high"], 300),
        }
    )
    people.to_csv(tmp_path / "people.csv", index=False)
    np.savez(tmp_path / "mine.npz", x=rng.random((300, 6), dtype=np.float32), y=np.arange(300) % 3)
    for name in ("in", "out"):
        np.savez(tmp_path / f"{name}.npz", probabilities=rng.dirichlet([1, 1, 1], 200), labels=np.arange(200) % 3)
    commands = commands_of(COMMANDS_PAGE)
    assert len(commands) == 19
    for command in commands:
        words = smaller(command, tmp_path).split()
        assert words[0] == "python"
        done = call(*words[1:], folder=tmp_path, drawn=True)
        ends = (0, EXIT_GATE_EXCEEDED) if "max_tpr" in " ".join(command) else (0,)  # fleets this small resolve little
        assert done.returncode in ends, f"{command}\n{done.stderr}"
    assert (tmp_path / "reports" / "only_private" / "report.html").exists()


def test_attacks_on_bare_arrays(capsys):
    rng = np.random.default_rng(0)
    membership = rng.random((8, 200)) < 0.5
    logits = rng.normal(size=(8, 200, 3)) + 4 * membership[:, :, None] * [1, 0, 0]
    names = {"logits": logits, "labels": np.zeros(200, dtype=int), "membership": membership}
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE_TEXT, re.DOTALL) if "LiRA()" in block]
    exec(compile(code, "docs/commands.md", "exec"), names)
    assert "Lower bounds on ε" in capsys.readouterr().out
    assert names["scores"].shape == (8, 200)


def test_picture_and_table_are_there():
    page = (REPOSITORY_ROOT / "docs" / "location30.md").read_text(encoding="utf-8")
    for image in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (REPOSITORY_ROOT / "docs" / image).exists()
    rows = [line for line in page.splitlines() if line.startswith(("| none", "| l2", "| dp_sgd"))]
    assert len(rows) == 10
