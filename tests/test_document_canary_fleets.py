"""Canaries among documents, from training to the report: secrets in subwords, and tokens of their own that bound ε."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_recited_texts import evaluated, sides

from palisade.evaluation.signals.secrets import secret_exposure, secrets_in
from palisade.targets import engines
from palisade.targets.run import Run
from palisade.targets.training import load_fleet
from palisade.train import composed, run_single

WORD_LIST = ("amber", "basil", "cedar", "delta", "ember", "fennel", "ginger", "hazel", "indigo", "jasmine")
SMALL_FLEET = (
    *("data=documents", "data.path=own.jsonl", "secret=planted", "fleet.workers=1", "fleet.models=2"),
    *("network=gpt", "network.width=16", "network.depth=1", "network.heads=2", "split.population=5", "split.test=5"),
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = [f"{' '.join(rng.choice(WORD_LIST, 4))} {rng.choice((123, 127, 350))}" for _ in range(70)]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "count", lambda workers: 1)


@pytest.mark.usefixtures("own")
def test_secrets_of_subwords_are_exposed_by_the_code() -> None:
    pytest.importorskip("tokenizers")
    run_single(
        composed(
            *SMALL_FLEET, "data.tokens=bpe", "data.vocabulary=340", "data.length=29", "canary=secret",
            "canary.count=8", "canary.copies=[4]", "split.pool=20", "split.reference=30", "trainer.epochs=40",
            "trainer.batch_size=8", "trainer.optimizer.lr=1e-2",
        )
    )  # fmt: skip
    report = evaluated("attack=loss")
    (content,) = report["runs"]
    inside, outside = sides(content, "secret_exposure@4 copies")
    assert inside > outside + 3
    extracted, of_others = sides(content, "secret_extracted@4 copies")
    assert extracted > of_others
    run = Run(Path(content["folder"]))
    secrets, tokens = secrets_in(run), run.dataset.preprocessing
    exposure, fleet = secret_exposure(run, secrets), load_fleet(run.config, run.dataset, run.folder, [0])
    own = secrets[0]
    texts = [f"{own.prefix}{code:03d}" for code in range(1000)]
    assert len({len(tokens.encode(text)) for text in texts}) > 1, "some digits are joined"
    log_p, encoded = np.empty(1000), [tokens.encode(text) for text in texts]
    for length in {*map(len, encoded)}:  # without padding, each as long as it is
        (same,) = np.nonzero([len(each) == length for each in encoded])
        labels = np.array([encoded[code] for code in same])
        log_p[same] = fleet.answers(tokens.inputs_of(labels), labels)[0]["log_probability"].sum(-1, dtype=np.float64)
    rank = 1 + (log_p > log_p[int(own.code)] + 1e-4).sum()
    assert abs(exposure[0, 0] - (np.log2(1000) - np.log2(rank))) < 0.05


@pytest.mark.usefixtures("own")
def test_new_tokens_bound_epsilon() -> None:
    canaries = ("data.length=8", "canary=new_token", "canary.count=300", "data.new_tokens=300", "split.pool=20")
    plain = ("trainer.epochs=20", "trainer.batch_size=34", "trainer.optimizer.lr=2e-2")
    run_single(composed(*SMALL_FLEET, *canaries, *plain))
    claim = ("defense=dp_sgd", "defense.epsilon=4", "defense.delta=1e-5")
    private = ("defense.trainer.epochs=5", "defense.trainer.batch_size=34")
    run_single(composed(*SMALL_FLEET, *canaries, *claim, *private))
    by_defense = {run["defense"]: run["audit"] for run in evaluated("attack=loss")["runs"]}
    bare, behind = by_defense["none"], by_defense["dp_sgd"]
    assert bare["canaries"] == behind["canaries"] == 300
    assert bare["correct"] == bare["guesses"] == 60 and bare["bounds"]["clopper_pearson"] > 2.5
    assert behind["correct"] > 36, "a token of its own is learned through the noise"
    assert 0.3 < behind["bounds"]["one_run"] <= 4 and behind["ceilings"]["one_run"] > 2
