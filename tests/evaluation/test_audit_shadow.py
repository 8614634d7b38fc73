"""Thresholds learnt on a shadow model's files: as published, against a loop that anyone can read."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import call
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.stats import binom, norm

from palisade.attacks import Confidence, Correctness, KnownMembers, LossThreshold, View
from palisade.data.location30 import Location30
from palisade.evaluate import evaluate_runs
from palisade.evaluation.measuring.leakage import AT_SHADOWS
from palisade.evaluation.measuring.one_model import measure_model
from palisade.evaluation.report.audit_pages import meaning
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.statistics.metrics import Estimate, clopper_pearson_interval
from palisade.evaluation.subjects.answers import AnsweredRecords, accuracy_of, margins
from palisade.evaluation.subjects.subject import ModelSubject

pytestmark = pytest.mark.usefixtures("undrawn")

REPOSITORY_ROOT = Path(__file__).parents[2]
LOCATION30_FOLDER = REPOSITORY_ROOT.parent / "shared" / "data" / "location30"
FILE_NAMES = {"members": "in", "nonmembers": "out", "shadow_members": "shadow_in", "shadow_nonmembers": "shadow_out"}
FILE_WORDS = tuple(f"{setting}={name}.npz" for setting, name in FILE_NAMES.items())
ATTACK_WORD = "attack=[correctness,confidence,entropy,modified_entropy]"

ARTIFACT_VARIABLE = "PALISADE_SONG_MITTAL_ARTEFACT"
"""Names a clone of the published code of Song & Mittal 2021, with its saved predictions."""
PUBLISHED_ACCURACIES = {  # confidence and modified entropy, on Location30
    "tc_output": (0.763, 0.781),
    "defense_output": (0.691, 0.688),  # MemGuard
}
PUBLISHED_RANGES = {"in": (0, 1000), "out": (2000, 3000), "shadow_in": (3000, 3500), "shadow_out": (4000, 4500)}
"""Of the shuffled records, by the published config.ini; the order in which predictions are saved, too."""
THRESHOLD_TIES = 0.002  # equally good thresholds: there the first of the file is taken, here the highest

Answers = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Probabilities and labels of each file."""


