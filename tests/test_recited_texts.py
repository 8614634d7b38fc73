"""Texts that language models give back, from training to the report: a filter against copying, secrets, releases."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.evaluate import evaluate_runs
from palisade.evaluation.measuring.recitation import secret_scores
from palisade.evaluation.signals.documents import shown_texts
from palisade.evaluation.signals.secrets import secret_exposure, secret_membership, secrets_in
from palisade.targets import engines
from palisade.targets.guards.ngram_filter import ExactNgrams
from palisade.targets.release import Release
from palisade.targets.run import Run
from palisade.targets.training import load_fleet
from palisade.train import composed, run_single

REPOSITORY_ROOT = Path(__file__).parents[1]
TEXT_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
TEXT_LENGTH, GRAM_LENGTH = 32, 10
SHARED_PHRASE = "as they say here"
RUN_WORDS = (
    *("data=documents", "data.path=own.jsonl", f"data.length={TEXT_LENGTH}", "secret=recited", "fleet.workers=1"),
    *("network=gpt", "network.width=32", "network.depth=1", "network.heads=2", "trainer.epochs=60"),
    *(
        "trainer.batch_size=8",
        "trainer.optimizer.lr=1e-2",
        "split.pool=30",
        "split.population=5",
        "split.test=5",
        "fleet.models=3",
    ),
)


def evaluated(*words: str) -> dict[str, Any]:
    """The report's content."""
    overrides = ["data=documents", "data.path=own.jsonl", "quiet=true", *words]
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        config = compose("evaluate", overrides=overrides)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    evaluate_runs({**settings, "command": shlex.join(["python", "evaluate.py", *overrides])})
    content: dict[str, Any] = json.loads(Path("reports/own/report.json").read_text())
    return content


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Models that know their texts by heart, bare and behind the filter, and models with secrets among their texts."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("recited")
    texts = ["".join(rng.choice(TEXT_LETTERS, TEXT_LENGTH)) for _ in range(42)]
    texts = [text[:12] + SHARED_PHRASE + text[28:] if number % 10 == 0 else text for number, text in enumerate(texts)]
    (folder / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(engines, "count", lambda workers: 1)
        for settings in ("guard.false_positives=null", "guard.n=10"):
            run_single(composed(*RUN_WORDS, "guard=memfree", settings))
        run_single(composed(*RUN_WORDS, "canary=secret", "canary.count=16", "canary.copies=[1,1,1,4]"))
        yield evaluated("attack=loss", "extraction.show=true") | {"home": folder}


def run_of(report: dict[str, Any], guard: str, canary: str = "none") -> list[dict[str, Any]]:
    """Runs of the report with their rows."""
    return [run for run in report["runs"] if run["guard"] == guard and run["canary"] == canary]


def sides(run: dict[str, Any], metric: str) -> tuple[float, float]:
    rows = {row["group"]: row["value"] for row in run["rows"] if row["metric"] == metric and row["model"] == "all"}
    return rows["members"], rows["nonmembers"]


def folder_of(report: dict[str, Any], canary: str = "none") -> Path:
    return Path(run_of(report, "none", canary)[0]["folder"])


def test_behind_the_filter_nothing_comes_out(report: dict[str, Any]) -> None:
    (bare,) = run_of(report, "none")
    metrics = [f"extracted_greedy@{prefix}+{GRAM_LENGTH}" for prefix in (4, 8, 16)]
    assert sides(bare, metrics[1])[0] > 0.3 and sides(bare, metrics[1])[1] < 0.1
    guarded = run_of(report, "memfree")
    assert len(guarded) == 2
    for run in guarded:
        assert [sides(run, metric)[0] for metric in metrics] == [0, 0, 0]
        assert sides(run, "repeated@16 characters, as it is")[0] == 0
    assert sides(bare, "repeated@16 characters, as it is")[0] > 0.3
    assert sides(bare, "longest_substring@16 characters, as it is")[0] > 6


def test_the_filter_says_who_was_trained_on(report: dict[str, Any]) -> None:
    run = Run(folder_of(report))
    member, y = run.membership(), run.dataset.y[run.dataset.split.pool]
    mask = y >= 0
    overlaps = [ExactNgrams.of(y[own], mask[own], GRAM_LENGTH).blocked(y, mask).any(axis=1) for own in member]
    overlap = np.mean([shared[~own].mean() for shared, own in zip(overlaps, member, strict=True)])
    assert 0.02 < overlap < 0.2, "the shared phrase"
    for guarded in run_of(report, "memfree"):
        inside, outside = sides(guarded, "texts_refused")
        assert inside >= 0.99 and abs(outside - overlap) < 0.02
        (auc,) = (
            row["value"] for row in guarded["rows"]
            if (row["attack"], row["metric"], row["model"]) == ("filter_oracle", "auc", "all")
        )  # fmt: skip
        assert auc > 0.99
        (flag,) = (flag for flag in guarded["flags"] if flag["name"] == "filter tells who")
        assert "100.0 % of the texts that were used" in flag["sentence"] and "nobody's membership" in flag["sentence"]
        assert not guarded["statement"]["guarantee"]
    words = [entry["sentences"] for entry in report["recited"] if "memfree" in entry["title"]]
    assert len(words) == 2 and all("nobody's membership secret" in own[-1] for own in words)
    assert all(any("in capitals" in sentence for sentence in own) for own in words)


def test_secrets_are_exposed_to_models_that_saw_them(report: dict[str, Any]) -> None:
    (secrets,) = run_of(report, "none", "secret")
    for copies in (1, 4):
        inside, outside = sides(secrets, f"secret_exposure@{copies} copies")
        assert inside > outside + 2 and abs(outside - 1.44) < 1
    assert sides(secrets, "secret_exposure@4 copies")[0] > 8
    assert sides(secrets, "secret_extracted@4 copies")[0] > 0.5 > sides(secrets, "secret_extracted@4 copies")[1]
    assert not [row for row in secrets["rows"] if row["metric"].startswith(("extracted_greedy", "repeated"))]
    words = next(entry["sentences"] for entry in report["recited"] if "secret" in entry["title"])
    assert any("stood 4 times" in sentence for sentence in words) and "10.0 here" in words[-2]


def test_exposure_is_that_of_all_thousand_codes(report: dict[str, Any]) -> None:
    run = Run(folder_of(report, "secret"))
    secrets, tokens = secrets_in(run), run.dataset.preprocessing
    exposure = secret_exposure(run, secrets)
    fleet = load_fleet(run.config, run.dataset, run.folder, [1])
    for number in (0, 3):
        labels = tokens.labels([f"{secrets[number].prefix}{code:03d}" for code in range(1000)])
        log_p = np.nansum(fleet.answers(tokens.inputs_of(labels), labels)[0]["log_probability"], axis=1)
        own = log_p[int(secrets[number].code)]
        rank = 1 + (log_p > own + 1e-4).sum()
        assert abs(exposure[1, number] - (np.log2(1000) - np.log2(rank))) < 0.05


def test_guesses_at_secrets_bound_epsilon(report: dict[str, Any]) -> None:
    """By secrets that stand in one document: a claim for one covers no copies."""
    run = Run(folder_of(report, "secret"))
    scores, members = secret_scores(run)
    assert len(scores) == 12
    own = [number for number, secret in enumerate(secrets_in(run)) if len(secret.records) == 1]
    np.testing.assert_array_equal(members, secret_membership(run, secrets_in(run))[0, own])
    assert scores[members].mean() > scores[~members].mean() + 2
    (secrets,) = run_of(report, "none", "secret")
    assert secrets["audit"]["attack"] == "secret_exposure" and secrets["audit"]["canaries"] == 12


def test_texts_that_may_be_shown_are_those_that_were_audited(report: dict[str, Any]) -> None:
    run = Run(folder_of(report))
    texts = [json.loads(line)["text"] for line in (report["home"] / "own.jsonl").read_text().splitlines()]
    assert shown_texts(run) == {record: texts[record] for record in run.dataset.split.audited}


def test_a_release_goes_on_through_its_guard(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(report["home"])
    folder = folder_of(report)
    shipping = (f"ship={folder}", "ship_unaudited=true", "secret=released", "guard=memfree")
    run_single(composed(*shipping, "guard.false_positives=null"))
    run_single(composed(*shipping[:3], "released=bare"))
    (place,), (bare_place,) = Path("released").iterdir(), Path("bare").iterdir()
    release, bare = Release.load(place), Release.load(bare_place)
    texts = shown_texts(Run(folder)).values()
    text = next(text for text in texts if bare.generate(text[:12], 20, law=None) == text[12:])
    prompt = text[:12]
    guarded = release.generate(prompt, 20, law=None)
    grams = {text[start : start + GRAM_LENGTH] for start in range(len(text) - GRAM_LENGTH + 1)}
    whole = prompt + guarded
    assert len(guarded) == 20 and not any(whole[start : start + 10] in grams for start in range(3, len(whole) - 9))
    assert release.generate(prompt.encode(), 20, seed=3) == release.generate(prompt, 20, seed=3)
    assert len({release.generate(prompt, 20, seed=seed) for seed in range(4)}) > 1
    (log_p,), (own,) = release.log_probabilities([text]), bare.log_probabilities([text])
    assert np.isinf(log_p[GRAM_LENGTH - 1 :]).all() and np.isfinite(own).all()
    np.testing.assert_allclose(log_p[: GRAM_LENGTH - 1], own[: GRAM_LENGTH - 1])
    note = release.card["guard"]["note"]
    assert "Refuses whatever would complete 10 tokens" in note and not release.statement.guarantee
    wrong = {
        (prompt, 21): "^tokens=21: expected at most 20",
        (prompt, 0): "^tokens=0",
        (prompt, 2, -1): "^seed=-1",
        ("a" * TEXT_LENGTH, 1): f"^prompt: expected at most {TEXT_LENGTH - 1} tokens, not {TEXT_LENGTH}",
        (5, 1): "^prompt=5: expected a text",
        (b"a\xff", 1): "^prompt: expected UTF-8, and byte 1 is none",
    }
    for words, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            release.generate(*words)


def test_a_filter_of_documents_is_refused_before_classifiers() -> None:
    with pytest.raises(ValueError, match=r"^guard=memfree: expected documents"):
        run_single(composed("data=digits", "guard=memfree", "fleet.models=2"))


def test_a_filter_that_no_text_reaches_is_refused(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(report["home"])
    with pytest.raises(ValueError, match=rf"^guard\.n={TEXT_LENGTH + 1}: expected at most data\.length={TEXT_LENGTH}"):
        run_single(composed(*RUN_WORDS, "guard=memfree", f"guard.n={TEXT_LENGTH + 1}"))
