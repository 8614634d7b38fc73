"""Language models from documents to the report, by the commands that classifiers take."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import call

from palisade.targets.release import Release

SOME_WORDS = ("ann", "bob", "cat", "dog", "eel", "fox", "gnu", "hen")
RUN_OVERRIDES = (
    *("data=documents", "data.path=own.jsonl", "data.length=24"),
    *("trainer.epochs=12", "trainer.batch_size=8", "split.pool=40", "split.population=30"),
    *("split.reference=20", "split.test=20", "fleet.models=6", "fleet.workers=1", "secret=documents", "quiet=true"),
)
SKIPPED_ON_TEXTS = {"entropy", "modified_entropy", "correctness"}


GPT_OVERRIDES = ("network=gpt", "network.width=16", "network.depth=1", "network.heads=2")


def documents(path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(SOME_WORDS, rng.integers(2, 8))) for _ in range(130)]
    rows = (
        {"text": text, "author": number % 65, "rewritten": [text.upper(), "xyz"], "halved": [text[: len(text) // 2]]}
        for number, text in enumerate(texts)
    )
    path.write_text("\n".join(map(json.dumps, rows)))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with next(folder.glob("reports/*/results.csv")).open() as file:
        return [row for row in csv.DictReader(file) if row["model"] == row["group"] == "all"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A folder with a fleet without defense, one under DP-SGD, and what attacks found."""
    folder = tmp_path_factory.mktemp("language")
    documents(folder / "own.jsonl")
    for words in ([], ["defense=dp_sgd", "defense.trainer.batch_size=10", "defense.trainer.epochs=2"]):
        done = call("train.py", *RUN_OVERRIDES, *GPT_OVERRIDES, *words, folder=folder)
        assert done.returncode == 0, done.stderr
    done = call("evaluate.py", "data=documents", "data.path=own.jsonl", "quiet=true", folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def value(rows: list[dict[str, str]], defense: str, attack: str, metric: str) -> float:
    (row,) = (row for row in rows if (row["defense"], row["attack"], row["metric"]) == (defense, attack, metric))
    return float(row["value"])


def test_attacks_find_members_of_plain_training_and_not_of_dp_sgd(evaluated):
    rows = rows_of(evaluated)
    for attack in ("loss", "rmia", "calibration", "min_k"):
        assert value(rows, "dp_sgd", attack, "auc") < 0.72 and value(rows, "none", attack, "auc") > 0.6
    assert value(rows, "none", "rmia", "auc") > 0.7
    ran = {row["attack"] for row in rows if row["attack"]}
    assert not ran & SKIPPED_ON_TEXTS and {"lira", "population", "reference"} <= ran


def test_utility_is_perplexity_and_bits_a_byte(evaluated):
    rows = rows_of(evaluated)
    nats = value(rows, "none", "", "test_nats")
    assert value(rows, "none", "", "test_perplexity") == pytest.approx(np.exp(nats), rel=0.05)
    assert value(rows, "none", "", "test_bits_per_byte") == pytest.approx(nats / np.log(2))  # a byte a token
    assert 0 < value(rows, "none", "", "test_accuracy") < 1
    assert "perplexity" in (evaluated / "printed").read_text()


def test_what_is_kept_is_a_row_a_token_and_no_logits(evaluated):
    paths = [*evaluated.glob("runs/*/gpt-none-*/signals/none/pool-plain/*.npy")]
    rows = np.load(paths[0])
    assert len(paths) == 6 and rows.shape == (40, 24)
    assert rows.dtype.names == ("log_probability", "mean", "variance", "greedy")


def test_signals_in_the_place_of_weights_give_the_same_scores(evaluated, tmp_path):
    documents(tmp_path / "own.jsonl")
    assert call("train.py", *RUN_OVERRIDES, *GPT_OVERRIDES, "fleet.keep=signals", folder=tmp_path).returncode == 0
    assert not [path for path in tmp_path.glob("runs/*/*/models/*.safetensors")]
    done = call("evaluate.py", "data=documents", "data.path=own.jsonl", "quiet=true", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows, others = rows_of(tmp_path), rows_of(evaluated)
    for attack in ("loss", "lira", "rmia", "min_k", "population"):
        assert value(rows, "none", attack, "auc") == value(others, "none", attack, "auc")


def test_costs_are_said_beforehand(evaluated, tmp_path):
    documents(tmp_path / "own.jsonl")
    done = call("train.py", *RUN_OVERRIDES, *GPT_OVERRIDES, "plan=true", folder=tmp_path)
    assert done.returncode == 0 and "about MB" in done.stdout
    chosen = ("data=documents", "data.path=own.jsonl", "plan=true", "attack=quick")
    done = call("evaluate.py", *chosen, folder=evaluated)
    assert done.returncode == 0 and "MB of disk" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("train.py", ("guard=rounding",), "guard=rounding: expected none or memfree for language models"),
        ("train.py", ("canary=ood", "canary.count=5"), "canary.kind=ood: expected clean, secret, new_token for doc"),
        ("train.py", ("canary=new_token", "canary.count=5"), "data.new_tokens=0: expected at least canary.count=5"),
        ("train.py", ("canary=secret",), "data.length=24: expected at least 25, the tokens of a secret"),
        ("train.py", ("network=mlp",), "network=mlp or linear: expected records of numbers"),
        ("train.py", ("defense=mixup",), "defense=mixup: expected data of one class a record, since tokens are no"),
        ("evaluate.py", ("threat=label_only",), "threat.outputs=label: expected whole answers of language models"),
        ("evaluate.py", ("queries=[plain,mirrored]",), "queries=mirrored: expected images"),
    ],
)
def test_what_documents_do_not_allow_is_refused_in_one_line(evaluated, script, words, message):
    network = () if script == "evaluate.py" or words[0].startswith("network") else GPT_OVERRIDES
    own = RUN_OVERRIDES if script == "train.py" else ("data=documents", "data.path=own.jsonl")
    done = call(script, *own, *network, *words, folder=evaluated)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr


