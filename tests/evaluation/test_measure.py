"""Measurements of a run: with every kind of membership, and never more than can be known."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from palisade.attacks import Correctness, LiRA, LossThreshold, View
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.epsilon_audit import guess
from palisade.evaluation.flags import flags
from palisade.evaluation.measuring.baselines import DUPLICATE_SHARE, linear
from palisade.evaluation.measuring.leakage import accuracy_at_shadow_threshold, leakage, mean_roc, tied_share
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import BLACK_BOX, AttackProtocol
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.roc import Roc
from palisade.targets.run import Run
from palisade.train import train_run

SMALL_RUN = ["data=digits", "trainer.epochs=2", "fleet.workers=1", "secret=measured"]
ATTACK_NODES = {
    "loss": {"_target_": "palisade.attacks.LossThreshold"},
    "lira": {"_target_": "palisade.attacks.LiRA", "online": True},
    "lira_offline": {"_target_": "palisade.attacks.LiRA", "online": False},
}
THREE_ATTACKS = AttackProtocol(attacks=ATTACK_NODES)
CORRECTNESS_AUDIT = {"audit": {"_target_": "palisade.attacks.Correctness"}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def compose(compose, shared):
    """Run of these words, trained and measured once, unless a test names a folder of its own."""
    return lambda *overrides, runs=None: compose(
        *overrides, runs=runs or shared / sha256(repr(overrides).encode()).hexdigest()
    )


def trained(compose, *overrides) -> Run:
    return Run(Path(train_run(compose(*SMALL_RUN, *overrides))["folder"]))


def test_twin_of_a_target_is_no_shadow(compose):
    run = trained(compose, "membership.how=complementary", "fleet.models=6")
    seen = view(run)
    assert (seen.membership[0::2] ^ seen.membership[1::2]).all()
    assert not seen.others[0, 1] and not seen.others[3, 2] and seen.others[0, 2:].all()
    (result,) = results_of([run], THREE_ATTACKS)
    assert result.attacks == ["loss", "lira", "lira_offline"] and not result.bounded


def test_fixed_split_skips_what_needs_shadows_and_says_why(compose):
    run = trained(compose, "membership.how=fixed", "fleet.models=3")
    (result,) = results_of([run], THREE_ATTACKS)
    assert result.attacks == ["loss"] and not result.bounded
    assert set(result.skipped) == {"lira", "lira_offline"}
    assert all("the split is fixed" in reason for reason in result.skipped.values())


def test_attack_without_scores_is_skipped_with_the_reason(compose):
    run = trained(compose, "fleet.models=4")
    (result,) = results_of(
        [run], AttackProtocol(attacks={**ATTACK_NODES, "lira": {**ATTACK_NODES["lira"], "variance": "per_record"}})
    )
    assert result.skipped == {"lira": "gives some model no score for both a member and a non-member; train more models"}
    assert result.bounded


def test_single_model_gets_the_band_and_no_shadows(compose):
    run = trained(compose, "fleet.models=1")
    (result,) = results_of([run], THREE_ATTACKS)
    assert result.attacks == ["loss"] and set(result.skipped) == {"lira", "lira_offline"}
    row = result.get("tpr@1%fpr", attack="loss")
    assert row.low < row.value < row.high and row.high - row.low > 0.01


def test_unresolvable_rate_has_no_value(compose):
    run = trained(compose, "fleet.models=4")
    (result,) = results_of([run], THREE_ATTACKS)
    assert result.get("tpr@0.1%fpr", attack="loss").value is None
    assert result.get("unscored", attack="loss").value == 0
    assert 0 < result.get("unscored", attack="lira").value < 0.9  # few shadows: some records lack a side


def test_stored_results_are_those_of_the_same_models_and_attacks(compose, tmp_path):
    compose = partial(compose, runs=tmp_path / "runs")
    run = trained(compose, "fleet.models=3")
    (first,) = results_of([run], THREE_ATTACKS)
    when = (run.folder / "metrics.json").stat().st_mtime_ns
    assert results_of([run], THREE_ATTACKS)[0].rows == first.rows
    assert (run.folder / "metrics.json").stat().st_mtime_ns == when
    other = {**ATTACK_NODES, "lira": {**ATTACK_NODES["lira"], "variance": "fixed"}}
    assert results_of([run], AttackProtocol(attacks=other))[0].get("auc", attack="lira") != first.get(
        "auc", attack="lira"
    )
    extended = trained(compose, "fleet.models=4")
    assert extended.folder == run.folder
    assert results_of([extended], THREE_ATTACKS)[0].models == 4
    assert answers(extended, "pool").shape[0] == 4


def test_what_the_data_alone_say_is_measured_once(compose):
    run = trained(compose, "fleet.models=2")
    (result,) = results_of([run], THREE_ATTACKS)
    of_data = {row.metric: row.value for row in result.rows if row.metric in (DUPLICATE_SHARE, linear("test_accuracy"))}
    assert of_data[DUPLICATE_SHARE] == 0 and of_data[linear("test_accuracy")] > 0.9
    assert (result.defense, result.canaries, result.guard_strength) == ("none", (), None)
    assert "below a linear model" in [flag.name for flag in flags(result, Comparison([result]))]


def test_signals_are_the_models_own_answers_on_the_pool(compose):
    run = trained(compose, "fleet.models=2")
    seen, labels = view(run), run.dataset.y[run.dataset.split.pool]
    assert seen.logits.shape == (2, len(run.dataset.split.pool), 10) and seen.logits.dtype == np.float32
    assert (np.asarray(seen.logits).argmax(-1) == labels).mean() > 0.3
    assert np.array_equal(seen.labels, labels)
    accuracy = results_of([run], THREE_ATTACKS)[0].get("test_accuracy")
    test = np.asarray(answers(run, "test")).argmax(-1) == run.dataset.y[run.dataset.split.test]
    assert accuracy.value == pytest.approx(test.mean()) and accuracy.low <= accuracy.value <= accuracy.high


def test_persons_share_a_fate_and_epsilon_does_not_bound_their_leakage(compose, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"who": np.repeat(np.arange(80), 3), "a": rng.normal(size=240), "y": rng.choice(["n", "p"], 240)}
    )
    frame.to_csv(tmp_path / "people.csv", index=False)
    own = ["data=csv", f"data.path={tmp_path}/people.csv", "data.label=y", "data.person=who", "fleet.models=4"]
    private = ["defense=dp_sgd", "defense.trainer.batch_size=20", "defense.trainer.epochs=2"]
    run = trained(compose, *own, *private, "trainer.batch_size=20")
    membership, persons = run.membership(), run.dataset.split.persons
    for person in np.unique(persons):
        assert (membership[:, persons == person].all(axis=1) | ~membership[:, persons == person].any(axis=1)).all()
    (result,) = results_of([run], THREE_ATTACKS)
    assert not result.bounded
    assert any("persons with several records" in sentence for sentence in run.statement.not_covered)


def test_membership_comes_from_the_secret_and_not_from_the_seed(compose, tmp_path):
    one = trained(compose, "fleet.models=2").membership()
    elsewhere = compose(*SMALL_RUN[:3], "fleet.models=2", "secret=another", runs=tmp_path / "elsewhere")
    assert (one != Run(Path(train_run(elsewhere)["folder"])).membership()).mean() > 0.3


def test_epsilon_about_persons_bounds_their_leakage(compose, tmp_path):
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(80), rng.integers(1, 9, 80))
    columns = {"y": rng.integers(0, 2, len(who)), "a": rng.normal(size=len(who)), "who": who}
    pd.DataFrame(columns).to_csv(tmp_path / "people.csv", index=False)
    own = ["data=csv", f"data.path={tmp_path}/people.csv", "data.label=y", "data.person=who", "fleet.models=4"]
    private = [
        "defense=dp_sgd",
        "defense.records_per_person=3",
        "defense.trainer.epochs=2",
        "defense.trainer.batch_size=8",
    ]
    run = trained(compose, *own, *private)
    persons = len(np.unique(run.dataset.split.persons))
    statement = run.statement
    assert statement.unit == "person" and statement.neighboring == "add/remove one person"
    assert statement.records_per_unit == 3 and statement.public_size == round(persons / 2)
    assert statement.sampling_rate == 8 / statement.public_size
    assert not any("persons with several records" in sentence for sentence in statement.not_covered)
    (result,) = results_of([run], THREE_ATTACKS)
    assert result.bounded


def test_only_canaries_are_attacked_and_they_bound_epsilon(compose):
    run = trained(compose, "canary=label_noise", "canary.count=60", "fleet.models=4")
    seen, split = view(run), run.dataset.split
    assert seen.records == 60 and (seen.labels == run.dataset.y[split.canaries]).all()
    assert (run.membership()[:, ~split.is_audited]).all() and not run.membership()[:, split.is_audited].all()
    np.testing.assert_array_equal(seen.membership, run.membership()[:, split.is_audited])
    (result,) = results_of([run], THREE_ATTACKS)
    assert result.canary == "label_noise" and result.bounded
    assert result.get("auc", attack="loss").members + result.get("auc", attack="loss").nonmembers == 4 * 60
    assert 0 <= result.get("canaries_fitted").value < 0.5, "two epochs fit no wrong label"
    assert result.get("train_accuracy").value > 0.5, "of all that a model was trained on, not of the canaries alone"
    assert (result.audit["attack"], result.audit["canaries"], result.audit["guesses"]) == ("loss", 60, 12)
    assert result.audit["delta"] == pytest.approx((len(split.pool) - 60 + 30) ** -1.1)
    assert set(result.audit["bounds"]) == set(result.audit["ceilings"]) and result.audit["bounds"]["one_run"] < 1


@pytest.mark.parametrize("how", ["membership.how=fixed", "membership.how=complementary", "membership.share=0.4"])
def test_no_bound_on_epsilon_without_independent_coins(compose, how):
    (result,) = results_of([trained(compose, how, "fleet.models=2")], THREE_ATTACKS)
    assert result.audit == {}


def test_guesses_are_those_on_model_0_by_the_attack_fixed_beforehand(compose):
    run = trained(compose, "fleet.models=3")
    (result,) = results_of([run], THREE_ATTACKS)
    seen = view(run)
    counted = guess(LossThreshold().score(seen)[0], seen.membership[0], 0.1)
    assert result.audit["correct"] == pytest.approx(counted.correct, abs=3)
    (label_only,) = results_of(
        [run], AttackProtocol(attacks=ATTACK_NODES, threat={**BLACK_BOX, "outputs": "label", **CORRECTNESS_AUDIT})
    )
    assert label_only.audit["attack"] == "correctness" and label_only.audit != result.audit
    assert label_only.skipped.keys() == ATTACK_NODES.keys() and (label_only.threat, label_only.released) == (
        "label_only",
        "label",
    )


def test_needs_and_queries_of_attacks_are_stored(compose):
    (result,) = results_of([trained(compose, "fleet.models=3")], THREE_ATTACKS)
    needs = {key: value for key, value in result.needs["lira"].items() if key != "idea"}
    assert needs == {"text": "top-k, true label, shadows (IN and OUT)", "declared": None, "measured": 1}
    assert result.needs["lira"]["idea"] == LiRA().idea
    assert result.exposed and len(result.exposed["record"]) == len(view(trained(compose, "fleet.models=3")).labels)


def test_threshold_of_an_attacker_does_not_look_at_its_target():
    rng = np.random.default_rng(0)
    membership = rng.random((6, 300)) < 0.5
    view_of_noise = View(logits=rng.normal(size=(6, 300, 2)), labels=np.zeros(300, dtype=int), membership=membership)
    noise = rng.normal(size=(6, 300))
    honest = accuracy_at_shadow_threshold(noise, view_of_noise, Bootstrap(replicates=100))
    assert honest.low < 0.5 < honest.high
    hindsight = fleet_metrics(noise, membership, {"b": Roc.balanced_accuracy}, Bootstrap(replicates=100))
    assert hindsight.estimates["b"].low > 0.5, "the best threshold in hindsight finds leakage in noise"
    rows = {row.metric: row for row in leakage(Correctness(), noise, view_of_noise, Bootstrap(replicates=10))}
    for metric in ("balanced_accuracy", "advantage"):
        assert rows[metric].value > 0 and rows[metric].low is rows[metric].high is None, "so it has no interval"


def test_rows_without_scores_were_no_targets_and_means_leave_them_out():
    rng = np.random.default_rng(1)
    membership = rng.random((8, 400)) < 0.5
    seen = View(logits=rng.normal(size=(8, 400, 2)), labels=np.zeros(400, dtype=int), membership=membership)
    scores = rng.normal(size=(8, 400)) + membership
    scores[:, :40] = np.nan
    for targets, has_interval in ((5, True), (2, False)):
        sampled = np.where(np.arange(8)[:, None] < targets, scores, np.nan)
        rows = list(leakage(LossThreshold(), sampled, seen, Bootstrap(replicates=20)))
        whole = {row.metric: row for row in rows if row.model == "all"}
        alone = fleet_metrics(scores[:targets], membership[:targets], {"auc": Roc.auc}, Bootstrap(replicates=20))
        assert whole["auc"].value == pytest.approx(alone.estimates["auc"].value)
        assert whole["targets"].value == targets and whole["unscored"].value == pytest.approx(0.1)
        assert all((row.low is not None) == has_interval for row in (whole["auc"], whole["tpr@1%fpr"]))
        assert (whole["balanced_accuracy@shadow_threshold"].low is not None) == has_interval
        assert {row.model for row in rows} == {"all", *range(targets)}
        np.testing.assert_array_equal(mean_roc(sampled, membership), mean_roc(scores[:targets], membership[:targets]))
    assert "targets" not in {row.metric for row in leakage(LossThreshold(), scores, seen, Bootstrap(replicates=2))}


def test_ties_at_the_threshold_are_counted():
    membership = np.array([[True] * 50 + [False] * 100])
    scores = np.concatenate([np.full(50, 2.0), np.full(30, 2.0), np.arange(70) / 100.0])[None]
    assert tied_share(scores, membership, 0.01) == pytest.approx(0.3)
    assert tied_share(np.arange(150.0)[None], membership, 0.01) == pytest.approx(0.01)
