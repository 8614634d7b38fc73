"""Models of others: scikit-learn, XGBoost and LightGBM by a function, skops and ONNX files, pickles refused."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import call
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from palisade.evaluate import evaluate_runs
from palisade.evaluation.subjects.model_file import of_file
from palisade.evaluation.subjects.raw_rows import aligned, with_raw_rows
from palisade.evaluation.subjects.saved_records import read

pytestmark = pytest.mark.usefixtures("undrawn")

CONF_FOLDER = Path(__file__).parents[2] / "conf"
SIDE_SETTINGS = ("members=in.csv", "nonmembers=out.csv", "label=income")
SIDE_RECORDS = 150


def audited(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("evaluate", [*overrides, "attack=[loss]"]), resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py " + " ".join(overrides)})
    (report,) = Path("reports").glob("*/report.json")
    return json.loads(report.read_text())


def auc_of(report: dict[str, Any]) -> float:
    keys = {"metric": "auc", "attack": "loss", "group": "all"}
    (value,) = [row["value"] for row in report["rows"] if keys.items() <= row.items()]
    return float(value)


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Raw rows with words, numbers, truth values and gaps, whose label is a coin toss: the first 150 are members."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "job": rng.choice(["clerk", "nurse", "pilot"], 2 * SIDE_RECORDS),
            "age": rng.integers(18, 80, 2 * SIDE_RECORDS),
            "wage": rng.normal(size=2 * SIDE_RECORDS).round(4),
            "married": rng.choice([True, False], 2 * SIDE_RECORDS),
        }
    )
    frame.loc[3, "wage"] = np.nan
    frame["income"] = rng.choice(["low", "high"], 2 * SIDE_RECORDS)
    return written(frame)


def written(frame: pd.DataFrame) -> pd.DataFrame:
    frame[:SIDE_RECORDS].to_csv("in.csv", index=False)
    frame[SIDE_RECORDS:].to_csv("out.csv", index=False)
    return pd.read_csv("in.csv")


def provide(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
    module = ModuleType("my_module")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "my_module", module)


def pipeline(model: Any) -> Any:
    return make_pipeline(
        make_column_transformer((OneHotEncoder(), ["job"]), remainder="passthrough"),
        model,
    )


def forest() -> Any:
    return RandomForestClassifier(20, bootstrap=False, random_state=0)


def boosted_by_xgboost() -> Any:
    return pytest.importorskip("xgboost", reason="needs xgboost").XGBClassifier(
        n_estimators=60, max_depth=8, n_jobs=1, reg_lambda=0
    )


def boosted_by_lightgbm() -> Any:
    lightgbm = pytest.importorskip("lightgbm", reason="needs lightgbm")
    return lightgbm.LGBMClassifier(n_estimators=60, min_child_samples=2, n_jobs=1, verbose=-1)


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (forest, {"low": "low", "high": "high"}),
        (forest, {"low": 1, "high": 2}),
        (forest, {"low": 0.0, "high": 1.0}),
        (forest, {"low": True, "high": False}),
        (boosted_by_xgboost, {"low": 0, "high": 1}),
        (boosted_by_lightgbm, {"low": "low", "high": "high"}),
    ],
)
def test_a_pipeline_is_asked_about_raw_rows_whatever_its_labels_are(people, monkeypatch, make, labels):
    frame = pd.concat([pd.read_csv("in.csv"), pd.read_csv("out.csv")], ignore_index=True)
    members = written(frame.assign(income=frame["income"].map(labels)))
    fitted = pipeline(make()).fit(members.drop(columns="income"), members["income"])
    provide(monkeypatch, load=lambda: fitted)
    report = audited("audit=model", "model=my_module.load", *SIDE_SETTINGS)
    rows = frame.drop(columns="income")
    true = np.array([list(fitted.classes_).index(labels[word]) for word in frame["income"]])
    right = fitted.predict_proba(rows)[np.arange(len(rows)), true]
    expected = roc_auc_score(np.arange(len(rows)) < SIDE_RECORDS, right)
    assert auc_of(report) == pytest.approx(expected, abs=0.005) and expected > 0.75
    assert report["what"].startswith("model my_module.load: 150 members, 150 non-members, answers: probabilities")


def test_columns_have_the_types_that_pandas_reads_from_all_files_together(people, monkeypatch):
    seen = []

    def predict(rows: pd.DataFrame) -> np.ndarray:
        seen.append(rows)
        return np.full((len(rows), 2), 0.5)

    others = pd.read_csv("out.csv").assign(age=lambda rows: rows["age"] + 0.5)
    others[["income", *others.columns[:-1][::-1]]].to_csv("out.csv", index=False)
    provide(monkeypatch, load=lambda: predict)
    audited("audit=model", "model=my_module.load", "classes=[low,high]", *SIDE_SETTINGS)
    one, other = seen
    pd.testing.assert_frame_equal(one, people.drop(columns="income").astype({"age": float}))
    pd.testing.assert_frame_equal(other, others[one.columns])


def test_an_endpoint_and_records_in_question_are_asked_about_raw_rows(people, monkeypatch):
    fitted = pipeline(forest()).fit(people.drop(columns="income"), people["income"])
    provide(monkeypatch, predict=lambda rows: fitted.predict_proba(rows)[:, 1], load=lambda: fitted)
    words = ("audit=endpoint", "endpoint=my_module.predict", "classes=[high,low]", *SIDE_SETTINGS)
    assert auc_of(audited(*words)) > 0.9
    people[:40].to_csv("mine.csv", index=False)
    words = ("audit=records", "records=mine.csv", "nonmembers=out.csv", "label=income", "name=records")
    for subject in ("model=my_module.load", "endpoint=my_module.predict"):
        shutil.rmtree("reports")
        classes = ["classes=[high,low]"] if subject.startswith("endpoint") else []
        report = audited(*words, subject, *classes)
        assert report["records"] == 40 and float(report["all_together"]["p"]) < 1e-3


def test_columns_in_another_order_are_those_of_the_first_file(people):
    others = pd.read_csv("out.csv")
    others[["wage", "income", "age", "married", "job"]].to_csv("out.csv", index=False)
    sides = aligned({key: read(key, f"{key}.csv", "income") for key in ("in", "out")})
    assert [list(saved.rows) for saved in sides.values()] == [["job", "age", "wage", "married"]] * 2
    assert sides["out"].rows["wage"].astype(float).tolist() == others["wage"].tolist()


def test_a_saved_array_beside_a_table_is_refused(people, monkeypatch):
    provide(monkeypatch, load=lambda: lambda rows: np.full((len(rows), 2), 0.5))
    np.savez("out.npz", features=np.zeros((20, 4)), labels=np.zeros(20, dtype=int))
    with pytest.raises(ValueError, match=r"nonmembers=out\.npz holds an array and members=in\.csv a table; save both"):
        audited("audit=model", "model=my_module.load", *SIDE_SETTINGS, "nonmembers=out.npz")


def test_names_of_columns_and_classes_are_those_of_the_model(people, monkeypatch):
    own = people[["wage", "age"]].fillna(0.0)
    coded = (people["income"] == "low").astype(int)  # high is 0, as the alphabet has it
    provide(monkeypatch, load=lambda: DecisionTreeClassifier(random_state=0).fit(own, coded))
    for name in ("in", "out"):
        pd.read_csv(f"{name}.csv").fillna(0.0).to_csv(f"{name}.csv", index=False)
    words = ("audit=model", "model=my_module.load", *SIDE_SETTINGS)
    with pytest.raises(ValueError, match=r"label (low|high) is no class; choose of 0, 1"):
        audited(*words)
    assert auc_of(audited(*words, "classes=[high,low]")) > 0.7, "all members right, others half"
    with pytest.raises(ValueError, match=r"^classes=\['1', '0'\]: expected null, as model=my_module.load names 0, 1"):
        audited(*words, "classes=[1,0]")
    people.drop(columns="age").to_csv("in.csv", index=False)
    with pytest.raises(ValueError, match=r"column age is in only one of it and members=in\.csv"):
        audited(*words, "classes=[high,low]")


def test_a_model_that_was_fitted_on_an_array_gets_numbers(people, monkeypatch):
    rows = people[["age", "wage"]].fillna(0.0)
    rows.assign(income=people["income"]).to_csv("in.csv", index=False)
    pd.read_csv("out.csv")[["age", "wage", "income"]].fillna(0.0).to_csv("out.csv", index=False)
    provide(monkeypatch, load=lambda: forest().fit(rows.to_numpy(), people["income"]))
    assert auc_of(audited("audit=model", "model=my_module.load", *SIDE_SETTINGS)) > 0.9


@pytest.mark.parametrize(
    ("load", "extra", "message"),
    [
        (lambda: 1 / 0, (), r"^model=my_module\.load: expected a function that returns a model \(ZeroDivisionError: "),
        (lambda: 5, (), r"expected an object with predict_proba, or a function of rows, not int"),
        (DecisionTreeClassifier, ("classes=[low,high]",), r"answers to a DataFrame of 150 rows .*\(NotFitted"),
        (LinearSVC, (), r"expected predict_proba for answers=probabilities, .*; set answers=logits or answers=pred"),
        (forest, ("answers=scores",), r"^answers=scores: expected one of logits, probabilities, predictions"),
        (forest, ("classes=[low]",), r"^classes=\['low'\]: expected at least 2 classes, each once"),
        (forest, ("classes=[low,low]",), r"^classes=\['low', 'low'\]: expected at least 2 classes, each once"),
        (lambda: lambda rows: [[0.5, 0.5]], ("classes=[low,high]",), r"1 answers about 150 rows; let it give one"),
        (lambda: lambda rows: np.ones((len(rows), 3)) / 3, ("classes=[low,high]",), "are of 3 classes, and 2 are"),
        (lambda: lambda rows: np.ones((len(rows), 2)) / 2, (), "labels are words, and nothing says in which order"),
        (lambda: lambda rows: [None] * len(rows), ("classes=[low,high]",), r"are object of shape \(150,\)"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_in_one_line_and_leaves_nothing(people, monkeypatch, load, extra, message):
    provide(monkeypatch, load=load)
    with pytest.raises(ValueError, match=message) as error:
        audited("audit=model", "model=my_module.load", *extra, *SIDE_SETTINGS)
    assert "\n" not in str(error.value) and not Path("reports").exists()


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pkl.gz", "model.PT"])
def test_a_pickle_is_never_read_and_three_ways_out_are_named(people, name):
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("exploded"),)

    Path(name).write_bytes(pickle.dumps(Bomb()))
    done = call("evaluate.py", "audit=model", f"model={name}", *SIDE_SETTINGS, folder=Path())
    assert (done.returncode, done.stdout) == (2, "")
    assert not Path("exploded").exists() and not Path("reports").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: model={name}: expected no pickle")
    assert all(way in line for way in ("model=my_module.load", "skops.io.dump", "audit=outputs"))


def test_a_skops_file_is_read_if_skops_trusts_all_its_types(people):
    skops = pytest.importorskip("skops.io", reason="needs the extra skops")
    for name in ("in", "out"):
        pd.read_csv(f"{name}.csv").fillna(0.0).to_csv(f"{name}.csv", index=False)
    rows = people.drop(columns="income").fillna(0.0)
    nearest = pipeline(KNeighborsClassifier(1, algorithm="brute"))
    skops.dump(nearest.fit(rows, people["income"]), "mine.skops")
    assert auc_of(audited("audit=model", "model=mine.skops", *SIDE_SETTINGS)) > 0.7, "all members right, others half"
    skops.dump(pipeline(forest()).fit(rows, people["income"]), "other.skops")
    Path("torn.skops").write_bytes(Path("mine.skops").read_bytes()[:500])
    for name, message in (
        (
            "other",
            r"expected types that skops trusts, not sklearn\.tree\._tree\.Tree; load it by a function",
        ),
        ("torn", r"expected a file that skops wrote \(.*\); save it by skops\.io\.dump"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            of_file(f"{name}.skops", {}, None)
        assert "\n" not in str(error.value)


def test_what_is_not_installed_is_named(people, monkeypatch):
    for ending, package in (("skops", "skops.io"), ("onnx", "onnxruntime")):
        Path(f"a.{ending}").write_bytes(b"nonsense")
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ValueError, match=rf"pip install -e '\.\[{ending}\]'"):
            of_file(f"a.{ending}", {}, None)


@pytest.mark.parametrize("zipmap", [True, False])
def test_an_onnx_file_of_scikit_learn_with_and_without_a_map_of_classes(people, zipmap):
    skl2onnx = pytest.importorskip("skl2onnx", reason="needs skl2onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    rows = people[["age", "wage"]].fillna(0.0).to_numpy(np.float32)
    model = forest().fit(rows, people["income"])
    content = skl2onnx.to_onnx(model, rows[:1], options=None if zipmap else {id(model): {"zipmap": False}})
    Path("mine.onnx").write_bytes(content.SerializeToString())
    classes = None if zipmap else ("high", "low")
    asked = of_file("mine.onnx", {}, None, classes)
    assert asked.classes == ("high", "low") and asked.answers == "probabilities"
    np.testing.assert_allclose(asked.answer(rows), model.predict_proba(rows), atol=1e-5)
    chosen = of_file("mine.onnx", {}, "predictions", ("high", "low"))
    np.testing.assert_array_equal(chosen.answer(rows), (model.predict(rows) == "low").astype(int))
    for name in ("in", "out"):
        pd.read_csv(f"{name}.csv")[["age", "wage", "income"]].fillna(0.0).to_csv(f"{name}.csv", index=False)
    assert auc_of(audited("audit=model", "model=mine.onnx", "classes=[high,low]", *SIDE_SETTINGS)) > 0.9


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("name", ["scores", "probabilities"])
def test_an_onnx_file_of_a_network_of_any_or_a_fixed_batch_size(people, size, name):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    weights = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "w"], ["logits" if name == "probabilities" else name]),
            *([onnx.helper.make_node("Softmax", ["logits"], [name])] if name == "probabilities" else []),
        ],
        "net",
        [onnx.helper.make_tensor_value_info("x", kind, [size, 5])],
        [onnx.helper.make_tensor_value_info(name, kind, [size, 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), "net.onnx")
    rows = np.random.default_rng(2).normal(size=(7, 5))
    model, logits = of_file("net.onnx", {}, None), rows @ weights
    assert model.answers == ("probabilities" if name == "probabilities" else "logits") and model.takes_inputs
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) if name == "probabilities" else logits
    np.testing.assert_allclose(model.answer(rows), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"^model=net\.onnx: expected answers to float64 of shape \(7, 2\)") as error:
        model.answer(rows[:, :2])
    assert "\n" not in str(error.value)
    Path("net.onnx").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"^model=net\.onnx: expected an ONNX model ") as error:
        of_file("net.onnx", {}, None)
    assert "\n" not in str(error.value)


def test_an_onnx_file_with_an_input_for_each_column(people):
    skl2onnx = pytest.importorskip("skl2onnx", reason="needs skl2onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    rows = people[["job", "age"]]
    encode = make_column_transformer((OneHotEncoder(), ["job", "age"]))
    model = make_pipeline(encode, DecisionTreeClassifier(random_state=0)).fit(rows, people["income"])
    text, whole = (getattr(skl2onnx.common.data_types, f"{kind}TensorType")([None, 1]) for kind in ("String", "Int64"))
    content = skl2onnx.convert_sklearn(model, initial_types=[("job", text), ("age", whole)])
    Path("mine.onnx").write_bytes(content.SerializeToString())
    asked, sides = with_raw_rows(
        of_file("mine.onnx", {}, None), aligned({"members": read("members", "in.csv", "income")})
    )
    assert not asked.takes_inputs
    np.testing.assert_allclose(asked.answer(sides["members"].rows), model.predict_proba(rows), atol=1e-6)
    with pytest.raises(ValueError, match=r"expected a table with columns job, age, one for each input; give \.csv"):
        asked.answer(np.zeros((3, 2)))


def test_raw_rows_are_coded_so_that_what_differs_stays_apart(people):
    model, sides = with_raw_rows(
        of_file_of_nothing(), aligned({key: read(key, f"{key}.csv", "income") for key in ("in", "out")})
    )
    coded = [model.inputs(saved.rows) for saved in sides.values()]
    assert coded[0].shape == (150, 5) and np.isfinite(np.concatenate(coded)).all(), "a column more for gaps in wage"
    assert coded[0][3, 3] == 1 and coded[0][:, 3].sum() == 1
    jobs = np.concatenate([saved.rows["job"] for saved in sides.values()])
    np.testing.assert_array_equal(np.concatenate(coded)[:, 0], np.unique(jobs, return_inverse=True)[1])


def of_file_of_nothing() -> Any:
    from palisade.evaluation.subjects.estimator import of_estimator

    return of_estimator("model=my_module.load", lambda rows: rows, None, None)
