"""Words on a command line that no setting is read from: one line, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import call

COMPOSED = "; give a group one of its names, such as data=digits"
WORDS = {
    "numbers": (("train.py", "data=[1,2]"), COMPOSED),
    "lists": (("train.py", "data=[[1]]"), COMPOSED),
    "attacks": (("evaluate.py", "attack=[1]"), COMPOSED),
    "sweep": (("train.py", "runs=x", "-m", "data=digits"), "data=digits; options such as -m stand before all settings"),
    "option": (
        ("train.py", "data=digits", "--cfg", "wat"),
        "invalid choice: 'wat' (choose from 'job', 'hydra', 'all')",
    ),
    "batch": (
        ("train.py", "data=digits", "defense=dp_sgd", "split.pool=0.1", "trainer.batch_size=32"),
        "defense.trainer.batch_size=128 exceeds N=90; choose at most 90",
    ),
    "plain batch": (
        ("train.py", "data=digits", "trainer.batch_size=700"),
        "error: trainer.batch_size=700 exceeds N=629",
    ),
    "optimizer": (
        ("train.py", "data=digits", "trainer.optimizer._target_=torch.optim.Nope"),
        "trainer.optimizer._target_=torch.optim.Nope cannot be imported",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_one_line(tmp_path: Path, case: str) -> None:
    words, message = WORDS[case]
    done = call(*words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "digits").exists()
