"""Words on a command line that no setting is read from: one line, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import call

COMPOSE_REMEDY = "; give a group one of its names, such as data=digits"
WRONG_WORDS = {
    "numbers": (("train.py", "data=[1,2]"), COMPOSE_REMEDY),
    "lists": (("train.py", "data=[[1]]"), COMPOSE_REMEDY),
    "attacks": (("evaluate.py", "attack=[1]"), COMPOSE_REMEDY),
    "batch": (
        ("train.py", "data=digits", "defense=dp_sgd", "split.pool=0.1"),
        "defense.trainer.batch_size=128: expected at most 90, ",
    ),
    "plain batch": (
        ("train.py", "data=digits", "trainer.batch_size=700"),
        "error: trainer.batch_size=700: expected at most 629, ",
    ),
    "optimizer": (
        ("train.py", "data=digits", "trainer.optimizer._target_=torch.optim.Nope"),
        "error: trainer.optimizer._target_=torch.optim.Nope: cannot be imported",
    ),
    "optimizer of a defense": (
        ("train.py", "data=digits", "defense=dp_sgd", "defense.trainer.optimizer.lr=-1"),
        "error: defense.trainer.optimizer._target_=torch.optim.SGD: cannot be made with lr=-1, momentum=0.9 (",
    ),
    "optimizer of a base": (
        (
            *("train.py", "data=digits", "defense=selena", "defense@defense.base=dp_sgd"),
            "defense.base.trainer.optimizer._target_=builtins.list",
        ),
        "error: defense.base.trainer.optimizer._target_=builtins.list: expected a class of torch.optim.",
    ),
}


OPTION_CASES = {"data=digits": ("runs=x", "-m", "data=digits"), "--nonsense": ("--nonsense",), "wat": ("--cfg", "wat")}
"""Of Hydra's own options: the word that is refused, and the words that hold it."""


@pytest.mark.parametrize("word", OPTION_CASES)
def test_an_option_that_cannot_be_read_is_named_below_the_usage(tmp_path: Path, word: str) -> None:
    done = call("train.py", *OPTION_CASES[word], folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: train.py ") and word in done.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_one_line(tmp_path: Path, case: str) -> None:
    words, message = WRONG_WORDS[case]
    done = call(*words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "digits").exists()


@pytest.mark.parametrize("defense", ["l2", "dp_sgd"])
def test_a_setting_that_the_defense_has_otherwise_is_reported(tmp_path: Path, defense: str) -> None:
    done = call("train.py", "data=digits", f"defense={defense}", "trainer.epochs=3", "plan=true", folder=tmp_path)
    assert done.returncode == 0
    own = "warning: trainer.epochs=3 changes nothing: defense=dp_sgd has its own, set defense.trainer.epochs\n"
    assert done.stderr == ("" if defense == "l2" else own)
