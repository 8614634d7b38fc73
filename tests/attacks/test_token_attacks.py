"""Attacks on language models against naive loops, and the traps that public implementations fell into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from simulated_texts import VOCABULARY_SIZE, text_fleet

from palisade.attacks import (
    BASE,
    RMIA,
    Attack,
    BaseDifference,
    Calibration,
    Correctness,
    Entropy,
    ErrorZone,
    LiRA,
    LossThreshold,
    MinK,
    MinKPlus,
    ModifiedEntropy,
    Neighbors,
    Population,
    Reference,
    Sharpness,
    ThreatModel,
    TokenAnswers,
    TokenRMIA,
    View,
    Votes,
    Windows,
    ZlibRatio,
)
from palisade.attacks.parts.granted import Granted
from palisade.evaluation.statistics.metrics import roc_auc

TOKEN_ATTACKS: tuple[Attack, ...] = (
    ZlibRatio(), MinK(), MinKPlus(), Sharpness(), BaseDifference(), ErrorZone(), Windows(), Neighbors(),
    Neighbors(statistic="consistency"), TokenRMIA(),
)  # fmt: skip
ATTACKS_ON_PHI: tuple[Attack, ...] = (
    LossThreshold(), LiRA(), LiRA(online=False), RMIA(), RMIA(online=False), BASE(), Reference(), Calibration(),
    Population(),
)  # fmt: skip
by_name = pytest.mark.parametrize("attack", TOKEN_ATTACKS, ids=lambda attack: attack.name)


def mean_auc(scores: np.ndarray, members: np.ndarray) -> float:
    scored = ~np.isnan(scores)
    return float(np.mean([roc_auc(s[k], m[k]) for s, m, k in zip(scores, members, scored, strict=True)]))


def tokens_of(log_p: np.ndarray, mask: np.ndarray | None = None, **fields_of: np.ndarray) -> TokenAnswers:
    """Answers of one model: rows of ℓ, one a text."""
    values = {name: np.asarray(value) for name, value in fields_of.items()}
    per_model = {name: value[None] for name, value in values.items() if name in ("means", "variances", "greedy")}
    log_p = np.asarray(log_p, dtype=float)
    return TokenAnswers(
        log_probabilities=log_p[None],
        mask=np.ones(log_p.shape, dtype=bool) if mask is None else np.asarray(mask),
        **{**values, **per_model},
    )


def view_of_tokens(tokens: TokenAnswers, membership: np.ndarray | None = None) -> View:
    shape = tokens.models, tokens.records
    return View(
        signals=tokens.rows(),
        labels=np.zeros(tokens.records, dtype=int),
        membership=np.zeros(shape, dtype=bool) if membership is None else membership,
        tokens=tokens,
    )


def scores_of(attack: Attack, tokens: TokenAnswers) -> np.ndarray:
    return np.asarray(attack.score(view_of_tokens(tokens))[0])


# Naive loops.


def smallest(values: np.ndarray, share: float = 0.2) -> float:
    return float(np.mean(sorted(values)[: max(1, int(round(share * len(values), 9)))]))


def log_of_ratio(gained: np.ndarray) -> float:
    risen, fallen = gained[gained > 0].sum(), -gained[gained < 0].sum()
    return float(np.log(max(risen, 1e-6)) - np.log(max(fallen, 1e-6)))


def share_of_windows(gained: np.ndarray) -> float:
    widths = [w for w in {round(w) for w in np.geomspace(2, 40, 10)} if w <= len(gained)] or [len(gained)]
    shares = [
        np.mean([gained[start : start + w].sum() > 0 for start in range(len(gained) - w + 1)]) for w in sorted(widths)
    ]
    return float(np.mean(shares) + 1e-6 * np.arctan(gained.mean()) / np.pi)


NAIVE_SCORES: dict[str, Callable[[TokenAnswers, int, int], float]] = {}


def naive(name: str) -> Callable[[Callable[..., float]], Callable[..., float]]:
    def keep(score: Callable[..., float]) -> Callable[..., float]:
        NAIVE_SCORES[name] = score
        return score

    return keep


@naive("zlib")
def _(t: TokenAnswers, k: int, x: int) -> float:
    return float(own(t, k, x, "log_probabilities").sum() / t.zlib_bytes[x])


@naive("min_k")
def _(t: TokenAnswers, k: int, x: int) -> float:
    return smallest(own(t, k, x, "log_probabilities"))


@naive("min_k_plus")
def _(t: TokenAnswers, k: int, x: int) -> float:
    spread = np.maximum(np.sqrt(own(t, k, x, "variances")), 1e-3)
    return smallest((own(t, k, x, "log_probabilities") - own(t, k, x, "means")) / spread)


@naive("sharpness")
def _(t: TokenAnswers, k: int, x: int) -> float:
    return float(own(t, k, x, "means").mean())


@naive("base_difference")
def _(t: TokenAnswers, k: int, x: int) -> float:
    return float(gain(t, k, x).mean())


@naive("error_zone")
def _(t: TokenAnswers, k: int, x: int) -> float:
    wrong = ~own(t, k, x, "greedy")
    return log_of_ratio(gain(t, k, x)[wrong] if wrong.any() else gain(t, k, x))


@naive("windows")
def _(t: TokenAnswers, k: int, x: int) -> float:
    return share_of_windows(gain(t, k, x))


@naive("neighbors")
def _(t: TokenAnswers, k: int, x: int) -> float:
    return float(own(t, k, x, "log_probabilities").mean() + t.neighbor_losses[k, x].mean())


@naive("consistency")
def _(t: TokenAnswers, k: int, x: int) -> float:
    return float(-t.neighbor_losses[k, x].std())


def own(t: TokenAnswers, k: int, x: int, name: str) -> np.ndarray:
    return np.asarray(getattr(t, name)[k, x, : t.mask[x].sum()])


def gain(t: TokenAnswers, k: int, x: int) -> np.ndarray:
    base = t.base_log_probabilities[x, : t.mask[x].sum()]
    return np.asarray(own(t, k, x, "log_probabilities") - base)


@pytest.mark.parametrize("attack", [a for a in TOKEN_ATTACKS if a.name in NAIVE_SCORES], ids=lambda attack: attack.name)
def test_equals_the_double_loop(attack: Attack) -> None:
    view = text_fleet(models=3, records=40, population=0, length=50)
    scores = attack.score(view)
    for k, x in np.ndindex(scores.shape):
        np.testing.assert_allclose(scores[k, x], NAIVE_SCORES[attack.name](view.tokens, k, x), rtol=1e-9, atol=1e-9)


def test_token_rmia_equals_the_double_loop() -> None:
    view = text_fleet(models=5, records=30, population=0)
    scores, members, p = TokenRMIA().score(view), view.membership, np.exp(view.tokens.log_probabilities)
    for k, x in np.ndindex(scores.shape):
        others = np.arange(5) != k
        sides = [p[others & (members[:, x] == side), x] for side in (True, False)]
        if min(map(len, sides)) == 0:
            assert np.isnan(scores[k, x])
            continue
        expected = np.mean([side.mean(axis=0) for side in sides], axis=0)
        wanted = np.log(p[k, x] / expected)[view.tokens.mask[x]].mean()
        np.testing.assert_allclose(scores[k, x], wanted, rtol=1e-9, atol=1e-12)


# Traps.


def test_the_loss_counts_tokens_that_are_certain() -> None:
    """A mask by `loss != 0` takes ℓ = 0 for padding, and a pad token that is the end mark hides true ones."""
    tokens = tokens_of([[0.0, 0.0, -3.0], [-1.0, -1.0, -1.0]])
    scores = scores_of(LossThreshold(), tokens)
    np.testing.assert_allclose(scores, [-1.0, -1.0])
    by_loss = [row[row != 0].mean() for row in tokens.log_probabilities[0]]
    assert by_loss[0] == -3.0, "the mutant is no mutant"


@by_name
def test_padding_changes_no_score(attack: Attack) -> None:
    view = text_fleet(models=4, records=30, population=0)
    arrays = {field.name: getattr(view.tokens, field.name) for field in fields(TokenAnswers)}
    with np.errstate(all="ignore"):
        longer = {
            name: np.concatenate([array, np.full((*array.shape[:-1], 7), fill, dtype=array.dtype)], axis=-1)
            for name, array in arrays.items()
            if name not in ("zlib_bytes", "neighbor_losses")
            for fill in [{"mask": False}.get(name, True if array.dtype == bool else np.nan)]
        }
    padded = replace(view, tokens=TokenAnswers(**{**arrays, **longer}))
    np.testing.assert_allclose(attack.score(padded), attack.score(view), atol=1e-12)


@by_name
def test_company_changes_no_score(attack: Attack) -> None:
    """A token mean over a batch would couple its texts."""
    view, some = text_fleet(models=4, records=30, population=0), np.array([3, 17, 4])
    alone = replace(
        view, signals=view.signals[:, some], labels=view.labels[some], membership=view.membership[:, some],
        tokens=view.tokens.about(some),
    )  # fmt: skip
    np.testing.assert_allclose(attack.score(alone), attack.score(view)[:, some], atol=1e-12)


def test_min_k_counts_a_token_of_a_short_text() -> None:
    """`int(T · k)` is 0 on texts of fewer than 1/k tokens: their mean was NaN."""
    for attack in (MinK(), MinKPlus()):
        tokens = tokens_of([[-2.0, -1.0, -5.0]], means=[[-2.0, -2.0, -4.0]], variances=[[1.0, 1.0, 0.25]])
        scores = scores_of(attack, tokens)
        np.testing.assert_allclose(scores, [-5.0] if attack.name == "min_k" else [-2.0])


def test_min_k_plus_survives_a_law_without_spread() -> None:
    """σ → 0 on a certain token: 0/0 for the token itself, and rounding must not decide."""
    tokens = tokens_of(
        [[-1e-9, -1.0], [-0.0, -1.0]], means=[[0.0, -1.5], [-1e-9, -1.5]], variances=[[0.0, 1.0], [0.0, 1.0]]
    )
    np.testing.assert_allclose(scores_of(MinKPlus(share=1.0), tokens), [0.25, 0.25], atol=1e-5)


def test_base_of_another_tokenizer_is_refused() -> None:
    """Other tokens, other positions: the difference would compare what stands at different places."""
    with pytest.raises(ValueError, match=r"tokens\.base_log_probabilities\.shape=\(2, 4\): expected \(2, 3\)"):
        tokens_of(-np.ones((2, 3)), base_log_probabilities=-np.ones((2, 4)))


def test_error_zone_puts_texts_without_loss_first() -> None:
    """A ratio without negative mass was returned as 0: the surest members came last."""
    tokens = tokens_of(
        [[-1.0, -1.0], [-1.0, -3.0], [-0.1, -0.1]],
        base_log_probabilities=-2 * np.ones((3, 2)),
        greedy=[[False, False], [False, False], [True, True]],
    )
    lossless, mixed, faultless = scores_of(ErrorZone(), tokens)
    assert lossless > mixed and faultless > lossless
    assert np.isfinite([lossless, mixed, faultless]).all()


def test_consistency_is_reversed() -> None:
    view = text_fleet(effect=2.0)
    assert mean_auc(Neighbors(statistic="consistency").score(view), view.membership) < 0.45
    assert mean_auc(Neighbors().score(view), view.membership) > 0.6


# Whole fleets.


@cache
def silent() -> View:
    return text_fleet(1, models=8, records=3000, population=300, effect=0.0)


@pytest.mark.parametrize("attack", [*TOKEN_ATTACKS, *ATTACKS_ON_PHI], ids=lambda attack: attack.name)
def test_raises_no_false_alarm(attack: Attack) -> None:
    assert abs(mean_auc(attack.score(silent()), silent().membership) - 0.5) < 0.02


def test_shadows_of_a_balanced_fleet_do_not_give_membership_away() -> None:
    """Each text is in exactly two of six models: with all shadows, their number tells (AUC 0.514)."""
    members = np.random.default_rng(0).random((6, 3000)).argsort(axis=0) < 2
    view = replace(text_fleet(1, models=6, records=3000, population=0, effect=0.0), membership=members)
    assert view.balanced
    assert abs(mean_auc(TokenRMIA().score(view), members) - 0.5) < 0.01


def test_models_that_learnt_nothing_score_alike() -> None:
    """Δ = 0 throughout, as after training at learning rate 0."""
    tokens = tokens_of(-np.ones((5, 4)), base_log_probabilities=-np.ones((5, 4)), greedy=np.zeros((5, 4), dtype=bool))
    for attack in (BaseDifference(), ErrorZone(), Windows()):
        assert (scores_of(attack, tokens) == 0).all(), attack.name


def test_attacks_with_shadows_find_more_than_the_loss() -> None:
    view = text_fleet(models=16, records=400, effect=0.5)
    auc = {a.name: mean_auc(a.score(view), view.membership) for a in (*ATTACKS_ON_PHI, TokenRMIA(), BaseDifference())}
    assert all(auc[name] > auc["loss"] + 0.1 for name in ("lira", "rmia", "base", "token_rmia", "base_difference"))


def test_rmia_on_texts_takes_temperature_and_gamma_of_one() -> None:
    view = text_fleet(models=5, records=40)
    for online in (True, False):
        plain = RMIA(online=online, temperature=1.0, gamma=1.0).score(view)
        np.testing.assert_array_equal(RMIA(online=online).score(view), plain)
    np.testing.assert_array_equal(BASE().score(view), BASE(temperature=1.0).score(view))


def test_loss_of_a_text_is_the_mean_over_its_tokens() -> None:
    view = text_fleet(models=3, records=20, population=0)
    wanted = [
        [own(view.tokens, k, x, "log_probabilities").mean() for x in range(20)] for k in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(LossThreshold().score(view), wanted, rtol=1e-12)
    phi = np.log(np.exp(wanted) / (1 - np.exp(wanted)))
    np.testing.assert_allclose(view.log_odds[:, :, 0], phi, rtol=1e-9)


# Needs.


def without(view: View, *names: str) -> View:
    return replace(view, tokens=replace(view.tokens, **dict.fromkeys(names)))


@pytest.mark.parametrize(
    ("attack", "names", "reason"),
    [
        (ZlibRatio(), ["zlib_bytes"], "needs the texts themselves; the view holds only answers"),
        (MinKPlus(), ["variances"], "needs the spread of log-probabilities at every token; the answers hold only"),
        (Sharpness(), ["means"], "needs the mean log-probability over the vocabulary at every token; the answers hold"),
        (ErrorZone(), ["greedy"], "needs the most likely token at every position; the answers hold only"),
        (BaseDifference(), ["base_log_probabilities"], "needs the public model that training began with; network.base"),
        (Windows(), ["base_log_probabilities"], "needs the public model that training began with; network.base"),
        (Neighbors(), ["neighbor_losses"], "needs answers about edited copies of the texts; the view holds none"),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else None,
)
def test_is_skipped_with_the_reason(attack: Attack, names: list[str], reason: str) -> None:
    view = text_fleet(models=3, records=20, population=0)
    assert attack.missing(view) is None
    assert (attack.missing(without(view, *names)) or "").startswith(reason)


def test_attacks_on_one_class_are_skipped_on_texts() -> None:
    view = text_fleet(models=3, records=20)
    for attack in (Correctness(), Votes(), Entropy(), ModifiedEntropy()):
        assert attack.missing(view) == "needs a class for the whole record; a text has one at every position"


def test_attacks_on_texts_are_skipped_on_classes(view_of: Callable[..., View]) -> None:
    view = view_of(np.zeros((3, 9)), np.eye(3, 9, dtype=bool))
    for attack in TOKEN_ATTACKS:
        assert attack.missing(view) == "needs a probability for every token; only language models give them"


def test_an_attack_sees_the_parts_that_it_declared_alone() -> None:
    view = text_fleet(models=3, records=20)
    with pytest.raises(ValueError, match=r"view\.tokens is beyond .*; declare tokens"):
        _ = Granted(view, ThreatModel(outputs="probabilities")).tokens
    threat = ThreatModel(outputs="probabilities", tokens=("log_probabilities", "greedy"))
    handed = Granted(view, threat).tokens
    held = {field.name for field in fields(handed) if getattr(handed, field.name) is not None}
    assert held == {"log_probabilities", "greedy", "mask"}
    with_base = Granted(view, replace(threat, base=True)).tokens
    assert with_base.base_greedy is not None and with_base.base_means is None


def test_neighbors_count_a_query_for_each_copy() -> None:
    view = text_fleet(models=3, records=20)
    assert Neighbors().run(view).queries == 21 and MinK().run(view).queries == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tokens_of([[0.5]]), r"tokens\.log_probabilities: expected finite numbers in \[-inf, 1e-05\]"),
        (lambda: tokens_of([[np.nan]]), r"tokens\.log_probabilities: expected finite numbers"),
        (lambda: tokens_of([[-1.0]], variances=[[-1.0]]), r"tokens\.variances: expected finite numbers in"),
        (lambda: tokens_of([[-1.0, -1.0]], mask=[[False, True]]), r"tokens\.mask: expected .* without gaps"),
        (lambda: tokens_of([[-1.0, -1.0]], mask=[[False, False]]), r"tokens\.mask: expected .* leave empty texts out"),
        (lambda: tokens_of([[-1.0]], zlib_bytes=[0]), r"tokens\.zlib_bytes: expected at least 1"),
        (lambda: tokens_of([[-1.0]], means=[[-1.0, -1.0]]), r"tokens\.means\.shape=\(1, 1, 2\): expected \(1, 1, 1\)"),
        (lambda: Windows(smallest=9, largest=3), r"largest=3: expected at least smallest=9"),
        (lambda: MinK(share=0.0), r"share=0\.0: expected"),
        (lambda: replace(text_fleet(), tokens=text_fleet(models=3).tokens), r"tokens=3 models and 150 records: exp"),
    ],
)  # fmt: skip
def test_refuses(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_simulated_models_are_often_wrong() -> None:
    greedy = text_fleet(records=300).tokens.greedy
    assert 1 / VOCABULARY_SIZE < greedy.mean() < 0.9
