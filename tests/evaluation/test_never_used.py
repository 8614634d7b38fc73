"""Records that were never used: falsely accused as often as they look like members, and apart from the fleet's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from palisade.attacks import RMIA, Attack, LossThreshold, Reference, View
from palisade.evaluate import all_attacks
from palisade.evaluation.studies.never_used import NEAR_DUPLICATES, Outsiders, _no_score, false_positive_rate, scores

FLEET_RECORDS, FLEET_MODELS = 400, 8


def answers(model: int, x: np.ndarray) -> np.ndarray:
    return np.hstack([np.zeros_like(x), x + 0.1 * model])


def fleet(records: int = FLEET_RECORDS, **parts: Any) -> View:
    """Log-odds that are a record's only feature, and 4 more on members."""
    rng = np.random.default_rng(0)
    members = rng.random((FLEET_MODELS, records)) < 0.5
    phi = rng.normal(size=(FLEET_MODELS, records)) + 4 * members
    population = rng.normal(size=(FLEET_MODELS, 60))
    return View(
        logits=np.stack([np.zeros_like(phi), phi], axis=-1), labels=np.ones(records, dtype=np.int64),
        membership=members, features=rng.normal(size=(records, 1)), query=answers,
        population_logits=np.stack([np.zeros_like(population), population], axis=-1),
        population_labels=np.ones(60, dtype=np.int64), population_features=rng.normal(size=(60, 1)), **parts,
    )  # fmt: skip


def outsiders(seen: View, x: np.ndarray, **settings: Any) -> Outsiders:
    return Outsiders.of(seen, x, np.ones(len(x), dtype=np.int64), **settings)


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.0, 0.05), (6.0, 0.9, 1.0)])
def test_members_lookalikes_are_accused_and_ordinary_records_are_not(shift: float, least: float, most: float) -> None:
    seen, x = fleet(), np.random.default_rng(1).normal(size=(300, 1)) + shift
    rate = false_positive_rate(LossThreshold(), seen, outsiders(seen, x))
    assert rate is not None and least <= rate.value <= most and rate.low <= rate.value <= rate.high


def test_records_that_all_models_find_easy_stand_out_of_no_shadows() -> None:
    seen, x = fleet(), np.random.default_rng(1).normal(size=(300, 1)) + 6
    rate = false_positive_rate(Reference(), seen, outsiders(seen, x))
    assert rate is not None and rate.value < 0.05


def test_only_duplicates_of_members_count() -> None:
    seen = fleet()
    x = np.concatenate([np.full((50, 1), 9.0), np.full((50, 1), -9.0)])
    alike = np.tile(np.arange(100) < 50, (FLEET_MODELS, 1))
    accused = [
        false_positive_rate(LossThreshold(), seen, outsiders(seen, x, is_counted=only)) for only in (alike, ~alike)
    ]
    assert [rate.value for rate in accused if rate is not None] == [1.0, 0.0]


def test_few_non_members_let_more_through_than_one_percent() -> None:
    """Of exchangeable records (k + 1) / (n + 1) are above the (k + 1)th largest of n."""
    seen = fleet(records=400)
    rate = false_positive_rate(LossThreshold(), seen, outsiders(seen, np.zeros((20, 1))))
    counts = (~seen.membership).sum(axis=1)
    assert rate is not None and rate.expected == pytest.approx(np.mean([(n // 100 + 1) / (n + 1) for n in counts]))
    assert 0.0115 < rate.expected < 0.02


def test_only_records_that_count_for_some_model_are_trials() -> None:
    seen, x = fleet(), np.full((40, 1), -9.0)
    counts = np.tile(np.arange(40) < 10, (FLEET_MODELS, 1))
    counts[0, 10:12] = True
    some = false_positive_rate(LossThreshold(), seen, outsiders(seen, x, is_counted=counts))
    alone = false_positive_rate(LossThreshold(), seen, outsiders(seen, x[:12]))
    assert some == alone and some is not None and some.high == pytest.approx(1 - 0.025 ** (1 / 12))


def test_too_few_non_members_set_no_threshold() -> None:
    seen = fleet(records=150)
    assert (~seen.membership).sum(axis=1).max() < 100
    assert false_positive_rate(LossThreshold(), seen, outsiders(seen, np.zeros((20, 1)))) is None


def scorable() -> list[str]:
    """Attacks of the whole suite that can score outsiders of such a fleet."""
    attacks = {name: instantiate(node) for name, node in all_attacks().items()}
    return [name for name, attack in attacks.items() if _no_score(attack, fleet(), NEAR_DUPLICATES) is None]


@pytest.mark.parametrize("name", scorable())
def test_outsiders_change_no_score_of_the_fleet_s_own_records(name: str) -> None:
    """Neither RMIA's tuning nor a pooled variance, however far outside the outsiders are."""
    attack, seen = instantiate(all_attacks()[name]), fleet()
    far = outsiders(seen, 50 * np.random.default_rng(2).normal(size=(200, 1)))
    own, foreign = scores(attack, seen, far)
    np.testing.assert_allclose(own, attack.score(seen), rtol=0, atol=1e-12)
    assert foreign.shape == (FLEET_MODELS, 200) and not np.isnan(foreign).all()


def test_the_shadow_attacks_that_tune_and_pool_are_among_these() -> None:
    assert {"rmia_offline", "lira_offline", "reference", "loss"} <= set(scorable())


@pytest.mark.parametrize("attack", [RMIA(online=False), Reference()])
def test_an_outsider_s_score_hardly_depends_on_the_others(attack: Attack) -> None:
    seen = fleet()
    x = np.random.default_rng(3).normal(size=(200, 1))
    alone, crowd = outsiders(seen, x[:1]), outsiders(seen, np.concatenate([x[:1], 50 * x[1:]]))
    np.testing.assert_allclose(scores(attack, seen, alone)[1], scores(attack, seen, crowd)[1][:, :1], atol=0.02)
