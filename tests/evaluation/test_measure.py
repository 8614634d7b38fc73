"""What is measured on a run: with every kind of membership, and never more than can be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.measure import findings_of
from evaluation.runs import Run
from evaluation.signals import answers, view
from train import train

SMALL = ["data=digits", "trainer.epochs=2", "fleet.workers=1", "secret=measured"]
ATTACKS = {
    "loss": {"_target_": "attacks.LossThreshold"},
    "lira": {"_target_": "attacks.LiRA", "online": True},
    "lira_offline": {"_target_": "attacks.LiRA", "online": False},
}


def trained(compose, *overrides) -> Run:
    return Run(Path(train(compose(*SMALL, *overrides))["folder"]))


def test_twin_of_a_target_is_no_shadow(compose):
    run = trained(compose, "membership.how=complementary", "fleet.models=6")
    seen = view(run)
    assert (seen.membership[0::2] ^ seen.membership[1::2]).all()
    assert not seen.others[0, 1] and not seen.others[3, 2] and seen.others[0, 2:].all()
    (found,) = findings_of([run], ATTACKS)
    assert found.attacks == ["loss", "lira", "lira_offline"] and not found.bounded


def test_fixed_split_skips_what_needs_shadows_and_says_why(compose):
    run = trained(compose, "membership.how=fixed", "fleet.models=3")
    (found,) = findings_of([run], ATTACKS)
    assert found.attacks == ["loss"] and not found.bounded
    assert set(found.skipped) == {"lira", "lira_offline"}
    assert all("the split is fixed" in reason for reason in found.skipped.values())


def test_attack_without_scores_is_skipped_with_the_reason(compose):
    run = trained(compose, "fleet.models=4")
    (found,) = findings_of([run], {**ATTACKS, "lira": {**ATTACKS["lira"], "variance": "per_record"}})
    assert found.skipped == {"lira": "gives some model no score for both a member and a non-member; train more models"}
    assert found.bounded


def test_single_model_gets_the_band_and_no_shadows(compose):
    run = trained(compose, "fleet.models=1")
    (found,) = findings_of([run], ATTACKS)
    assert found.attacks == ["loss"] and set(found.skipped) == {"lira", "lira_offline"}
    row = found.get("tpr@1%fpr", attack="loss")
    assert row.low < row.value < row.high and row.high - row.low > 0.01


def test_unresolvable_rate_has_no_value(compose):
    run = trained(compose, "fleet.models=4")
    (found,) = findings_of([run], ATTACKS)
    assert found.get("tpr@0.1%fpr", attack="loss").value is None
    assert found.get("unscored", attack="loss").value == 0
    assert 0 < found.get("unscored", attack="lira").value < 0.9  # few shadows: some records lack a side


def test_kept_findings_are_those_of_the_same_models_and_attacks(compose):
    run = trained(compose, "fleet.models=3")
    (first,) = findings_of([run], ATTACKS)
    when = (run.folder / "metrics.json").stat().st_mtime_ns
    assert findings_of([run], ATTACKS)[0].rows == first.rows
    assert (run.folder / "metrics.json").stat().st_mtime_ns == when
    other = {**ATTACKS, "lira": {**ATTACKS["lira"], "variance": "fixed"}}
    assert findings_of([run], other)[0].get("auc", attack="lira") != first.get("auc", attack="lira")
    extended = trained(compose, "fleet.models=4")
    assert extended.folder == run.folder
    assert findings_of([extended], ATTACKS)[0].models == 4
    assert answers(extended, "pool").shape[0] == 4


def test_signals_are_the_models_own_answers_on_the_pool(compose):
    run = trained(compose, "fleet.models=2")
    seen, labels = view(run), run.dataset.y[run.dataset.split.pool]
    assert seen.logits.shape == (2, len(run.dataset.split.pool), 10) and seen.logits.dtype == np.float32
    assert (seen.logits.argmax(-1) == labels).mean() > 0.3
    assert np.array_equal(seen.labels, labels)
    accuracy = findings_of([run], ATTACKS)[0].get("test_accuracy")
    test = answers(run, "test").argmax(-1) == run.dataset.y[run.dataset.split.test]
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
    (found,) = findings_of([run], ATTACKS)
    assert not found.bounded
    assert any("persons with several records" in sentence for sentence in run.statement.not_covered)


def test_membership_comes_from_the_secret_and_not_from_the_seed(compose, tmp_path):
    one = trained(compose, "fleet.models=2").membership()
    elsewhere = compose(*SMALL[:3], "fleet.models=2", "secret=another", runs=tmp_path / "elsewhere")
    assert (one != Run(Path(train(elsewhere)["folder"])).membership()).mean() > 0.3


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
    (found,) = findings_of([run], ATTACKS)
    assert found.bounded
