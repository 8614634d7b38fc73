"""An audit with blank canaries refutes ε = 4 where DP-SGD's noise is missing, and leaves it alone where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palisade.attacks import Attack, GradientNorm, LossThreshold
from palisade.defenses.dp_sgd.noise import NoiseSource
from palisade.evaluation.claims import FAMILYWISE_ALPHA, violations
from palisade.evaluation.epsilon_audit import guess
from palisade.evaluation.measuring.measure import measure
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.statistics.epsilon import one_run
from palisade.targets.run import Run
from palisade.train import train_run

Compose = Callable[..., dict[str, Any]]
DATA_CLASSES, DATA_FEATURES, DATA_RECORDS = 50, 400, 1300
LOSS_NODE = {"_target_": "palisade.attacks.LossThreshold"}
GUESS_SHARE = 0.4


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """People who mostly go where all others go: records, and canaries that are made of them, overlap."""
    rng = np.random.default_rng(0)
    y = np.arange(DATA_RECORDS) % DATA_CLASSES
    usual = (rng.random(DATA_FEATURES) < 0.3) ^ (rng.random((DATA_CLASSES, DATA_FEATURES)) < 0.03)
    x = usual[y] ^ (rng.random((DATA_RECORDS, DATA_FEATURES)) < 0.01)
    np.savez(tmp_path / "places.npz", x=x.astype(np.float32), y=y)
    return tmp_path / "places.npz"


def audited(compose: Compose, places: Path, models: int, canary: str = "blank") -> Run:
    """A fleet of models that claim ε = 4."""
    settings = compose(
        *("data=npz", f"data.path={places}", "split.pool=1000", f"canary={canary}", "canary.count=1000"),
        *(
            "defense=dp_sgd",
            "defense.epsilon=4",
            "defense.delta=1e-5",
            "network.hidden=[64]",
            "network.activation=tanh",
        ),
        *("defense.trainer.epochs=60", "defense.trainer.batch_size=500", "defense.trainer.optimizer.lr=1"),
        *("fleet.workers=1", f"fleet.models={models}", "secret=audit"),
    )
    return Run(Path(train_run(settings)["folder"]))


def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: zeros are added instead of noise, and nothing that accounts for it knows."""
    monkeypatch.setattr(NoiseSource, "fill", lambda self, out, **_: out.fill(0))


def refuted(run: Run, auditor: Attack) -> int:
    """Number of models that contradict their claim, each judged by itself."""
    seen, claim = view(run, Grant(weights=True), threats=[auditor.threat]), run.statement
    assert claim.epsilon == pytest.approx(4, rel=0.01)
    pairs = zip(auditor.score(seen), seen.membership, strict=True)
    bounds = [
        one_run(*guess(scores, members, GUESS_SHARE), claim.delta or 0.0, FAMILYWISE_ALPHA) for scores, members in pairs
    ]
    return sum(bound > claim.epsilon for bound in bounds)


def test_missing_noise_is_refuted(compose: Compose, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_noise(monkeypatch)
    run = audited(compose, places, models=2)
    assert refuted(run, LossThreshold()) == refuted(run, GradientNorm()) == 2
    threat = {"outputs": "logits", "weights": True, "audit": LOSS_NODE, "guesses": GUESS_SHARE}
    result = measure(run, AttackProtocol(attacks={"loss": LOSS_NODE}, threat=threat))
    assert [violation.result for violation in violations([result])] == [result]  # exit code 3


def test_a_true_claim_is_not(compose: Compose, places: Path) -> None:
    run = audited(compose, places, models=2)
    assert refuted(run, LossThreshold()) == refuted(run, GradientNorm()) == 0


@pytest.mark.slow
def test_ten_of_ten_and_none_of_twenty(compose: Compose, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refuted(audited(compose, places, models=20), LossThreshold()) == 0
    without_noise(monkeypatch)
    run = audited(lambda *words: compose(*words, runs=places.parent / "silent"), places, models=10)
    assert refuted(run, LossThreshold()) == 10


def test_canaries_that_overlap_with_records_do_not_suffice(
    compose: Compose, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_noise(monkeypatch)
    assert refuted(audited(compose, places, models=1, canary="ood"), LossThreshold()) == 0
