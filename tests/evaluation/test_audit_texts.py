"""Audits of language models: saved log-probabilities, a real server, documents in question."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import commands_of
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.attacks import LossThreshold, TokenAnswers, View
from palisade.data.sequences import LEAST_LOGPROB
from palisade.evaluate import evaluate_runs
from palisade.evaluation.measuring.baselines import blind_test, distinct_texts
from palisade.evaluation.record_test import ask_records
from palisade.evaluation.statistics.dataset_inference import weighed
from palisade.evaluation.subjects.answers import order_of
from palisade.evaluation.subjects.completions import Completions
from palisade.evaluation.subjects.local_texts import LocalModel
from palisade.evaluation.subjects.texts import word_counts
from palisade.targets.release import Release

pytestmark = pytest.mark.usefixtures("undrawn")

REPOSITORY_ROOT = Path(__file__).parents[2]
WORD_LIST = [
    *("night", "river", "stone", "garden", "letter", "window", "silver", "captain", "winter", "street", "music"),
    *("doctor", "mirror", "forest", "harbor", "secret", "candle", "shadow", "bridge", "summer", "voice", "island"),
]
OTHER_WORDS = ["server", "kernel", "packet", "socket", "thread", "buffer", "cursor", "python", "module", "router"]


def documents(seed: int, count: int, words: list[str] = WORD_LIST) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, size=rng.integers(6, 12))) for _ in range(count)]


USED_TEXTS, UNUSED_TEXTS, PUBLIC_TEXTS = documents(0, 40), documents(1, 60), documents(2, 120)


def run(*overrides: str) -> None:
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("evaluate", list(overrides)), resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py " + " ".join(overrides)})


def write_csv(path: Path, texts: list[str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["story"], *([text] for text in texts)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "base.txt").write_text("\n".join(PUBLIC_TEXTS))
    (folder / "members.txt").write_text("\n".join(USED_TEXTS))
    script = Path(__file__).with_name("completions_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "base.txt"), str(folder / "members.txt")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1/completions"
    process.terminate()
    process.wait()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "in.csv", USED_TEXTS)
    write_csv(tmp_path / "out.csv", UNUSED_TEXTS)
    write_csv(tmp_path / "other.csv", documents(3, 40, OTHER_WORDS))
    write_csv(tmp_path / "unused.csv", documents(4, 40))
    return tmp_path


ASK_OVERRIDES = ("answers=token_logprobs", "text=story", "served_model=tuned", "base_model=base")


def test_a_server_is_attacked_by_what_it_says_of_tokens(
    server: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("audit=endpoint", f"endpoint={server}", *ASK_OVERRIDES, "members=in.csv", "nonmembers=out.csv")
    report = json.loads((files / "reports" / "audit_endpoint" / "report.json").read_text())
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((files / "reports" / "audit_endpoint" / "results.csv").open()))
    auc = {row["attack"]: float(row["value"]) for row in rows if row["metric"] == "auc" and row["group"] == "all"}
    assert auc["loss"] > 0.95 and auc["base_difference"] > 0.8 and auc["error_zone"] > 0.8
    assert auc["blind_baseline"] < 0.65
    assert {"zlib", "min_k", "error_zone"} < auc.keys()
    skipped = report["skipped"]
    assert "one at every position" in skipped["correctness"] and "vocabulary" in skipped["sharpness"]
    assert "token_rmia" in skipped and "shadow" in skipped["token_rmia"]
    assert "skipped" in printed
    answers = list((files / "reports" / "audit_endpoint").glob("answers-*.jsonl"))
    assert len(answers[0].read_text().splitlines()) == len({*USED_TEXTS, *UNUSED_TEXTS})


def test_documents_that_were_used_are_named(server: str, files: Path) -> None:
    for name, records in (("used", "in"), ("unused", "unused")):
        run("audit=records", f"endpoint={server}", *ASK_OVERRIDES, f"records={records}.csv", "nonmembers=out.csv",
            f"name={name}")  # fmt: skip
    used, unused = (json.loads((files / "reports" / name / "report.json").read_text()) for name in ("used", "unused"))
    assert used["all_together"]["p"] < 1e-3 and used["dataset_inference"]["p"] < 1e-3
    assert used["named"]["benjamini_hochberg"] > 15 and not used["no_verdict"]
    assert unused["named"]["holm"] == 0 and unused["dataset_inference"]["p"] > 0.01


def test_documents_that_differ_by_themselves_get_no_verdict(server: str, files: Path) -> None:
    """The blind baseline goes first: it told members from non-members on every public benchmark."""
    run("audit=records", f"endpoint={server}", *ASK_OVERRIDES, "records=other.csv", "nonmembers=out.csv", "name=other")
    report = json.loads((files / "reports" / "other" / "report.json").read_text())
    assert report["no_verdict"] and report["flags"][0]["name"] == "different records"
    page = (files / "reports" / "other" / "report.html").read_text()
    assert "No verdict" in page and "more than chance explains" not in page


def saved(path: Path, log_p: np.ndarray, **more: np.ndarray) -> None:
    np.savez(path, token_logprobs=log_p, **more)


@pytest.fixture
def arrays(files: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, gain in (("in", 0.7), ("out", 0.0)):
        lengths = rng.integers(5, 20, 60)
        mask = np.arange(21) < lengths[:, None] + 1
        base = -rng.exponential(3, (60, 21))
        log_p = np.minimum(base + gain * rng.exponential(size=base.shape) + rng.normal(0, 0.2, base.shape), 0)
        log_p[:, 0] = np.nan
        nan = np.where(mask, 1.0, np.nan)
        texts = np.array([f"text {number} {rng.random()}" for number in range(60)])
        saved(files / f"{name}.npz", log_p * nan, base_logprobs=np.where(np.isnan(log_p), np.nan, base) * nan,
              texts=texts)  # fmt: skip
    return files


def test_saved_log_probabilities_are_attacked(arrays: Path) -> None:
    run("audit=outputs", "members=in.npz", "nonmembers=out.npz")
    rows = list(csv.DictReader((arrays / "reports" / "audit_outputs" / "results.csv").open()))
    auc = {row["attack"]: float(row["value"]) for row in rows if row["metric"] == "auc" and row["group"] == "all"}
    assert auc["base_difference"] > 0.95 > 0.8 > auc["loss"] > 0.5
    report = json.loads((arrays / "reports" / "audit_outputs" / "report.json").read_text())
    assert "most likely token" in report["skipped"]["error_zone"]


def test_saved_log_probabilities_answer_about_documents(arrays: Path) -> None:
    run("audit=records", "records=in.npz", "nonmembers=out.npz",
        "threat.audit._target_=palisade.attacks.BaseDifference")  # fmt: skip
    report = json.loads((arrays / "reports" / "audit_records" / "report.json").read_text())
    assert report["all_together"]["p"] < 1e-6 and report["named"]["benjamini_hochberg"] > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_logprobs": np.ones((60, 3))}, r"members=in\.npz: tokens\.log_probabilities: expected finite numbers"),
        ({"token_logprobs": -np.ones(60)}, r"members=in\.npz: token_logprobs are float64 of shape \(60,\)"),
        ({"base_logprobs": -np.ones((60, 4))}, r"base_logprobs have shape \(60, 4\); save \(60, 3\)"),
        ({"texts": np.array(["a"] * 59)}, r"texts have shape \(59,\); there are 60 of token_logprobs"),
        ({"texts": np.arange(60)}, r"texts are int64; save words"),
        ({"base_logprobs": np.full((60, 3), np.nan)}, r"base_logprobs have values at other places"),
    ],
)  # fmt: skip
def test_refuses_arrays_that_are_wrong(files: Path, change: dict[str, np.ndarray], message: str) -> None:
    plain = {"token_logprobs": -np.random.default_rng(0).random((60, 3))}
    np.savez(files / "out.npz", **plain)
    np.savez(files / "in.npz", **plain | change)
    with pytest.raises(ValueError, match=message):
        run("audit=outputs", "members=in.npz", "nonmembers=out.npz")


def test_examples_of_the_page_run(server: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY_ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
    code, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "language_models.md", "exec"), {})
    assert capsys.readouterr().out == "True (8, 200)\n"
    commands = commands_of(REPOSITORY_ROOT / "docs" / "language_models.md")
    ((_, script, *words),) = [command for command in commands if "audit=records" in command]
    assert script == "evaluate.py"
    own = {"endpoint": server, "text": "story", "records": "in.csv", "nonmembers": "out.csv", "base_model": "base"}
    run(*(f"{key}={own.get(key, value)}" for key, _, value in (word.partition("=") for word in words)))
    assert (files / "reports" / "audit_records" / "report.html").exists()


def test_an_endpoint_that_does_not_speak_the_form_is_said_so(server: str, files: Path) -> None:
    import pandas as pd

    rows = pd.DataFrame({"text": ["one", "two"]})
    with pytest.raises(ValueError, match=r"endpoint=http.*: expected HTTP 200, not 404"):
        Completions(endpoint=server, served_model="another").ask(rows)
    with pytest.raises(ValueError, match=r"endpoint=my\.function: expected a URL with answers=token_logprobs"):
        Completions(endpoint="my.function")
    answers = Completions(endpoint=server, served_model="tuned").ask(rows)
    assert [len(answer["token_logprobs"]) for answer in answers] == [2, 2]
    assert [len(answer["token_greedy"]) for answer in answers] == [2, 2]


def test_dataset_inference_keeps_its_level_and_its_halves_whole() -> None:
    """Sets of documents of which none was used: the test errs about as often as it says."""
    from palisade.evaluation.record_test import of_all

    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        halves = weighed(rng.normal(size=(120, 12)), np.arange(120) < 60, seed=seed)
        assert len(halves.scores) == len(halves.nonmembers) == 30
        wrong += of_all(halves.scores, halves.nonmembers, seed).p <= 0.05 if seed < 20 else 0
    assert wrong <= 4
    persons = np.repeat(np.arange(24), 5)
    features = np.eye(24)[persons]
    halves = weighed(features, np.arange(120) < 60, persons)
    assert len(halves.scores) % 5 == 0


def test_weighing_on_the_documents_that_are_tested_would_find_use_in_noise() -> None:
    rng, errors, elsewhere = np.random.default_rng(0), 0, 0
    for _ in range(20):
        features, asked = rng.normal(size=(120, 40)), np.arange(120) < 60
        x = features - features.mean(axis=0)
        scores = x @ np.linalg.solve(x.T @ x, x.T @ (asked - 0.5))
        errors += surprise(scores[asked], scores[~asked]) > 1.65
        elsewhere += surprise(*weighed(features, asked)) > 1.65
    assert errors >= 18 and elsewhere <= 4


def surprise(scores: np.ndarray, nonmembers: np.ndarray) -> float:
    """Difference of the means in standard errors."""
    both = np.concatenate([scores, nonmembers])
    return float((scores.mean() - nonmembers.mean()) / np.sqrt(both.var() * 4 / len(both)))


# Models on this machine.


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the documents that were used, and its release."""
    from commands import call

    folder = tmp_path_factory.mktemp("local")
    (folder / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in USED_TEXTS + PUBLIC_TEXTS[:20]))
    (folder / "runs").mkdir()
    sizes = ("network=gpt", "network.width=32", "network.depth=1", "network.heads=2")
    done = call(
        "train.py", "data=documents", "data.path=own.jsonl", "data.length=32", *sizes,
        "split.pool=54", "split.population=0",
        "trainer.epochs=40", "trainer.batch_size=10", "trainer.optimizer.lr=5e-3", "fleet.models=1", "quiet=true",
        "membership.how=fixed", "membership.share=1", "secret=local", folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run_folder,) = folder.glob("runs/own/*")
    done = call("train.py", f"ship={run_folder}", "ship_unaudited=true", "secret=shipped", "quiet=true", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", ["release", "model"])
def test_a_model_of_this_machine_answers_about_documents(
    local: Path, files: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (place,) = local.glob("released/*" if kind == "release" else "runs/own/*")
    run("audit=records", f"{kind}={place}", "text=story", "records=in.csv", "nonmembers=out.csv", "name=own")
    report = json.loads((files / "reports" / "own" / "report.json").read_text())
    assert report["all_together"]["p"] < 1e-2 and report["dataset_inference"]["p"] < 0.1 and not report["no_verdict"]


def test_all_attacks_without_shadows_run_on_a_model_of_this_machine(local: Path, files: Path) -> None:
    (place,) = local.glob("released/*")
    run("audit=model", f"release={place}", f"base_model={place}", "text=story", "members=in.csv", "nonmembers=out.csv")
    rows = list(csv.DictReader((files / "reports" / "audit_model" / "results.csv").open()))
    auc = {row["attack"]: float(row["value"]) for row in rows if row["metric"] == "auc" and row["group"] == "all"}
    assert {"loss", "zlib", "min_k_plus", "sharpness", "error_zone", "windows"} <= auc.keys()
    assert auc["loss"] > 0.65 and auc["base_difference"] == 0.5  # the base is the model itself


@pytest.fixture(scope="module")
def filtered(local: Path) -> Path:
    """The release behind a filter of n-grams."""
    from commands import call

    (run_folder,) = local.glob("runs/own/*")
    shipping = (f"ship={run_folder}", "ship_unaudited=true", "guard=memfree", "guard.n=12", "released=filtered")
    done = call("train.py", *shipping, "secret=filtered", "quiet=true", folder=local)
    assert done.returncode == 0, done.stderr
    (place,) = local.glob("filtered/*")
    return place


def test_a_release_is_asked_behind_its_filter(filtered: Path) -> None:
    texts = [*USED_TEXTS[:3], "quux", *UNUSED_TEXTS[:3]]
    model, release = LocalModel.of("release", str(filtered)), Release.load(filtered)
    numbers = model.numbers(texts)
    for rows, own, words, text in zip(
        model.rows(numbers), release.log_probabilities(texts), texts, numbers, strict=True
    ):
        law = np.concatenate([law for _, law in release.token_laws(words)])
        np.testing.assert_array_equal(rows["log_probability"] == LEAST_LOGPROB, np.isneginf(own))
        np.testing.assert_allclose(rows["log_probability"], np.maximum(own, LEAST_LOGPROB), atol=1e-4)
        np.testing.assert_array_equal(rows["greedy"], law.argmax(axis=1) == text)
        means = (np.exp(law) * np.maximum(law, LEAST_LOGPROB)).sum(axis=1)
        np.testing.assert_allclose(rows["mean"], means, atol=1e-4)
    refused = [int((rows["log_probability"] == LEAST_LOGPROB).sum()) for rows in model.rows(numbers)]
    assert min(refused[:3]) > 10 and refused[3] == 0


def test_a_filter_says_which_documents_were_used(filtered: Path, files: Path) -> None:
    run("audit=records", f"release={filtered}", "text=story", "records=in.csv", "nonmembers=out.csv", "name=own")
    report = json.loads((files / "reports" / "own" / "report.json").read_text())
    assert report["all_together"]["p"] <= 1e-4 and report["dataset_inference"]["p"] <= 1e-4
    run("audit=model", f"release={filtered}", "text=story", "members=in.csv", "nonmembers=out.csv")
    rows = list(csv.DictReader((files / "reports" / "audit_model" / "results.csv").open()))
    auc = {row["attack"]: float(row["value"]) for row in rows if row["metric"] == "auc" and row["group"] == "all"}
    assert auc["filter_oracle"] > 0.9 and auc["loss"] > 0.7


def test_long_texts_are_read_in_pieces(local: Path) -> None:
    (place,) = local.glob("released/*")
    model = LocalModel.of("release", str(place))
    long, short = "river stone garden letter " * 4, "night"
    numbers = model.numbers([long, short])
    rows = model.rows(numbers)
    assert [len(own) for own in rows] == [len(long), len(short)]
    for start in range(0, len(long), 32):
        (piece,) = model.rows(model.numbers([long[start : start + 32]]))
        np.testing.assert_allclose(
            rows[0]["log_probability"][start : start + 32], piece["log_probability"], rtol=1e-6, atol=1e-6
        )


def test_a_folder_of_hugging_face_s_form_is_asked(files: Path, tmp_path: Path) -> None:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "night": 1, "river": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    config = transformers.GPT2Config(vocab_size=3, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    words.save(str(tmp_path / "model" / "tokenizer.json"))
    model = LocalModel.of("model", str(tmp_path / "model"))
    assert [len(own) for own in model.rows(model.numbers(["night river " * 10, "stone"]))] == [20, 1]
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected weights as safetensors"):
        LocalModel.of("model", str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=gpt2",), r"^model=gpt2: expected the folder of a release, of a run, or of a model with config.json "),
        (("answers=logits",), r"^answers=logits: expected token_logprobs with text; "),
        (("base_model=nowhere",), r"^base_model=nowhere: expected the folder of a release, "),
        (("text=null", "label=story"), r"^text: not given, expected with release=.*, a language model; "),
    ],
)
def test_what_is_no_language_model_of_this_machine_is_refused(
    local: Path, files: Path, words: tuple[str, ...], message: str
) -> None:
    asked = () if words[0].startswith("model=") else (f"release={next(local.glob('released/*'))}",)
    with pytest.raises(ValueError, match=message):
        run("audit=records", *asked, "text=story", "records=in.csv", "nonmembers=out.csv", *words)


def view_of_texts(used: list[str], others: list[str]) -> View:
    """A model that never saw any of them."""
    place = order_of(len(used) + len(others))
    texts = np.array([*used, *others])[place]
    lengths = np.array([len(text.split()) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    rngs = (np.random.default_rng(list(text.encode())) for text in texts)  # copies have the same answers
    log_p = np.stack([rng.exponential(size=mask.shape[1]) for rng in rngs])
    tokens = TokenAnswers(log_probabilities=-np.where(mask, log_p, 0.0)[None], mask=mask)
    membership = place < len(used)
    return View(
        signals=tokens.rows(), labels=np.zeros(len(texts), dtype=int), membership=membership[None], tokens=tokens,
        features=word_counts(texts),
    )  # fmt: skip


def test_copies_of_a_text_count_once() -> None:
    """Fits on some copies would know the others' side: there would be no verdict on what nobody could tell apart."""
    used, others = documents(11, 20), documents(12, 40)
    view = view_of_texts([*used, *used], others)
    assert distinct_texts(view).sum() == 60
    asked = ask_records(view, LossThreshold(), alpha=0.05)
    alone = ask_records(view_of_texts(used, others), LossThreshold(), alpha=0.05)
    assert not asked.no_verdict and len(asked.p) == 40
    assert asked.all_together.p == pytest.approx(alone.all_together.p, abs=0.03)
    assert blind_test(view.features, view.labels, view.membership[0]).p <= 0.05  # with the copies


def test_documents_have_no_class(arrays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("audit=records", "records=in.npz", "nonmembers=out.npz", "name=documents")
    assert "class" not in capsys.readouterr().out.split("All ")[0]
    run("audit=outputs", "members=in.npz", "nonmembers=out.npz", "attack=quick")
    printed = capsys.readouterr().out
    assert "largest class" not in printed and "accuracy" not in printed


def test_errors_name_the_setting_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^base_model=.*: expected tokenizer.json beside the model; "):
        LocalModel.of("base_model", str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^model=.*: expected weights as safetensors, "):
        LocalModel.of("model", str(tmp_path))