def run(*overrides: str) -> None:
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings = OmegaConf.to_container(compose("evaluate", list(overrides)), resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py " + " ".join(overrides)})


def accuracies(answers: Answers, folder: Path, *words: str) -> dict[str, dict[str, str]]:
    """The rows that the command line writes for these files, by attack."""
    for name, (probabilities, labels) in answers.items():
        np.savez(folder / f"{name}.npz", probabilities=probabilities, labels=labels)
    run("audit=outputs", *FILE_WORDS, ATTACK_WORD, *words)
    with Path("reports/audit_outputs/results.csv").open() as file:
        return {row["attack"]: row for row in csv.DictReader(file) if row["metric"] == AT_SHADOWS}


def signals(probabilities: np.ndarray, label: int) -> dict[str, float]:
    """By the formulas of the paper, section 3.2, one record at a time."""
    p = probabilities.astype(np.float64)
    others = [j for j in range(len(p)) if j != label]
    modified = -(1 - p[label]) * np.log(p[label]) - sum(p[j] * np.log(1 - p[j]) for j in others)
    return {"confidence": p[label], "entropy": float((p * np.log(p)).sum()), "modified_entropy": -modified}


def best_threshold(members: list[float], nonmembers: list[float]) -> float:
    """Of equally good ones the highest."""
    rates = {}
    for value in (*members, *nonmembers):
        tpr = sum(score >= value for score in members) / len(members)
        spared = sum(score < value for score in nonmembers) / len(nonmembers)
        rates[value] = round((tpr + spared) / 2, 12)
    return max(value for value in rates if rates[value] == max(rates.values()))


def by_loops(answers: Answers, attack: str) -> float:
    """The balanced accuracy on the audited files at thresholds from the shadow's."""

    def of(name: str, label: int | None = None) -> list[tuple[float, int]]:
        rows = zip(*answers[name], strict=True)
        return [(signals(row, own)[attack], own) for row, own in rows if label in (None, own)]

    def threshold(label: int) -> float:
        members, nonmembers = of("shadow_in", label), of("shadow_out", label)
        if not members or not nonmembers:
            members, nonmembers = of("shadow_in"), of("shadow_out")
        return best_threshold([score for score, _ in members], [score for score, _ in nonmembers])

    thresholds = {label: threshold(label) for label in range(6)}
    tpr = np.mean([score >= thresholds[label] for score, label in of("in")])
    spared = np.mean([score < thresholds[label] for score, label in of("out")])
    return float(tpr + spared) / 2


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Classes that are fitted unlike well; of class 5 the shadow has no non-member."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def of(count: int, fit: float, classes: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(classes, size=count)
        logits = rng.normal(size=(count, 6))
        logits[np.arange(count), labels] += labels + fit * rng.exponential(size=count)
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels

    return {"in": of(150, 1.0, 6), "out": of(180, 0, 6), "shadow_in": of(120, 1.0, 6), "shadow_out": of(110, 0, 5)}


def test_the_command_line_gives_what_loops_give(answers: Answers, tmp_path: Path) -> None:
    rows = accuracies(answers, tmp_path)
    assert set(rows) == {"correctness", "confidence", "entropy", "modified_entropy"}
    for attack in ("confidence", "entropy", "modified_entropy"):
        assert float(rows[attack]["value"]) == pytest.approx(by_loops(answers, attack), abs=1e-9), attack
    right = [float(np.mean(answers[side][0].argmax(axis=1) == answers[side][1])) for side in ("in", "out")]
    assert float(rows["correctness"]["value"]) == pytest.approx(0.5 + (right[0] - right[1]) / 2)
    assert all(float(row["low"]) < float(row["value"]) < float(row["high"]) for row in rows.values())
    assert {(row["members"], row["nonmembers"]) for row in rows.values()} == {("150", "180")}


def test_table_page_and_json_tell_it(answers: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = accuracies(answers, tmp_path, "attack=[loss,modified_entropy,known_members]")
    assert set(rows) == {"loss", "modified_entropy"}, "nothing is learnt of a shadow where there is no threshold"
    best = max(rows.values(), key=lambda row: float(row["value"]))
    cell = f"{100 * float(best['value']):.1f} % [{100 * float(best['low']):.1f}–{100 * float(best['high']):.1f}]"
    printed = capsys.readouterr().out
    assert "balanced accuracy" in printed and cell in printed
    page = Path("reports/audit_outputs/report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert page.count(cell) >= 2, "in the verdict and in the table"
    content = json.loads(Path("reports/audit_outputs/report.json").read_text())
    assert content["shadow_records"] == 230 and content["intervals_over"] == "records"
    assert AT_SHADOWS in {row["metric"] for row in content["rows"]}
    run("audit=outputs", *FILE_WORDS[:2], ATTACK_WORD, "name=alone")
    alone = json.loads(Path("reports/alone/report.json").read_text())
    assert alone["shadow_records"] == 0 and AT_SHADOWS not in {row["metric"] for row in alone["rows"]}


LOGIT_GAPS = (0.5, 1.0, 2.0)
"""By class, how far members' margins lie above others' on average, in standard deviations."""


def simulated(seed: int, side: int, gaps: tuple[float, ...] = LOGIT_GAPS) -> View:
    """One model's normal margins, members' raised by a gap of their class; so are they all, by thrice the class."""
    rng = np.random.default_rng(seed)
    labels, members = rng.integers(3, size=2 * side), np.arange(2 * side) < side
    logits = np.zeros((2 * side, 3))
    logits[np.arange(2 * side), labels] = 3 * labels + rng.normal(size=2 * side) + np.array(gaps)[labels] * members
    return View(logits=logits[None], labels=labels, membership=members[None])


def answered(view: View) -> tuple[AnsweredRecords, AnsweredRecords]:
    """The members and non-members of a model with its answers."""
    assert view.logits is not None
    logits = view.logits[0]
    one, other = (
        AnsweredRecords(name="side", labels=view.labels[side], level="logits", answers=logits[side])
        for side in (view.membership[0], ~view.membership[0])
    )
    return one, other


def test_the_accuracy_is_that_which_the_law_of_the_margins_gives() -> None:
    """Of normals a gap apart, the best threshold lies in the middle and tells Φ(gap/2) of both right."""
    truth = float(np.mean([norm.cdf(gap / 2) for gap in LOGIT_GAPS]))
    seen, shadow = simulated(0, 20_000), simulated(1, 20_000)
    (one, other), apart = answered(seen), answered(shadow)
    subject = ModelSubject(members=one, nonmembers=other, shadow=apart)
    row = measure_model(subject, [Confidence()], Grant()).get(AT_SHADOWS, attack="confidence")
    assert row.value == pytest.approx(truth, abs=0.01) and row.low is not None and row.high is not None
    assert row.low < truth + 0.005 and row.high > truth - 0.005 and row.high - row.low < 0.02
    alike = np.zeros_like(seen.labels)
    pooled = margins(Confidence(), replace(seen, labels=alike + 2), replace(shadow, labels=alike + 2))
    assert pooled is not None, "of one class all, they have one threshold"
    assert accuracy_of(pooled, seen.membership[0], None, 10).value < truth - 0.05


def of_noise(own: bool, trials: int = 60) -> list[Estimate]:
    """Accuracies where neither model leaks.

    Args:
        own: whether thresholds are learnt on the very answers that they are applied to.
        trials: pairs of models.
    """
    rows = []
    for trial in range(trials):
        seen, shadow = (simulated(2 * trial + place, 100, gaps=(0.0, 0.0, 0.0)) for place in (0, 1))
        margin = margins(Confidence(), seen, seen if own else shadow)
        assert margin is not None
        rows.append(accuracy_of(margin, seen.membership[0], None, 10))
    return rows


def test_a_shadow_finds_nothing_where_nothing_leaks() -> None:
    rows = of_noise(own=False)
    error = np.sqrt(0.5 * 0.5 / (2 * 100) / len(rows))
    assert abs(np.mean([one.value for one in rows]) - 0.5) < 3 * error
    assert sum(not one.low <= 0.5 <= one.high for one in rows) <= binom.ppf(0.999, len(rows), 0.05)
    hindsight = of_noise(own=True)
    assert np.mean([one.value for one in hindsight]) - 0.5 > 10 * error, (
        "learnt on the audited answers, they find noise"
    )


def test_intervals_are_clopper_pearson_conditional_on_the_shadow() -> None:
    margin, members = np.array([1.0, 0.0, -1.0, 2.0, -3.0]), np.array([True, True, True, False, False])
    estimate = accuracy_of(margin, members, None, replicates=10)
    assert estimate.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    (_, tpr_high), (fpr_low, _) = (clopper_pearson_interval(*counts, 0.025) for counts in ((2, 3), (1, 2)))
    assert estimate.high == pytest.approx(0.5 + (tpr_high - fpr_low) / 2)


def test_answers_of_the_audited_model_set_no_threshold() -> None:
    """Only how its records compare with thresholds depends on them."""

    def seen(seed: int, shift: float = 0.0) -> View:
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(60, 2)) + np.array([shift, 0])
        labels = np.zeros(60, dtype=np.int64)
        return View(logits=logits[None], labels=labels, membership=(np.arange(60) < 30)[None])

    for attack in (LossThreshold(), Confidence()):
        plain, moved = (margins(attack, seen(0, shift), seen(1)) for shift in (0.0, 3.0))
        scores = [attack.score(seen(0, shift))[0] for shift in (0.0, 3.0)]
        assert plain is not None and moved is not None
        np.testing.assert_allclose(moved - plain, scores[1] - scores[0], atol=1e-9)
    assert margins(KnownMembers(), seen(0), seen(1)) is None
    gap = margins(Correctness(), seen(0), seen(1))
    assert gap is not None and set(gap) == {-1.0, 0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda files: FILE_WORDS[:3],
            r"^shadow_nonmembers: not given, expected beside shadow_members; add shadow_nonmembers=",
        ),
        (
            lambda files: (*FILE_WORDS[:2], FILE_WORDS[3]),
            r"^shadow_members: not given, expected beside shadow_nonmembers; ",
        ),
        (
            lambda files: (*FILE_WORDS[:3], "shadow_nonmembers=out.npz"),
            "hold the same records; give each records of its",
        ),
        (
            lambda files: (*FILE_WORDS[:3], "shadow_nonmembers=no.npz"),
            r"^shadow_nonmembers=no\.npz: expected an \.npz file or a table",
        ),
        (lambda files: saved(files, "shadow_out", 9), r"shadow_out\.npz holds 9 records; give at least 10"),
        (lambda files: saved(files, "shadow_out", columns=5), "has 5 classes and .* 6; both must come from one model"),
        (lambda files: saved(files, "shadow_out", extra="out"), r"share 180 records; remove them from shadow_non"),
        (lambda files: saved(files, "shadow_out", extra="shadow_in"), r"share 120 records; remove them from shadow_n"),
        (
            lambda files: saved(files, "shadow_in", without="labels"),
            r"shadow_in\.npz has no labels; save the true class",
        ),
        (lambda files: saved(files, "shadow_in", without="probabilities"), r"shadow_in\.npz holds no answers; save l"),
        (
            lambda files: saved(files, "shadow_in", level="logits"),
            "holds logits and .* probabilities; save the same of",
        ),
        (
            lambda files: (*FILE_WORDS, "audit.name=model", "+model=a.pt2"),
            r"^shadow_members=.*: expected null with audit=model",
        ),
    ],
)
def test_what_is_no_shadow(
    answers: Answers, tmp_path: Path, change: Callable[[Answers], tuple[str, ...]], message: str
) -> None:
    for name, (probabilities, labels) in answers.items():
        np.savez(tmp_path / f"{name}.npz", probabilities=probabilities, labels=labels)
    words = change(answers)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        run("audit=outputs", *words, "attack=confidence")
    assert "\n" not in str(error.value)


