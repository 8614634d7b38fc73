"""`study=queries` on small real fleets: what is measured is what evaluations measure, and the rest is counting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palisade.attacks import LossThreshold, Votes
from palisade.evaluate import all_attacks
from palisade.evaluation.measuring.measure import measure
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Row
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.statistics.metrics import roc_points
from palisade.evaluation.studies.queries import (
    MEMBER_COUNT,
    STRONGEST_TPR,
    AttackRate,
    GuardedLine,
    measured_rates,
)
from palisade.evaluation.studies.query_curves import points, query_figure, query_tables
from palisade.evaluation.studies.studies import TPR, StudyRow
from palisade.evaluation.studies.study_runs import run_study
from palisade.targets.run import Run, find
from palisade.train import composed, train_run

POOL_SIZE = 600
BUDGET_POINTS, QUERY_COUNTS = (10, 100, 1000, 10**5), (1, 2, 5, 17)
ANSWER_CUTS = [{"outputs": "probabilities", "top_k": 3}, {"outputs": "label"}]
STUDY_SETTINGS: dict[str, Any] = {
    "name": "queries", "records": list(BUDGET_POINTS), "queries": list(QUERY_COUNTS), "levels": ANSWER_CUTS,
}  # fmt: skip
DIGITS_SETTINGS = (
    "data=digits", "fleet.models=4", "fleet.workers=1", f"split.pool={POOL_SIZE}", "split.population=0.1",
    "network.hidden=[64]", "trainer.epochs=20", "secret=queries",
)  # fmt: skip
ATTACK_NAMES = ("loss", "lira", "rmia", "known_members", "calibrated_correctness", "votes")


def protocol(names: Sequence[str] = ATTACK_NAMES, **threat: Any) -> AttackProtocol:
    known = all_attacks()
    plain = AttackProtocol(attacks={name: known[name] for name in names}, adaptive=known)
    return replace(plain, threat={**plain.threat, **threat})


def trained(folder: Path, *words: str) -> Run:
    return Run(Path(train_run(composed(f"runs={folder}", *words))["folder"]))


def study_of(runs: Sequence[Run], attacks: AttackProtocol | None = None, **changed: Any) -> list[StudyRow]:
    return run_study({**STUDY_SETTINGS, **changed}, runs, attacks or protocol())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def digits(folder: Path) -> Run:
    trained(folder, *DIGITS_SETTINGS, "guard=rounding", "guard.decimals=1")
    return trained(folder, *DIGITS_SETTINGS)


@pytest.fixture(scope="module")
def private(folder: Path) -> Run:
    return trained(folder, *DIGITS_SETTINGS, "defense=dp_sgd", "defense.epsilon=4", "defense.trainer.epochs=3")


@pytest.fixture(scope="module")
def rows(folder: Path, digits: Run, private: Run) -> list[StudyRow]:
    return study_of(find(folder, "digits", None))


def numbers(rows: Sequence[StudyRow], title: str, metric: str) -> list[float]:
    values = [row.value for row in points(rows, metric)[title].values()]
    return [value for value in values if value is not None]


def test_one_query_is_the_ordinary_evaluation_to_the_last_digit(digits: Run, rows: list[StudyRow]) -> None:
    ordinary = measure(digits, protocol(), bounds=False)
    single = [row for row in rows if (row.target, row.setting) == ("undefended", "1") and row.metric == TPR]
    assert {row.attack for row in single} == {"loss", "lira", "rmia", "known_members", "calibrated_correctness"}
    for row in single:
        own = ordinary.get(TPR, attack=row.attack)
        assert (row.value, row.low, row.high) == (own.value, own.low, own.high)
    best = points(rows, STRONGEST_TPR)["undefended"][1]
    assert best.value == max(row.value or 0.0 for row in single) > 0.02, "the fleet leaks"
    # Votes with 16 copies, an ordinary attack too, need 17.
    (votes,) = [row for row in rows if (row.target, row.attack, row.metric) == ("undefended", "votes, 17 queries", TPR)]
    assert (votes.setting, votes.value) == ("17", ordinary.get(TPR, attack="votes").value)


def test_lines_are_guards_levels_and_dp_sgd_beside(rows: list[StudyRow]) -> None:
    expected = ["undefended", "undefended, top-3", "undefended, label", "none + rounding 1", "dp_sgd ε=4"]
    assert list(points(rows, STRONGEST_TPR)) == list(points(rows, MEMBER_COUNT)) == expected


def test_more_records_and_more_queries_never_find_fewer(rows: list[StudyRow]) -> None:
    for metric in (MEMBER_COUNT, STRONGEST_TPR):
        for title in points(rows, metric):
            values = numbers(rows, title, metric)
            assert values == sorted(values) and len(values) == 4
    labels = numbers(rows, "undefended, label", STRONGEST_TPR)
    assert labels[-1] > labels[0], "copies win back a part"


def test_a_pool_is_not_extrapolated(rows: list[StudyRow]) -> None:
    for title, line in points(rows, MEMBER_COUNT).items():
        rate = points(rows, STRONGEST_TPR)[title][17]
        assert not line[10].note and f"all {POOL_SIZE} records of the pool" in line[10**5].note
        assert line[10**5].value == pytest.approx(0.5 * POOL_SIZE * (rate.value or 0.0))
        assert line[10**5].high == pytest.approx(0.5 * POOL_SIZE * (rate.high or 0.0))


def test_members_are_counted_as_drawing_people_would(digits: Run) -> None:
    """The mean of random draws from the pool, at the threshold of 1 % of all non-members."""
    counted = points(study_of([digits], protocol(["loss"]), levels=[], queries=[1]), MEMBER_COUNT)["undefended"]
    seen = view(digits)
    scores, rng, detected = LossThreshold().score(seen), np.random.default_rng(0), []
    for row, members in zip(scores, seen.membership, strict=True):
        roc = roc_points(row, members)
        threshold = roc.thresholds[roc.fpr <= 0.01].min()
        draws = [rng.permutation(POOL_SIZE)[:100] for _ in range(2000)]
        detected.append(np.mean([(members[drawn] & (row[drawn] >= threshold)).sum() for drawn in draws]))
    # Shares of members of these very models differ a little from those of the draw.
    assert counted[100].value == pytest.approx(np.mean(detected), rel=0.08)
    assert counted[100].value == pytest.approx(10 * (counted[10].value or 0.0))


def rate(attack: str, tpr: float, **price: Any) -> AttackRate:
    return AttackRate(attack=attack, rows={TPR: Row(metric=TPR, value=tpr)}, **price)


@pytest.mark.parametrize(
    ("price", "tested"),
    [
        ({}, {9: 9, 100: 100, 600: 600, 10**5: 600}),
        ({"queries": 17, "inputs": 17.0}, {16: 0, 17: 1, 100: 5, 10**5: 600}),
        ({"queries": 17, "inputs": 11.5}, {11: 0, 23: 2, 10**5: 600}),
        ({"beforehand": 60}, {10: 0, 60: 0, 100: 40, 10**5: 600}),
        ({"needs_all": True}, {10: 0, 599: 0, 600: 600}),
    ],
)
def test_a_budget_suffices_for_so_many_people(price: Mapping[str, Any], tested: Mapping[int, int]) -> None:
    own = rate("a", 0.1, **price)
    assert {budget: own.people(budget, POOL_SIZE) for budget in tested} == tested


def prices(run: Run, attacks: AttackProtocol, *, of_labels: bool) -> dict[str, AttackRate]:
    _, rates = measured_rates(0, run, attacks.grant, attacks, QUERY_COUNTS, of_labels)
    return {rate.attack: rate for rate in rates}


def test_attacks_pay_for_what_they_ask(digits: Run) -> None:
    own = prices(digits, protocol(), of_labels=False)
    assert (own["loss"].inputs, own["loss"].beforehand, own["loss"].needs_all) == (1, 0, False)
    assert own["rmia"].beforehand == len(digits.dataset.split.population) > 0
    assert own["known_members"].needs_all
    assert own["lira, 5 queries"].inputs == 5 and "augmentation_agreement, 2 queries" in own
    votes = prices(digits, protocol(), of_labels=True)
    assert set(votes) == {"votes, 2 queries", "votes, 5 queries", "votes, 17 queries"}
    assert 9 < votes["votes, 17 queries"].inputs < 17, "shifted images repeat"


def asked_inputs(run: Run, attack: Votes) -> float:
    """Different inputs a record that a model is really asked about."""
    seen, inputs = view(run, Grant(outputs="label")), set()

    def query(model: int, x: np.ndarray) -> np.ndarray:
        if model == 0:
            inputs.update(row.tobytes() for row in x)
        return run_query(model, x)

    run_query = seen.query
    assert run_query is not None
    attack.score(replace(seen, query=query, query_label=None))
    return len(inputs) / seen.records


def test_the_price_is_what_the_model_is_asked_about(digits: Run) -> None:
    features, noise = digits.dataset.x[digits.dataset.split.audited], Votes(copies=16, strengths=[0.3], moves=[])
    assert asked_inputs(digits, noise) == noise.different_inputs(features) == 17
    assert 9 < replace(noise, moves=[1]).different_inputs(features) < 12, "the strength whose copies repeat"


def test_copies_that_would_repeat_are_left_out() -> None:
    images, flags = np.random.default_rng(0).random((40, 1, 8, 8)), np.eye(3)[np.arange(60) % 3]
    assert Votes().without_repeats(images) == Votes()
    many = Votes(copies=499).without_repeats(images)
    assert many is not None and many.moves == () and many.strengths == Votes().strengths
    assert Votes(copies=499).without_repeats(flags) is None, "three flags have eight values"


def test_guards_that_keep_the_label_share_attacks_on_labels(digits: Run, private: Run) -> None:
    rounded = next(run for run in find(digits.folder.parents[1], "digits", None) if run.guard.startswith("rounding"))
    plain, level = GuardedLine(run=digits, grant=Grant(), title=""), Grant(outputs="probabilities", top_k=3)
    cut, other = replace(plain, grant=level), replace(plain, run=rounded)
    assert plain.source == cut.source != other.source == (rounded, Grant())
    ties = replace(plain, grant=Grant(outputs="probabilities", decimals=1))
    assert ties.source == (digits, ties.grant), "rounded probabilities tie, and the first class wins"
    assert plain.source != GuardedLine(run=private, grant=Grant(), title="").source
    behind = replace(protocol(), threat={**protocol().threat, "outputs": "probabilities", "top_k": 3})
    of_level, of_models = (prices(digits, attacks, of_labels=True) for attacks in (behind, protocol(outputs="label")))
    assert {name: rate.tpr for name, rate in of_level.items()} == {name: rate.tpr for name, rate in of_models.items()}


def test_label_only_attackers_see_no_other_level(digits: Run) -> None:
    rows = study_of([digits], protocol(["lira", "calibrated_correctness"], outputs="label"))
    assert list(points(rows, STRONGEST_TPR)) == ["undefended"]
    (skipped,) = [row for row in rows if row.note and row.metric == TPR]
    assert skipped.attack == "lira" and "only labels are released" in skipped.note


def test_vectors_of_two_classes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = trained(
        tmp_path, "data=breast_cancer", "fleet.models=4", "fleet.workers=1", "network.hidden=[16]", "trainer.epochs=10"
    )
    rows = study_of([run], queries=[1, 5, 60])
    assert list(points(rows, STRONGEST_TPR)) == ["undefended", "undefended, label"]
    assert "study.levels: top-3 is left out" in capfd.readouterr().err
    measured = {row.attack for row in rows if row.metric == TPR and row.value is not None}
    assert {"votes, 5 queries", "votes, 60 queries", "boundary, 60 queries"} <= measured
    assert not any("lira, " in attack for attack in measured), "no ways of putting what is no image"


@pytest.mark.parametrize("models", [1, 2])
def test_few_models_leave_attacks_without_shadows(models: int, folder: Path) -> None:
    run = trained(folder / str(models), *DIGITS_SETTINGS, f"fleet.models={models}")
    rows = study_of([run], queries=[1, 5, 60])
    best = points(rows, STRONGEST_TPR)["undefended"][1]
    assert best.value is not None and best.attack in {"loss", "known_members", "rmia", "lira"}
    assert any(row.attack == "votes" and f"models={models} are too few" in row.note for row in rows)
    printed(rows)


def test_where_answers_alone_are_there_nothing_further_is_asked(folder: Path) -> None:
    run = trained(folder / "signals", *DIGITS_SETTINGS, "fleet.keep=signals")
    rows = study_of([run])
    assert list(points(rows, STRONGEST_TPR)) == ["undefended", "undefended, label"]
    assert any(row.attack == "votes" and "fleet.keep=both" in row.note for row in rows)
    assert all(row.setting == "1" for row in rows if row.metric == TPR and row.value is not None)


def test_too_few_non_members_have_no_number(folder: Path) -> None:
    run = trained(folder / "few", *DIGITS_SETTINGS, "split.pool=120", "trainer.batch_size=20")
    rows = study_of([run], protocol(["loss"]), queries=[1])
    assert points(rows, STRONGEST_TPR)["undefended"][1].value is None
    assert any("fewer than 100 non-members" in row.note for row in rows)
    printed(rows)


def printed(rows: list[StudyRow]) -> None:
    """Tables and figure of whatever there is."""
    assert query_tables(rows) and query_figure(rows).axes


def test_bad_settings_are_refused(digits: Run, tmp_path: Path) -> None:
    for changed, begins in (
        ({"records": []}, "study.records=[]: expected a list of at least 1"),
        ({"records": None}, "study.records=null: expected a list of numbers"),
        ({"queries": [0]}, "study.queries=[0]: "),
        ({"queries": [10**6]}, "study.queries=[1000000]: "),
    ):
        with pytest.raises(ValueError) as error:
            study_of([digits], **changed)
        assert str(error.value).startswith(begins), str(error.value)
    with pytest.raises(ValueError, match=r"^threat\.weights=true: expected false with study=queries"):
        study_of([digits], protocol(weights=True))
    canaries = trained(tmp_path, *DIGITS_SETTINGS, "canary=label_noise", "canary.count=60", "trainer.epochs=1")
    with pytest.raises(ValueError, match=r"^study=queries: .* without canary=…$"):
        study_of([canaries])
