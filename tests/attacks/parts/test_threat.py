from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from palisade.attacks import Attack, Correctness, LiRA, LossThreshold, ThreatModel, View
from palisade.attacks.parts.granted import Granted

FIXED_RNG = np.random.default_rng(0)
FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT = 4, 30, 3
RECORD_LABELS = FIXED_RNG.integers(CLASS_COUNT, size=FLEET_RECORDS)
FLEET_MEMBERSHIP = FIXED_RNG.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
FLEET_LOGITS = FIXED_RNG.standard_normal((FLEET_MODELS, FLEET_RECORDS, CLASS_COUNT)).astype(np.float32)


def view(**changes: Any) -> View:
    return View(**{"labels": RECORD_LABELS, "membership": FLEET_MEMBERSHIP, "logits": FLEET_LOGITS} | changes)


def hard(**changes: Any) -> View:
    return view(**{"logits": None, "predictions": FLEET_LOGITS.argmax(-1)} | changes)


def soft(**changes: Any) -> View:
    return view(**{"logits": None, "probabilities": softmax(FLEET_LOGITS, axis=-1)} | changes)


FIXED_MEMBERSHIP = np.tile(FLEET_MEMBERSHIP[0], (FLEET_MODELS, 1))


@pytest.mark.parametrize(
    ("threat", "granted", "reason"),
    [
        (ThreatModel(outputs="logits", shadows="online"), view(), None),
        (ThreatModel(outputs="probabilities"), view(), None),
        (ThreatModel(outputs="probabilities"), hard(), "needs logits or probabilities; only labels are released"),
        (ThreatModel(outputs="top-k"), hard(), "needs logits or probabilities or top-k; only labels are released"),
        (ThreatModel(outputs="top-k"), soft(top_k=2), None),
        (ThreatModel(outputs="probabilities"), soft(top_k=2), "needs logits or probabilities; only top-k are released"),
        (ThreatModel(outputs="logits"), soft(), "needs logits; only probabilities are released"),
        (ThreatModel(gradients=True), view(), "needs the weights; threat=white_box grants them"),
        (ThreatModel(gradients=True), view(gradient_norms=np.ones((FLEET_MODELS, FLEET_RECORDS, 2))), None),
        (
            ThreatModel(checkpoints=True),
            view(),
            "needs checkpoints; train with fleet.keep_checkpoints=9 and grant them with threat=white_box",
        ),
        (ThreatModel(features=True), view(), "needs the records themselves; the view holds only answers"),
        (
            ThreatModel(free_queries=True, queries=500),
            view(),
            "needs to query the models with inputs of its choice; the view holds only answers",
        ),
        (ThreatModel(free_queries=True, queries=500), view(query=lambda model, x: x), None),
        (ThreatModel(queries=None), view(), None),
        (
            ThreatModel(population=True),
            view(),
            "needs population records; the split has none, set split.population=0.1",
        ),
        (ThreatModel(population=True), view(population_logits=FLEET_LOGITS, population_labels=RECORD_LABELS), None),
        (ThreatModel(queries=8), view(), "needs queries=8 a record; the view holds 1"),
        (
            ThreatModel(shadows="offline"),
            view(membership=FIXED_MEMBERSHIP),
            "needs models that did not train on a record; the split is fixed",
        ),
        (
            ThreatModel(shadows="online"),
            view(membership=FIXED_MEMBERSHIP),
            "needs models that did and models that did not train on a record; the split is fixed",
        ),
        (
            ThreatModel(shadows="offline"),
            view(membership=FLEET_MEMBERSHIP[:1], logits=FLEET_LOGITS[:1]),
            "needs models that did not train on a record; models=1 are too few, train more",
        ),
        (
            ThreatModel(shadows="online"),
            view(groups=np.zeros(FLEET_MODELS, int)),
            "needs models that did and models that did not train on a record; "
            "models=4 in groups=1 are too few, train more",
        ),
    ],
)
def test_what_a_threat_model_misses(threat: ThreatModel, granted: View, reason: str | None) -> None:
    assert threat.missing(granted) == reason


def test_access_follows_from_the_threat() -> None:
    assert Correctness().threat.access == "label_only"
    assert LossThreshold().threat.access == "black_box"
    assert ThreatModel(gradients=True).access == "white_box"
    assert ThreatModel(checkpoints=True).access == "white_box"