def test_a_release_says_how_likely_a_text_is(evaluated):
    (run,) = evaluated.glob("runs/own/gpt-none-*")
    done = call("train.py", f"ship={run}", "secret=documents", "quiet=true", folder=evaluated)
    assert done.returncode == 0, done.stderr
    release = Release.load(evaluated / done.stdout.split()[-1])
    assert "base" not in release.card["network"]["settings"]
    text = json.loads((evaluated / "own.jsonl").read_text().splitlines()[0])["text"]
    likely, unlikely = release.log_probabilities([text, "§§§§§§"])
    assert len(likely) == len(text) and likely.max() <= 0 and likely.mean() > unlikely.mean()
    with pytest.raises(ValueError, match="expected a classifier, and this one is a language model"):
        release.predict([text])


def test_paraphrases_of_the_user_take_the_place_of_copies(evaluated):
    """They are no part of what a run is: nothing is trained again."""
    (run,) = evaluated.glob("runs/own/gpt-none-*")
    before = (run / "models" / "0.safetensors").stat().st_mtime_ns
    done = call("train.py", *RUN_OVERRIDES, *GPT_OVERRIDES, "data.paraphrases=rewritten", folder=evaluated)
    assert done.returncode == 0 and (run / "models" / "0.safetensors").stat().st_mtime_ns == before, done.stderr
    done = call("evaluate.py", f"runs={run}", "attack=neighbors", "quiet=true", "name=own", folder=evaluated)
    assert done.returncode == 0, done.stderr
    (path,) = run.glob("signals/neighbor_losses-*/*.npy")
    losses = np.load(path)
    assert losses.shape == (6, 40, 2) and (losses[..., 1] == losses[:, :1, 1]).all() and np.ptp(losses[0, :, 0]) > 0


def test_other_paraphrases_are_measured_anew_and_never_passed_over(evaluated):
    (run,) = evaluated.glob("runs/own/gpt-none-*")
    areas = []
    for key in ("rewritten", "halved"):
        done = call("train.py", *RUN_OVERRIDES, *GPT_OVERRIDES, f"data.paraphrases={key}", folder=evaluated)
        assert done.returncode == 0, done.stderr
        chosen = ("data=documents", "data.path=own.jsonl", f"runs={run}", "attack=neighbors", "quiet=true", "name=own")
        done = call("evaluate.py", *chosen, f"data.paraphrases={key}", folder=evaluated)
        assert done.returncode == 0, done.stderr
        areas.append(value(rows_of(evaluated), "none", "neighbors", "auc"))
    assert areas[0] != areas[1]
    done = call("evaluate.py", *chosen, "data.paraphrases=rewritten", folder=evaluated)
    assert done.returncode == 2 and "data.paraphrases=rewritten: expected the halved of" in done.stderr, done.stderr
    done = call("train.py", *RUN_OVERRIDES, *GPT_OVERRIDES, "data.paraphrases=typo", folder=evaluated)
    assert done.returncode == 2 and "document 1 has none" in done.stderr, done.stderr
