"""Forms of answers and labels: what means one thing only is taken, everything else refused with what to save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.evaluate import evaluate_runs
from palisade.evaluation.subjects.answer_forms import class_numbers, class_scores, named_classes

pytestmark = pytest.mark.usefixtures("undrawn")

CONF_FOLDER = Path(__file__).parents[2] / "conf"
SECOND_SCORES = np.array([0.1, 0.75, 0.5], dtype=np.float32)
BOTH_SCORES = np.array([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("level", "answers", "classes", "expected"),
    [
        ("probabilities", BOTH_SCORES, None, BOTH_SCORES),
        ("probabilities", SECOND_SCORES, None, BOTH_SCORES),
        ("probabilities", SECOND_SCORES[:, None], ("no", "yes"), BOTH_SCORES),
        ("probabilities", SECOND_SCORES.tolist(), None, BOTH_SCORES),
        ("probabilities", np.array([[1.0 + 1e-7, -1e-7]]), None, [[1.0, 0.0]]),
        ("logits", np.array([-2.0, 3.0]), None, [[0.0, -2.0], [0.0, 3.0]]),
        ("logits", np.array([[1, -2, 3]]), None, [[1, -2, 3]]),
        ("predictions", np.array([2, 0]), None, [2, 0]),
        ("predictions", np.array([2.0, 0.0]), None, [2, 0]),
        ("predictions", np.array([[1], [0]]), None, [1, 0]),
        ("predictions", np.array([True, False]), None, [1, 0]),
        ("predictions", np.array([[0, 0, 1], [1, 0, 0]]), None, [2, 0]),
        ("predictions", np.array(["b", "a"]), ("b", "a"), [0, 1]),
        ("predictions", np.array(["b", "a"], dtype=object), ("b", "a"), [0, 1]),
        ("predictions", np.array([3, 5]), ("5", "3"), [1, 0]),
    ],
)
def test_answers_of_one_meaning_have_one_form(level, answers, classes, expected):
    scores = class_scores("x", level, answers, classes)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    if level == "predictions":
        assert scores.dtype == np.int64
    else:
        np.testing.assert_array_equal(class_scores("x", level, scores, classes), scores, err_msg="it stays as it is")


@pytest.mark.parametrize(
    ("level", "answers", "classes", "message"),
    [
        ("probabilities", SECOND_SCORES, ("a", "b", "c"), "of 2 classes, and 3 are named"),
        ("probabilities", BOTH_SCORES > 0.5, None, "are bool of shape .* save predicted classes as predictions"),
        ("probabilities", np.array([0, 1, 1]), None, "are int64 of shape .* save predicted classes as predictions"),
        ("probabilities", SECOND_SCORES * 2, None, r"span 0\.2\.\.1\.5; they lie in 0\.\.1, or save them as logits"),
        ("probabilities", [[0.1, 0.9], [1.0]], None, "no array"),
        ("probabilities", [BOTH_SCORES, BOTH_SCORES], None, r"of shape \(2, 3, 2\)"),
        ("logits", np.zeros((3, 0)), None, "a classifier has at least 2 classes"),
        ("predictions", BOTH_SCORES, None, r"save \(records,\) whole numbers, or scores as probabilities or logits"),
        ("predictions", np.array([0.2, 0.9]), None, r"save \(records,\) whole numbers"),
        ("predictions", np.array([[1, 1], [0, 1]]), None, r"are int64 of shape \(2, 2\)"),
        ("predictions", np.array(["a", "c"]), ("a", "b"), "label c is no class; choose of a, b"),
        ("predictions", np.array(["a", "b"]), None, r"name it, such as classes=\[no,yes\]"),
    ],
)
def test_answers_of_no_or_several_meanings_are_refused(level, answers, classes, message):
    with pytest.raises(ValueError, match=rf"^in\.npz: .*{message}") as error:
        class_scores("in.npz", level, answers, classes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([0, 2], None, [0, 2]),
        ([0.0, 2.0], None, [0, 2]),
        ([True, False], None, [1, 0]),
        (["0", "2.0"], None, [0, 2]),
        (["True", "false"], None, [1, 0]),
        ([[0, 1, 0], [1, 0, 0]], None, [1, 0]),
        ([[0.0, 1.0], [1.0, 0.0]], ("5", "7"), [1, 0]),
        ([[False, True], [True, False]], None, [1, 0]),
        ([[1], [0]], None, [1, 0]),
        ([1, 2], ("1", "2"), [0, 1]),
        ([1, 2], ("2", "1"), [1, 0]),
        ([1.0, 2.0], ("1", "2"), [0, 1]),
        (["1", "2"], ("1.0", "2.0"), [0, 1]),
        (["no", "yes"], ("yes", "no"), [1, 0]),
        ([0, 1], ("yes", "no"), [0, 1]),
        ([True, False], ("False", "True"), [1, 0]),
        ([True, False], ("True", "False"), [0, 1]),
        (["True", "False"], ("0", "1"), [1, 0]),
        ([0, 1], ("True", "False"), [1, 0]),
        ([1.0, 0.0], ("False", "True"), [1, 0]),
        ([-1, 1], ("-1", "1"), [0, 1]),
    ],
)
def test_labels_of_one_meaning_are_class_numbers(labels, classes, expected):
    numbers = class_numbers("x", np.array(labels), classes)
    assert numbers.tolist() == expected and numbers.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 1], ("1", "2"), "label 0 is no class; choose of 1, 2"),
        ([0, 2], ("yes", "no"), r"labels=0\.\.2; they must be from 0 on and at most 1"),
        ([0.5, 1.0], None, "labels are float64 .* save one whole number, truth value or word"),
        ([0.0, np.nan], None, "labels are float64"),
        ([[1, 0, 0], [0, 1, 0]], ("yes", "no"), "one-hot labels of 3 classes, and 2 are named"),
        ([[1, 1], [0, 1]], None, r"labels are int64 of shape \(2, 2\); .* or one-hot"),
        (["maybe", "True"], None, "labels are words, and nothing says in which order"),
        ([2**63], None, "label 9223372036854775808 is no class"),
    ],
)
def test_labels_of_no_or_several_meanings_are_refused(labels, classes, message):
    dtype = np.uint64 if labels == [2**63] else None
    with pytest.raises(ValueError, match=rf"^in\.npz: {message}") as error:
        class_numbers("in.npz", np.array(labels, dtype=dtype), classes)
    assert "\n" not in str(error.value)


def test_classes_are_at_least_two_and_each_once():
    assert named_classes("classes", None) is None
    assert named_classes("classes", np.array([False, True])) == ("False", "True")
    for wrong in ("no", ["a"], [1, 1.0], [True, "true"], [["a"], ["b"]], 5, {"a": 1}):
        with pytest.raises(ValueError, match=r"^classes=.*: expected at least 2 classes, each once"):
            named_classes("classes", wrong)


def audited(folder: str, *overrides: str) -> dict[str, Any]:
    words = ("audit=outputs", "members=in.npz", "nonmembers=out.npz", "attack=[loss]", f"name={folder}", *overrides)
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("evaluate", list(words)), resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py"})
    return json.loads(Path(f"reports/{folder}/report.json").read_text())


def test_an_audit_says_the_same_of_one_probability_and_of_two_by_any_kind_of_label(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sides = {name: (rng.beta(1, leak, 120), rng.integers(2, size=120)) for name, leak in (("in", 4), ("out", 1))}

    def rows_of(folder: str, form: Any, *overrides: str) -> Any:
        for name, (wrong, label) in sides.items():
            second = np.where(label == 1, 1 - wrong, wrong)
            np.savez(f"{name}.npz", **form(second, label))
        return [(row["metric"], row["group"], row["value"]) for row in audited(folder, *overrides)["rows"]]

    expected = rows_of("two", lambda p, y: {"probabilities": np.stack([1 - p, p], axis=1), "labels": y})
    assert any(metric == "auc" and value > 0.75 for metric, _, value in expected)
    words = np.array(["no", "yes"])
    rows = rows_of("one", lambda p, y: {"probabilities": p, "labels": words[y], "classes": words})
    assert rows == expected and "read as that of class yes" in Path("reports/one/report.html").read_text()
    assert "read as that of" not in Path("reports/two/report.html").read_text()
    for folder, form, extra in (
        ("column", lambda p, y: {"probabilities": p[:, None], "labels": np.eye(2)[y]}, ()),
        ("float", lambda p, y: {"probabilities": p, "labels": y.astype(float)}, ()),
        ("truth", lambda p, y: {"probabilities": p, "labels": y == 1}, ()),
        ("named", lambda p, y: {"probabilities": p, "labels": words[y]}, ("classes=[no,yes]",)),
    ):
        assert rows_of(folder, form, *extra) == expected
    for form, extra, message in (
        (lambda p, y: {"probabilities": p, "labels": y + 1}, (), "one number a record, and labels name 3 classes"),
        (lambda p, y: {"logits": np.stack([1 - p, p], 1), "labels": y}, (), "in.npz: logits lie in 0..1 and sum to 1"),
        (lambda p, y: {"probabilities": p, "labels": words[y]}, (), "such as classes="),
        (lambda p, y: {"probabilities": p, "labels": y}, ("classes=no",), "^classes=no: expected at least 2 classes"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            rows_of("refused", form, *extra)
        assert "\n" not in str(error.value) and not Path("reports/refused").exists()
    np.savez("in.npz", probabilities=sides["in"][0], labels=words[sides["in"][1]], classes=words)
    np.savez("out.npz", probabilities=sides["out"][0], labels=words[sides["out"][1]], classes=words[::-1])
    with pytest.raises(ValueError, match=r"members=in\.npz and nonmembers=out\.npz name the classes no,yes and yes,no"):
        audited("refused")
