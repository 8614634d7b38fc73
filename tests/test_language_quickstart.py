"""The comparison of `experiment=lm_quickstart` on 200 documents: base, fleets, attacks, extraction, claims."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import call

SOME_WORDS = ("ann", "bob", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lark")
SMALL_NETWORK = ("network.width=16", "network.depth=1", "network.heads=2", "data.length=32", "quiet=true")
SMALL_GRIDS = (
    "hydra.sweeper.grids=['defense=none network.lora.rank=null,4','defense=dp_sgd defense.epsilon=8"
    " defense.trainer.epochs=4 defense.trainer.batch_size=20','canary=secret canary.copies=[8] canary.count=8']"
)


def written(path: Path, count: int, *, capitals: bool) -> str:
    """A file of documents; those of the base are of another kind."""
    rng = np.random.default_rng(count)
    texts = [" ".join(rng.choice(SOME_WORDS, rng.integers(4, 9))) for _ in range(count)]
    path.write_text("\n".join(json.dumps({"text": text.upper() if capitals else text}) for text in texts))
    return f"data.path={path}"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Rows of results.csv, after base, sweep and evaluation."""
    folder = tmp_path_factory.mktemp("quickstart")
    others = written(folder / "base.jsonl", 120, capitals=True)
    few = ("split.pool=100", "split.test=20", "trainer.epochs=5", "secret=base")
    done = call("train.py", "experiment=lm_base", "data=documents", others, *SMALL_NETWORK, *few, folder=folder)
    assert done.returncode == 0, done.stderr
    base = f"network.base={done.stdout.split()[-1]}"
    own = ("data=documents", written(folder / "own.jsonl", 200, capitals=False), "data.name=own", *SMALL_NETWORK, base)
    sizes = (
        "split.pool=80",
        "split.validation=0",
        "split.population=50",
        "split.test=40",
        "trainer.epochs=10",
        "trainer.optimizer.lr=2e-3",
    )
    done = call("train.py", "-m", "experiment=lm_quickstart", *own, *sizes, "secret=quick", SMALL_GRIDS, folder=folder)
    assert done.returncode == 0 and done.stdout.split()[:4] == ["4", "done,", "0", "failed,"], done.stderr
    done = call("evaluate.py", "data=documents", own[1], "data.name=own", "quiet=true", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "the public base has" in done.stdout and "lora 4" in done.stdout
    with next(folder.glob("reports/*/results.csv")).open() as file:
        return list(csv.DictReader(file))


def value(
    rows: list[dict[str, str]], metric: str, *, attack: str = "", group: str = "all", canary: str = "none",
    defense: str = "none",
) -> float:  # fmt: skip
    """The only value of these keys."""
    wanted = {"metric": metric, "attack": attack, "group": group, "canary": canary, "defense": defense, "model": "all"}
    (row,) = (row for row in rows if all(row[key] == own for key, own in wanted.items()))
    return float(row["value"])


def test_attacks_find_members_of_what_memorizes_and_few_behind_noise(rows):
    for attack, least, apart in (("rmia", 0.65, 0.05), ("base_difference", 0.55, 0.02)):
        plain, private = (value(rows, "auc", attack=attack, defense=defense) for defense in ("none", "dp_sgd"))
        assert plain > least and private < plain - apart


def test_training_is_more_useful_than_the_base(rows):
    for defense in ("none", "lora 4", "dp_sgd"):
        base = value(rows, "base_test_perplexity", defense=defense)
        assert value(rows, "test_perplexity", defense=defense) < base - 20


def test_extraction_is_of_members_beside_others(rows):
    for defense in ("none", "lora 4", "dp_sgd"):
        for side in ("members", "nonmembers"):
            assert 0 <= value(rows, "extracted_greedy@4+10", group=side, defense=defense) <= 1


def test_copies_give_secrets_away(rows):
    assert value(rows, "auc", attack="loss", canary="secret") > 0.9
    inside, outside = (
        value(rows, "secret_exposure@8 copies", group=side, canary="secret") for side in ("members", "nonmembers")
    )
    assert inside > outside + 2


def test_claims_are_those_that_were_asked_for(rows):
    (claimed,) = {row["epsilon"] for row in rows if row["defense"] == "dp_sgd"}
    assert float(claimed) == pytest.approx(8, abs=0.1)
    assert {row["epsilon"] for row in rows if row["defense"] == "lora 4"} == {""}