def saved(
    files: Answers,
    name: str,
    count: int | None = None,
    columns: int | None = None,
    extra: str | None = None,
    level: str = "probabilities",
    without: str | None = None,
) -> tuple[str, ...]:
    """Changes a file on disk; the words of the command stay."""
    probabilities, labels = files[name]
    if extra is not None:
        probabilities, labels = (np.concatenate(pair) for pair in zip(files[name], files[extra], strict=True))
    cut = probabilities[:count, :columns]
    cut = cut if columns is None else cut / cut.sum(axis=1, keepdims=True)
    arrays = {level: cut, "labels": labels[:count]}
    np.savez(f"{name}.npz", **{key: values for key, values in arrays.items() if key != without})
    return FILE_WORDS


@pytest.mark.parametrize("place", range(4))
def test_no_person_of_the_shadow_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Records of theirs all differ: persons alone tell."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    persons = np.arange(4 * 40).reshape(4, 40) // 2
    for same in (False, True):
        if same:
            persons[place, :4] = persons[2 if place < 2 else 5 - place, :4]
        for name, whose in zip(FILE_NAMES.values(), persons, strict=True):
            logits = rng.normal(size=(40, 3))
            np.savez(f"{name}.npz", logits=logits, labels=rng.integers(3, size=40), persons=whose)
        if same:
            with pytest.raises(ValueError, match=r"hold records of 2 same persons; remove theirs from shadow_"):
                run("audit=outputs", *FILE_WORDS, "attack=loss")
        else:
            run("audit=outputs", *FILE_WORDS, "attack=loss")


