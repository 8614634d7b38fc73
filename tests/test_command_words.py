"""Words on a command line that no setting is read from: one line, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import call
from hydra.core.override_parser.overrides_parser import OverridesParser

from palisade.command_words import TEXT_KEYS, TEXT_LIST_KEYS, nearest_keys, plain_words
from palisade.data.table import Table

COMPOSE_REMEDY = "; give a group one of its names, such as data=digits"
WRONG_WORDS = {
    "numbers": (("train.py", "data=[1,2]"), COMPOSE_REMEDY),
    "lists": (("train.py", "data=[[1]]"), COMPOSE_REMEDY),
    "attacks": (("evaluate.py", "attack=[1]"), COMPOSE_REMEDY),
    "batch": (
        ("train.py", "data=digits", "network=mlp", "defense=dp_sgd", "split.pool=0.1"),
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


NAMES_OF_COLUMNS = (
    *(
        "2",
        "08",
        "1.0",
        "1e3",
        "True",
        "null",
        "Größe",
        "income (USD)",
        "a,b",
        "y=z",
        "it's",
        "{y}",
        "y: z",
        "[y]",
        "%",
    ),
    *("a\\b", "tail\\", "#1", "x y", "choice(1,2)", "-5", "~y", "@y", "日本", '"'),
)


@pytest.mark.parametrize("name", NAMES_OF_COLUMNS)
def test_a_name_is_text_whatever_it_looks_like(name: str) -> None:
    words = plain_words([f"data.label={name}", f"data.path=train {name} (1).csv", f"+data.drop=[{name!r},2]"])
    label, path, drop = (parsed.value() for parsed in OverridesParser.create().parse_overrides(words))
    assert (label, path) == (name, f"train {name} (1).csv")
    assert drop[1] == "2"
    assert plain_words(words) == words


def test_what_is_no_text_stays_as_it_is() -> None:
    words = [
        "-m", "data=digits", "defense.epsilon=1,2,inf", "data.person=null", "data.label='a b'", "fleet.models=2",
        "trainer.optimizer={lr: 1}", "data.header=false", "runs=a,b", "hydra.job.name=x", "--cfg", "job", "+new=1",
    ]  # fmt: skip
    assert plain_words(words) == [*words[:4], "data.label='a b'", *words[5:]]


@pytest.mark.parametrize(
    ("value", "read"), [("infinity", "inf"), ("1,Infinity", "1,inf"), ("∞", "inf"), ("-∞", "-inf")]
)
def test_infinity_in_any_word(value: str, read: str) -> None:
    assert plain_words(["-m", f"defense.epsilon={value}"]) == ["-m", f"defense.epsilon={read}"]


def test_settings_of_text_are_known() -> None:
    types = {name: str(kind) for name, kind in Table.__annotations__.items()}
    text = {f"data.{name}" for name, kind in types.items() if kind.split(" |")[0] in ("str", "Sign", "Separator")}
    lists = {f"data.{name}" for name, kind in types.items() if "Names" in kind or "Sequence[str]" in kind}
    assert text <= TEXT_KEYS and lists <= TEXT_LIST_KEYS


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("defense.epsilom", "defense.epsilon"), ("dataa", "data"), ("fleet.model", "fleet.models"), ("chose", "choose")],
)
def test_a_wrong_key_names_the_nearest(key: str, nearest: str) -> None:
    text = nearest_keys(f"Could not override '{key}'.\nKey '{key}' is not in struct")
    assert text.startswith(f"{key} is no setting; nearest are ") and nearest in text.split(" are ")[1].split(", ")


@pytest.mark.parametrize("key", ["fleet.workers", "canary.count"])
def test_a_key_of_another_command_or_option_has_no_nearest(key: str) -> None:
    assert nearest_keys(f"Could not override '{key}'.\nKey '{key}' is not in struct") == f"{key} is no setting here"


def test_columns_with_such_names_are_trained_on(tmp_path: Path) -> None:
    for place, name in enumerate(("2", "income (USD)", "null")):
        rows = {"age": [20 + k % 50 for k in range(400)], "2x": [k % 7 for k in range(400)]}
        labels = {name: ["a" if k % 3 else "b" for k in range(400)]}
        pd.DataFrame(rows | labels).to_csv(tmp_path / f"train ({place}).csv", index=False)
        done = call(
            "train.py", "data=csv", f"data.path=train ({place}).csv", f"data.label={name}", "data.drop=[2x]",
            "plan=true", folder=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0 and f"runs/train _{place}_/" in done.stdout, done.stderr


def test_a_plan_says_everything_that_is_wrong(tmp_path: Path) -> None:
    done = call(
        "train.py", "data=csv", "data.path=nowhere.csv", "data.label=y", "fleet.models=0", "defense=dp_sgd", "seed=-1",
        "defense.epsilon=-2", "defense.clipping=round", "guard=topk", "guard.k=0", "plan=true", folder=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    wrong = {line.removeprefix("error: ").split("=")[0] for line in done.stderr.splitlines()}
    assert wrong == {
        "data.path", "fleet.models", "seed", "defense.epsilon", "defense.clipping", "guard.k",
    }  # fmt: skip
