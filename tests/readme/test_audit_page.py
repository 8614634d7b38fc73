"""Code of docs/audit.md: models of other libraries, each asked as its five lines say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sklearn.tree import DecisionTreeClassifier

from palisade.evaluate import evaluate_runs
from palisade.evaluation.subjects.saved_records import read

pytestmark = pytest.mark.usefixtures("undrawn")

REPOSITORY_ROOT = Path(__file__).parents[2]
AUDIT_PAGE = (REPOSITORY_ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
BY_SKLEARN, BY_KERAS, BY_TRANSFORMERS = re.findall(r"```python\n(.*?)```", AUDIT_PAGE, re.DOTALL)
(AUDIT_COMMAND,) = re.findall(r"`PYTHONPATH=\. python evaluate\.py (.*?)`", AUDIT_PAGE)


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(size=100).round(6), "wage": rng.normal(size=100).round(6)})
    frame["income"] = rng.choice(["no", "yes"], 100)
    frame[:50].to_csv("in.csv", index=False)
    frame[50:].to_csv("out.csv", index=False)
    return frame[:50]


def audited(*overrides: str) -> str:
    """The subject of the page after the command, with `my_module.py` of this folder."""
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        node = compose("evaluate", [*AUDIT_COMMAND.split(), "attack=quick", *overrides])
        settings: Any = OmegaConf.to_container(node, resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py"})
    return json.loads(Path("reports/audit_model/report.json").read_text())["what"]


def test_a_pickled_model_of_scikit_learn_is_loaded_by_the_users_own_function(people: pd.DataFrame) -> None:
    model = DecisionTreeClassifier(random_state=0).fit(people[["age", "wage"]], people["income"])
    joblib.dump(model, "pipeline.joblib")
    Path("my_module.py").write_text(BY_SKLEARN)
    assert audited().startswith("model my_module.load: 50 members, 50 non-members, answers: probabilities")


def test_a_keras_model_is_asked_by_a_function_of_rows(people: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="needs keras, which no extra installs")
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, activation="sigmoid")])
    model.save("mine.keras")
    Path("my_module.py").write_text(BY_KERAS)
    assert audited("classes=[no,yes]").startswith("model my_module.load: 50 members")


def test_answers_of_a_hugging_face_model_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, which no extra installs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("words.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]))
    transformers.BertTokenizerFast(vocab_file="words.txt").save_pretrained("mine")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    named = {"id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}}
    config = transformers.BertConfig(vocab_size=8, **sizes, **named)
    network = transformers.BertForSequenceClassification(config)
    network.save_pretrained("mine")
    exec(BY_TRANSFORMERS, {"texts": ["good film", "bad film", "bad"] * 4, "labels": ["yes", "no", "no"] * 4})
    saved = read("members", "in.npz")
    assert saved.classes == ("no", "yes") and saved.numbered(saved.classes).tolist() == [1, 0, 0] * 4
    np.testing.assert_allclose(np.sum(saved.answers["probabilities"], axis=1), 1, atol=1e-6)