def test_a_threat_model_says_what_it_needs() -> None:
    assert Correctness().threat.describe() == "predicted label, true label"
    assert LiRA().threat.describe() == "top-k, true label, shadows (IN and OUT)"
    assert LiRA().threat.knows_defense and not LossThreshold().threat.knows_defense
    white = ThreatModel(gradients=True, checkpoints=True, label=False, known_members=True)
    assert white.describe() == "weights, checkpoints, known members"
    greedy = ThreatModel(shadows="offline", population=True, features=True, free_queries=True, queries=9)
    wanted = "predicted label, true label, shadows (OUT), population, records, queries of its choice (to shadows too)"
    assert greedy.describe() == wanted


class Reads(Attack):
    """Reads one part of a view under a threat model of one's choice."""

    name = "reads"
    threat = ThreatModel()

    def __init__(self, read: Callable[[View], Any], threat: ThreatModel):
        self.read, self.threat = read, threat

    def _score(self, view: View) -> np.ndarray:
        self.read(view)
        return np.zeros((view.models, view.records))


WHOLE_VIEW = view(
    population_logits=FLEET_LOGITS,
    population_labels=RECORD_LABELS,
    features=np.ones((FLEET_RECORDS, 2)),
    population_features=np.ones((FLEET_RECORDS, 2)),
    query=lambda model, x: x,
    gradient_norms=np.ones((FLEET_MODELS, FLEET_RECORDS, 2)),
    activation_norms=np.ones((FLEET_MODELS, FLEET_RECORDS, 2)),
    alignment=np.ones((FLEET_MODELS, FLEET_RECORDS)),
    trajectory=np.ones((FLEET_MODELS, FLEET_RECORDS, 3)),
)


@pytest.mark.parametrize(
    ("read", "needed", "declared"),
    [
        (lambda v: v.logits, "outputs=logits", ThreatModel(outputs="logits")),
        (lambda v: v.log_odds, "outputs", ThreatModel(outputs="top-k")),
        (lambda v: v.loss, "outputs", ThreatModel(outputs="top-k")),
        (lambda v: v.entropy, "outputs", ThreatModel(outputs="top-k", label=False)),
        (lambda v: v.log_confidence(2.0), "outputs", ThreatModel(outputs="top-k", temperature=2.0)),
        (lambda v: v.probabilities_of(0), "outputs", ThreatModel(outputs="top-k", whole_answers=True)),
        (lambda v: v.membership, "shadows or known_members", ThreatModel(shadows="offline")),
        (lambda v: v.others, "shadows or known_members", ThreatModel(known_members=True)),
        (lambda v: v.population, "population", ThreatModel(population=True)),
        (lambda v: v.population_features, "population", ThreatModel(population=True, features=True)),
        (lambda v: v.features, "features", ThreatModel(features=True)),
        (lambda v: v.predict(0, v.labels), "free_queries", ThreatModel(free_queries=True)),
        (lambda v: v.query(0, v.labels), "free_queries", ThreatModel(free_queries=True)),
        (lambda v: v.gradient_norms, "gradients", ThreatModel(gradients=True)),
        (lambda v: v.activation_norms, "gradients", ThreatModel(gradients=True)),
        (lambda v: v.alignment, "gradients", ThreatModel(gradients=True, checkpoints=True)),
        (lambda v: v.trajectory, "checkpoints", ThreatModel(checkpoints=True)),
    ],
)
def test_what_was_not_declared_cannot_be_read(read: Callable[[View], Any], needed: str, declared: ThreatModel) -> None:
    with pytest.raises(ValueError, match=rf"view.\w+ is beyond the attack's threat model; declare {needed} or do"):
        Reads(read, ThreatModel()).score(WHOLE_VIEW)
    assert Reads(read, declared).score(WHOLE_VIEW).shape == (FLEET_MODELS, FLEET_RECORDS)


def test_nothing_leads_around_a_declaration() -> None:
    several = view(logits=np.repeat(FLEET_LOGITS[:, :, None], 5, axis=2), query=lambda model, x: FLEET_LOGITS[model])
    with pytest.raises(ValueError, match=r"view\._released is private to the view; use its signals"):
        Reads(lambda v: v._released, ThreatModel()).score(several)
    labels_alone = ThreatModel(population=True, free_queries=True)
    for read in (lambda v: v.population.logits, lambda v: v.population_logits, lambda v: v.population.log_odds):
        with pytest.raises(ValueError, match="beyond the attack's threat model; declare outputs"):
            Reads(read, labels_alone).score(WHOLE_VIEW)
    assert Reads(lambda v: v.population.labels, replace(labels_alone, label=False)).score(WHOLE_VIEW).any() == 0
    answered: list[tuple[int, ...]] = []
    Reads(lambda v: answered.append(v.query(0, RECORD_LABELS).shape), ThreatModel(free_queries=True)).score(several)
    Reads(lambda v: answered.append(v.log_confidence().shape), ThreatModel(outputs="top-k", temperature=1.0)).score(
        several
    )
    Reads(lambda v: answered.append(v.logits.shape), ThreatModel(outputs="logits")).score(several)
    assert answered == [
        (FLEET_RECORDS,),
        (FLEET_MODELS, FLEET_RECORDS, 1),
        (FLEET_MODELS, FLEET_RECORDS, 1, CLASS_COUNT),
    ]
    with pytest.raises(ValueError, match="query=3"):
        Reads(lambda v: v.probabilities_of(0, 3), ThreatModel(outputs="top-k", whole_answers=True)).score(several)


