"""Measurements of an audit: correct numbers, flags, and a page that stands alone."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from palisade.attacks import (
    Confidence,
    Correctness,
    KnownMembers,
    LiRA,
    LossThreshold,
    ModifiedEntropy,
    Population,
    Quantile,
)
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import flags
from palisade.evaluation.limit import Limit, gate
from palisade.evaluation.measuring.one_model import measure_model
from palisade.evaluation.record_test import ask_records
from palisade.evaluation.report.audit_pages import verdict, write_model, write_records
from palisade.evaluation.result import AUC, BLIND_BASELINE
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.subjects.answers import AnsweredRecords, view_of
from palisade.evaluation.subjects.subject import ModelSubject
from palisade.evaluation.table import show_results

pytestmark = pytest.mark.usefixtures("undrawn")

ALL_ATTACKS = [Correctness(), LossThreshold(), Confidence(), ModifiedEntropy(), KnownMembers(), LiRA(), Population()]


def side(seed, count=600, fit=0.0, shift=0.0, level="logits", known=True):
    """Records that a model fits better than others by `fit`, and that differ from others by `shift`."""
    rng = np.random.default_rng(seed)
    labels, features = rng.integers(3, size=count), rng.normal(size=(count, 4)) + shift
    logits = rng.normal(size=(count, 3))
    logits[np.arange(count), labels] += 1 + fit
    answers = logits.argmax(axis=1) if level == "predictions" else logits
    return AnsweredRecords(
        name=f"side{seed}=x.npz", labels=labels, level=level, answers=answers, features=features if known else None
    )


def audit(one, other, population=None, attacks=ALL_ATTACKS):
    return measure_model(ModelSubject(members=one, nonmembers=other, population=population), attacks, Grant())


def flagged(result):
    return flags(result, Comparison([result]))


def sharing(result, shared):
    return replace(result, sides=replace(result.sides, shared=shared))


LEAKING_SIDES = side(0, fit=3.0), side(1)


@pytest.fixture(scope="module")
def leaking():
    return audit(*LEAKING_SIDES)


@pytest.fixture(scope="module")
def silent():
    return audit(side(0), side(1))


def test_attacks_without_shadows_run_and_the_others_say_what_they_need(leaking):
    assert leaking.attacks == ["correctness", "loss", "confidence", "modified_entropy", "known_members"]
    assert leaking.skipped == {
        "lira": "needs shadow models, trained by the same recipe on other records; train a fleet of them with train.py",
        "population": "needs non-members of the attacker's own; give further ones as population=<file>",
    }


def test_numbers_are_those_of_the_scores(leaking):
    gap = leaking.get("accuracy", group="members").value - leaking.get("accuracy", group="nonmembers").value
    assert leaking.get("balanced_accuracy", attack="correctness").value == pytest.approx(0.5 + gap / 2)
    auc = leaking.get(AUC, attack="loss")
    losses = [np.log(np.exp(one.answers).sum(axis=1)) - one.answers[range(600), one.labels] for one in LEAKING_SIDES]
    assert auc.value == pytest.approx((losses[0][:, None] < losses[1][None]).mean())
    assert auc.low < auc.value < auc.high and (auc.members, auc.nonmembers) == (600, 600)
    assert {row.group for row in leaking.rows} == {"all", "members", "nonmembers", "class=0", "class=1", "class=2"}


def test_leakage_is_distinguished_from_none(leaking, silent):
    assert leaking.get(AUC, attack=leaking.strongest).low > 0.7
    aucs = [silent.get(AUC, attack=attack) for attack in silent.attacks]
    assert all(auc.low < 0.5 < auc.high for auc in aucs)
    assert "no better than guessing" in verdict(silent)[0] and "no better than guessing" not in verdict(leaking)[0]
    assert "Attacks with shadow models were not run" in verdict(leaking)[0]


def test_chance_is_not_claimed_where_another_attack_does_better():
    """At 1 % FPR few records decide which attack finds most: here one whose AUC may be that of guessing."""
    result = audit(side(20, 150, fit=0.25), side(21, 150))
    assert result.strongest == "known_members" and result.get(AUC, attack="loss").low > 0.5
    assert "no better than guessing" not in verdict(result)[0]
    assert "Of the 5 attacks, loss has the highest AUC: 0.585 [0.517–0.650]." in verdict(result)[0]


def test_a_population_lets_two_more_attacks_run():
    result = audit(side(0, 150, fit=2.0), side(1, 150), side(2, 100), [Population(), Quantile()])
    assert result.attacks == ["population", "quantile"] and not result.skipped
    assert result.get(AUC, attack="quantile").low > 0.6


def test_nobody_is_fooled_by_records_that_differ_by_themselves(silent):
    assert not [flag for flag in flagged(silent) if flag.name == "different records"]
    result = audit(side(0, shift=1.0), side(1))
    (flag,) = [flag for flag in flagged(result) if flag.name == "different records"]
    assert "never asks the model" in flag.sentence
    assert verdict(result)[0].startswith("Members and non-members differ by themselves")
    assert result.get(AUC, attack="blind_baseline").low > 0.6


def test_classes_alone_are_compared_where_records_are_unknown():
    one, other = side(0, known=False), side(1, known=False)
    frequent = other.labels > 0
    rare = replace(other, labels=other.labels[frequent], answers=other.answers[frequent])
    assert {flag.name for flag in flagged(audit(one, other, attacks=ALL_ATTACKS[:2]))} >= {"records unknown"}
    assert "different records" in {flag.name for flag in flagged(audit(one, rare, attacks=ALL_ATTACKS[:2]))}


def test_every_flag_speaks_up(leaking):
    names = {flag.name for flag in flagged(sharing(leaking, 4))}
    assert names == {"shared records", "0.1% unresolved"}
    few = audit(side(0, 90, fit=3.0), side(1, 90), attacks=ALL_ATTACKS[:2])
    assert {"1% unresolved", "0.1% unresolved"} <= {flag.name for flag in flagged(few)}
    some = audit(side(0, 300, fit=3.0), side(1, 300), attacks=ALL_ATTACKS[:2])
    assert "1% coarse" in {flag.name for flag in flagged(some)}
    swapped = audit(side(1), side(0, fit=3.0), attacks=ALL_ATTACKS[:2])
    assert any("Are the two files swapped?" in flag.sentence for flag in flagged(swapped))
    labels = audit(side(0, fit=3.0, level="predictions"), side(1, level="predictions"))
    assert labels.attacks == ["correctness"] and "needs" in labels.skipped["loss"]
    assert "many ties at 1%" in {flag.name for flag in flagged(labels)}
    hidden = replace(leaking, rows=[replace(row, value=0.5, low=0.47, high=0.53) if row.access == "black_box" else row
                                    for row in leaking.rows])  # fmt: skip
    assert "masked, not protected" in {flag.name for flag in flagged(hidden)}


@pytest.mark.parametrize(
    ("result", "limit", "line", "passed"),
    [
        ("silent", 0.2, "kept as far as an audit without shadows can tell: ", True),
        ("leaking", 0.2, "EXCEEDED: ", False),
        ("shared", 0.2, "EXCEEDED: 3 records are on both sides", False),
        ("none", 0.2, "not decided: every attack was skipped", False),
        ("swapped", 0.2, "EXCEEDED: members rank below non-members in every attack; are the two files swapped?", False),
        ("labels", 0.2, "EXCEEDED: ", False),
    ],
)
def test_gate(leaking, silent, result, limit, line, passed):
    results = {"silent": silent, "leaking": leaking, "shared": sharing(silent, 3)}
    results["none"] = replace(silent, roc={BLIND_BASELINE: silent.roc[BLIND_BASELINE]})
    results["swapped"] = audit(side(1), side(0, fit=3.0), attacks=ALL_ATTACKS[:2])
    results["labels"] = audit(side(0, level="predictions"), side(1, level="predictions"), attacks=ALL_ATTACKS[:1])
    lines, holds = gate(Comparison([results[result]]), Limit(name="gate", max_tpr=limit))
    assert lines[1].startswith(line) and holds == passed
    unresolved = gate(Comparison([results[result]]), Limit(name="gate", max_tpr=limit, fpr=0.001))
    assert not unresolved[1]


def test_the_page_stands_alone_and_agrees_with_the_files(leaking, tmp_path, capsys):
    command = "python evaluate.py audit=outputs 'members=<b>.npz'"
    paths = write_model(Comparison([leaking]), "saved answers", command, tmp_path / "report")
    assert [path.name for path in paths] == ["report.html", "report.json", "results.csv", "figure.png"]
    html = paths[0].read_text()
    for word in ("Scope: internal", "Verdict", "blind baseline", "Skipped", "&lt;b&gt;.npz", "By class", "<svg"):
        assert word in html
    assert "http:" not in html.replace("http://www.w3.org", "") and "https:" not in html
    assert html.count("<script") == 1 and "default-src 'none'" in html
    content = json.loads(paths[1].read_text())
    rows = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert len(rows) == len(content["rows"]) == len(leaking.rows) and content["strongest"] == leaking.strongest
    show_results(Comparison([leaking]), verdict(leaking))
    printed = capsys.readouterr().out
    assert "blind baseline" in printed and "skipped lira: needs shadow models" in printed


def test_used_records_are_named_and_others_are_not(tmp_path):
    used, unused, others = side(0, 60, fit=6.0), side(7, 60), side(2, 1500)
    result = ask_records(view_of(used, others, None, Grant()), LossThreshold(), 0.05)
    assert result.all_together.p < 1e-6 and (result.benjamini_hochberg <= 0.05).sum() > 20
    loss = np.log(np.exp(used.answers).sum(axis=1)) - used.answers[np.arange(60), used.labels]  # in the file's order
    np.testing.assert_allclose(result.scores, -loss, rtol=1e-6, atol=1e-9)
    assert (np.diff(result.p[np.argsort(loss)]) >= 0).all()
    assert (result.holm >= result.benjamini_hochberg).all() and (result.benjamini_hochberg >= result.p).all()
    silent = ask_records(view_of(unused, others, None, Grant()), LossThreshold(), 0.05)
    assert silent.all_together.p > 0.05 and not (silent.holm <= 0.05).any()
    assert "no more than chance explains" in silent.sentences()[0]
    paths = write_records(result, "what", "command", tmp_path)
    html, rows = paths[0].read_text(), list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert "Were these records used?" in html and "A large p-value proves nothing" in html
    assert len(rows) == 60 and [int(row["row"]) for row in rows] == list(range(60))
    np.testing.assert_array_equal([int(row["label"]) for row in rows], used.labels)


def test_what_makes_p_values_doubtful_is_flagged():
    seen = view_of(side(0, 60, shift=1.5), side(1, 60), None, Grant())
    assert {flag.name for flag in ask_records(seen, LossThreshold(), 0.05).flags} == {
        "different records",
        "too few non-members",
    }
    unknown = view_of(side(0, 1, known=False), side(1, 60, known=False), None, Grant())
    assert {flag.name for flag in ask_records(unknown, LossThreshold(), 0.05).flags} == {"records unknown"}


@pytest.mark.parametrize(
    ("attack", "alpha", "message"),
    [
        (LossThreshold(), 0.9, r"alpha=0\.9: expected an error rate > 0 and < 0\.5"),
        (KnownMembers(), 0.05, r"threat\.audit=known_members: expected an attack that knows no members"),
        (LiRA(), 0.05, r"threat\.audit=lira: expected an attack that can run, and it needs shadow models"),
    ],
)
def test_what_cannot_score_records_in_question(attack, alpha, message):
    with pytest.raises(ValueError, match=message):
        ask_records(view_of(side(0, 20), side(1, 60), None, Grant()), attack, alpha)