def test_predicted_classes_that_are_all_right_are_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    right = np.arange(60) // 20
    for name in FILE_NAMES.values():
        predictions = np.roll(right, 5) if name.endswith("out") else right
        np.savez(f"{name}.npz", predictions=predictions, labels=right)
    run("audit=outputs", *FILE_WORDS, "attack=correctness", "threat=label_only")


def test_the_command_itself(answers: Answers, tmp_path: Path) -> None:
    for name, (probabilities, labels) in answers.items():
        np.savez(tmp_path / f"{name}.npz", probabilities=probabilities, labels=labels)
    done = call("evaluate.py", "audit=outputs", *FILE_WORDS, "attack=modified_entropy", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "At thresholds learnt on one shadow model, modified_entropy has a balanced accuracy" in done.stdout
    for words, message in (
        (FILE_WORDS[:3], "error: shadow_nonmembers: not given, expected beside shadow_members; "),
        (saved(answers, "shadow_out", columns=5), "error: shadow_nonmembers=shadow_out.npz has 5 classes"),
    ):
        done = call("evaluate.py", "audit=outputs", *words, "attack=modified_entropy", folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr


def sides(seed: int, per_person: int, fit: float = 0.0) -> tuple[AnsweredRecords, AnsweredRecords]:
    """Members and non-members whose answers are alike for records of one person."""
    rng = np.random.default_rng(seed)
    persons = np.arange(300) // per_person

    def of(whose: np.ndarray, gain: float) -> AnsweredRecords:
        margin = gain + rng.normal(size=300)[whose - whose.min()] + 0.1 * rng.normal(size=300)
        logits, labels = np.stack([margin, np.zeros(300)], axis=1), np.zeros(300, dtype=np.int64)
        return AnsweredRecords(name="side", labels=labels, level="logits", answers=logits, persons=whose)

    return of(persons, fit), of(persons + 300, 0.0)


def test_intervals_draw_persons_whole() -> None:
    results = {}
    for per_person in (1, 10):
        (one, other), shadow = (sides(seed, per_person) for seed in (0, 1))
        subject = ModelSubject(members=one, nonmembers=other, shadow=shadow)
        results[per_person] = measure_model(subject, [LossThreshold()], Grant())
    rows = {per_person: one.get(AT_SHADOWS, attack="loss") for per_person, one in results.items()}
    widths = {one: (row.high or 0) - (row.low or 0) for one, row in rows.items()}
    assert widths[10] > 1.3 * widths[1], "ten records of one person are not ten pieces of evidence"
    pages = {per_person: " ".join(meaning(result)) for per_person, result in results.items()}
    assert "over persons" in pages[10] and "over records" not in pages[10]
    assert "over records" in pages[1] and "over persons" not in pages[1]
    own = {one: result.get("accuracy", group="members") for one, result in results.items()}
    widths = {one: (row.high or 1.0) - (row.low or 0.0) for one, row in own.items()}
    assert widths[10] > 2 * widths[1], "of 30 persons, not of 300 independent records"


@pytest.mark.skipif(
    ARTIFACT_VARIABLE not in os.environ, reason=f"{ARTIFACT_VARIABLE} names no clone of the published predictions"
)
@pytest.mark.parametrize("output", PUBLISHED_ACCURACIES)
def test_the_published_accuracies_come_out_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = accuracies(published(Path(os.environ[ARTIFACT_VARIABLE]) / "MemGuard", output), tmp_path)
    values = [float(rows[attack]["value"]) for attack in ("confidence", "modified_entropy")]
    assert values == pytest.approx(PUBLISHED_ACCURACIES[output], abs=THRESHOLD_TIES + 0.0005)


def published(folder: Path, output: str) -> Answers:
    """The published predictions of each file, with the labels of Location30."""
    shuffled = np.load(folder / "data" / "location" / "shuffle_index.npz")["x"]
    if (whole := folder / "data" / "location" / "data_complete.npz").is_file():
        labels = np.load(whole)["y"].astype(np.int64) - 1
    else:
        labels = Location30(root=str(LOCATION30_FOLDER)).load().labels
    parts = {}
    for model, names in (("target", ("in", "out")), ("shadow", ("shadow_in", "shadow_out"))):
        rows = np.load(folder / "saved_predictions" / f"location_{model}_predictions.npz")[output]
        for name in names:
            first, end = PUBLISHED_RANGES[name]
            part, rows = rows[: end - first], rows[end - first :]
            parts[name] = (part, labels[shuffled[first:end]])
        assert len(rows) == 0, f"{model}: {len(rows)} predictions are left"
    return parts


def test_reads_the_published_layout(tmp_path: Path, answers: Answers) -> None:
    """With files of that layout made here, so that the path is known to work where the published ones are not."""
    rng = np.random.default_rng(0)
    folder, shuffled, labels = tmp_path / "MemGuard", rng.permutation(5010), rng.integers(6, size=5010)
    for name in ("data/location", "saved_predictions"):
        (folder / name).mkdir(parents=True)
    np.savez(folder / "data/location/shuffle_index.npz", x=shuffled)
    np.savez(folder / "data/location/data_complete.npz", x=np.zeros((5010, 1)), y=labels + 1.0)
    wanted = {}
    for model, names in (("target", ("in", "out")), ("shadow", ("shadow_in", "shadow_out"))):
        for name in names:
            own = labels[shuffled[slice(*PUBLISHED_RANGES[name])]]
            logits = rng.normal(size=(len(own), 6))
            logits[np.arange(len(own)), own] += own + name.endswith("in") * rng.exponential(size=len(own))
            rows = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            wanted[name] = (rows.astype(np.float32), own)
        rows = np.concatenate([wanted[name][0] for name in names])
        np.savez(folder / f"saved_predictions/location_{model}_predictions.npz", tc_output=rows)
    read = published(folder, "tc_output")
    for name in FILE_NAMES.values():
        for part, expected in zip(read[name], wanted[name], strict=True):
            np.testing.assert_array_equal(part, expected)
    rows = accuracies(read, tmp_path)
    assert float(rows["confidence"]["value"]) > 0.55