def test_whole_answers_and_temperatures_are_declared() -> None:
    for read in (lambda v: v.probabilities_of(0), lambda v: v.probabilities, lambda v: v.population_probabilities):
        with pytest.raises(ValueError, match="beyond the attack's threat model; declare whole_answers"):
            Reads(read, ThreatModel(outputs="top-k", population=True)).score(WHOLE_VIEW)
    with pytest.raises(ValueError, match="beyond the attack's threat model; declare temperature"):
        Reads(lambda v: v.log_confidence(), ThreatModel(outputs="top-k")).score(WHOLE_VIEW)
    warm = ThreatModel(outputs="top-k", population=True, temperature=2.0)
    for read in (lambda v: v.log_confidence(), lambda v: v.population.log_confidence(4.0)):
        with pytest.raises(ValueError, match=r"temperature=\d.0: expected the declared temperature=2.0; declare it"):
            Reads(read, warm).score(WHOLE_VIEW)
    assert Reads(lambda v: v.population.log_confidence(2), warm).score(WHOLE_VIEW).any() == 0


def test_the_true_label_is_not_read_without_being_declared() -> None:
    blind = ThreatModel(outputs="top-k", label=False)
    for name in ("labels", "correct", "log_odds", "modified_entropy"):
        with pytest.raises(ValueError, match=f"view.{name} is beyond the attack's threat model; declare label"):
            Reads(lambda v, name=name: getattr(v, name), blind).score(view())


def test_queries_are_counted_and_no_more_are_handed_out_than_declared() -> None:
    several = view(logits=np.repeat(FLEET_LOGITS[:, :, None], 5, axis=2))
    seen: list[tuple[int, ...]] = []
    one = Reads(lambda v: seen.append(v.log_odds.shape), ThreatModel(outputs="top-k"))
    assert one.run(several).queries == 1 and seen == [(FLEET_MODELS, FLEET_RECORDS, 1)]
    every = Reads(lambda v: seen.append(v.correct.shape), ThreatModel(queries=None))
    assert every.run(several).queries == 5 and seen[-1] == (FLEET_MODELS, FLEET_RECORDS, 5)

    def ask(v: View) -> None:
        for model in range(FLEET_MODELS):
            v.predict(model, np.ones((3 * FLEET_RECORDS, 2)))
            assert v.query is not None and len(v.query(model, np.ones((FLEET_RECORDS, 2)))) == FLEET_RECORDS

    asking = ThreatModel(free_queries=True, queries=4)
    assert Reads(ask, asking).run(view(query=lambda model, x: x)).queries == 4


class Broken(Attack):
    name = "broken"
    threat = ThreatModel()

    def _score(self, view: View) -> np.ndarray:
        return np.zeros(view.records)


def test_an_attack_is_held_to_its_contract() -> None:
    with pytest.raises(ValueError, match=r"attack=broken: expected scores of shape \(4, 30\), not \(30,\)"):
        Broken().score(view())
    with pytest.raises(
        ValueError, match=r"attack=loss: expected .* needs logits or probabilities or top-k; only labels are"
    ):
        LossThreshold().score(hard())


def test_who_looks_at_labels_alone_asks_for_nothing_else() -> None:
    def refused(model: int, x: np.ndarray) -> np.ndarray:
        raise AssertionError("whole answers may take a guard long")

    whole_view = view(query=refused, query_label=lambda model, x: np.full(len(x), model))
    seen = Granted(whole_view, ThreatModel(free_queries=True))
    np.testing.assert_array_equal(seen.predict(2, np.zeros((5, 3))), np.full(5, 2))
    assert seen.meter.asked == 5, "still counted"
    with pytest.raises(AssertionError, match="take a guard long"):
        Granted(whole_view, ThreatModel(outputs="logits", free_queries=True)).query(0, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"view\.query_label is beyond .*; declare free_queries"):
        _ = Granted(whole_view, ThreatModel()).query_label
