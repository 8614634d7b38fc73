"""A language model behind the OpenAI form: texts go on as in the release, and audits meet the same over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import requests
from running_server import RunningServer, command, running

from palisade.data.secret import Secret
from palisade.targets.release import Release
from palisade.targets.shipping import ship
from palisade.train import composed

SOME_WORDS = ("ann", "bób", "cat", "döner", "eel", "fox", "gnu", "hen")
DOCUMENT_LENGTH = 24


def documents(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(SOME_WORDS, rng.integers(2, 8))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small language model, trained on 60 documents."""
    place = tmp_path_factory.mktemp("texts")
    (place / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents(0, 80)))
    words = (
        *("data=documents", f"data.path={place}/own.jsonl", f"data.length={DOCUMENT_LENGTH}", "network=gpt"),
        *("network.width=16", "network.depth=1", "network.heads=2", "trainer.epochs=4", "trainer.batch_size=16"),
        *("split.pool=60", "split.population=0"),
    )
    ship(composed(*words), [], Secret.from_text("s")).save(place / "released")
    return place


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running(folder, f"private={tmp_path_factory.mktemp('private')}", "limits.rate=null") as server:
        yield server


def asked(server: RunningServer, key: str | None = None, **body: Any) -> requests.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return requests.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=20)


def test_prompts_go_on_as_in_the_release(folder: Path, server: RunningServer) -> None:
    release, prompts = Release.load(folder / "released"), ["ann ", "fox bób ", ""]
    texts = {}
    for seed in (0, 1):
        answer = asked(server, prompt=prompts, max_tokens=8, seed=seed).json()
        texts[seed] = [choice["text"] for choice in answer["choices"]]
        assert texts[seed] == [release.generate(prompt, 8, seed) for prompt in prompts]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert texts[0] != texts[1] and (answer["object"], answer["model"]) == ("text_completion", "released")
    (echoed,) = asked(server, prompt="ann ", max_tokens=8, echo=True, model="released").json()["choices"]
    assert echoed["text"] == "ann " + texts[0][0] and echoed["logprobs"] is None


def test_log_probabilities_are_those_of_the_release(folder: Path, server: RunningServer) -> None:
    release, prompts = Release.load(folder / "released"), ["bób fox", "", "a" * 100]
    answer = asked(server, prompt=prompts, max_tokens=0, echo=True, logprobs=2).json()
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        own_logprobs = choice["logprobs"]
        pieces = [prompt[start : start + DOCUMENT_LENGTH] for start in range(0, len(prompt), DOCUMENT_LENGTH)]
        own = np.concatenate([[], *release.log_probabilities(pieces)])
        np.testing.assert_allclose(own_logprobs["token_logprobs"], own, atol=1e-6)
        assert choice["text"] == prompt and len(own_logprobs["tokens"]) == len(own) == len(own_logprobs["text_offset"])
        assert all(len(top) == 2 and max(top.values()) <= 0 for top in own_logprobs["top_logprobs"])
    first = answer["choices"][0]["logprobs"]
    assert first["tokens"][:4] == ["b", "bytes:\\xc3", "bytes:\\xb3", "b"] and first["text_offset"][:4] == [0, 1, 1, 2]
    assert len(answer["choices"][2]["logprobs"]["tokens"]) == 100, "longer than the release reads at once"
    plain = asked(server, prompt="fox", max_tokens=0, echo=True, logprobs=0).json()["choices"][0]["logprobs"]
    assert plain["top_logprobs"] is None and len(plain["token_logprobs"]) == 3


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "prompt: expected a text"),
        ({"prompt": []}, 400, "prompt: expected a text"),
        ({"prompt": [1, 2]}, 400, "prompt: expected a text"),
        ({"prompt": "a", "model": "gpt-4"}, 404, "model: expected released"),
        ({"prompt": "a", "max_tokens": -1}, 400, "max_tokens: expected a whole number"),
        ({"prompt": "a", "max_tokens": True}, 400, "max_tokens: expected a whole number"),
        ({"prompt": ["a"] * 200, "max_tokens": 20}, 413, "tokens for all prompts"),
        ({"prompt": ["a"] * 257, "max_tokens": 0}, 413, "at most 256 rows"),
        ({"prompt": "a" * 24 * 257, "max_tokens": 0}, 413, "at most 256 times 24 tokens"),
        ({"prompt": "a" * 20}, 400, "go on within 24 tokens"),
        ({"prompt": "a", "seed": 2**64}, 400, "seed: expected a whole number"),
        ({"prompt": "a", "echo": 1}, 400, "echo: expected true or false"),
        ({"prompt": "a", "logprobs": 9, "echo": True, "max_tokens": 0}, 400, "logprobs: expected a whole number"),
        ({"prompt": "a", "logprobs": 1}, 400, "logprobs: expected echo=true and max_tokens=0"),
        ({"prompt": "a", "temperature": 0.5}, 400, "temperature: expected no other value"),
        ({"prompt": "a", "stream": True}, 400, "stream: expected no other value"),
        ({"prompt": "a", "n": 2}, 400, "n: expected no other value"),
        ({"prompt": "a", "guided_json": {}}, 400, "alone; remove the others"),
    ],
)
def test_what_is_not_served_is_said(server: RunningServer, body: dict[str, Any], status: int, words: str) -> None:
    refused = asked(server, **body)
    assert refused.status_code == status and words in refused.json()["error"], refused.text


def test_prompts_are_counted_as_records(folder: Path, tmp_path: Path) -> None:
    private = f"private={tmp_path}"
    key = command("keys=make", "key.name=alice", private, "key.budget=5", folder=folder).stdout.strip()
    unwritten = {"max_tokens": 0, "echo": True, "logprobs": 1}
    with running(folder, private) as server:
        assert asked(server, prompt="a").status_code == 401
        assert asked(server, key, prompt=["a", "b", "a"], **unwritten).status_code == 200
        assert asked(server, key, prompt=["a", "b"], **unwritten).status_code == 200, "a repeat"
        for seed in (0, 0, 1, 2):  # each seed has another answer
            assert asked(server, key, prompt="a", max_tokens=2, seed=seed).status_code == 200
        refused = asked(server, key, prompt="c", **unwritten)
        long = asked(server, key, prompt="a" * DOCUMENT_LENGTH * 101, **unwritten)
        metrics = requests.get(server.metrics_url, timeout=5).text
        description = requests.get(f"{server.url}/openapi.json", timeout=5).json()
        metadata = requests.get(f"{server.url}/v2/models/released", timeout=5).json()
        absent = server.predict(["a"], key)
    assert refused.status_code == 403 and "5 different records" in refused.json()["error"]
    assert long.status_code == 413 and "at most 100 records at once" in long.json()["error"], "a piece counts as one"
    assert 'palisade_different_records{client="alice"} 5.0' in metrics
    assert list(description["paths"]) == ["/v1/completions"] and metadata["inputs"][0]["datatype"] == "BYTES"
    assert absent.status_code == 404


def test_texts_have_neither_domain_nor_watch(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text("values: {low: 0}")
    np.savez(tmp_path / "reference.npz", features=np.zeros((60, 2)))
    for words in (
        [f"domain.schema={tmp_path}/schema.yaml"],
        ["monitor=near_duplicates", f"monitor.reference={tmp_path}/reference.npz"],
    ):
        done = command(*words, f"private={tmp_path}", folder=folder)
        assert done.returncode == 2 and "expected a release that takes numbers or tables, not texts" in done.stderr


@pytest.mark.slow
def test_an_audit_over_http_is_that_of_the_release(folder: Path, server: RunningServer, tmp_path: Path) -> None:
    mine, others = (set(documents(k, 40)) for k in (0, 1))
    assert max(len(text.encode()) for text in mine) > DOCUMENT_LENGTH, "which is read in pieces on both ways"
    for name, texts in {"mine": sorted(mine), "others": sorted(others - mine)}.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["story", *texts]))
    files = ("audit=records", "records=mine.csv", "nonmembers=others.csv", "text=story", "quiet=true")
    address = (f"endpoint={server.url}/v1/completions", "answers=token_logprobs", "batch=10")
    reports = []
    for name, words in {"here": (f"release={folder}/released",), "http": address}.items():
        done = commands.call("evaluate.py", *files, *words, f"name={name}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads((tmp_path / "reports" / name / "report.json").read_text()))
    here, over_http = ([value for value in numbers(report)] for report in reports)
    assert len(here) == len(over_http) > 30
    np.testing.assert_allclose(over_http, here, atol=1e-6)


def numbers(report: Any) -> Iterator[float]:
    """The numbers of a report in their order."""
    if isinstance(report, dict):
        # A server says less than a file does, so that dataset inference has fewer scores.
        report = [value for name, value in report.items() if "seconds" not in name and name != "dataset_inference"]
    if isinstance(report, list):
        for value in report:
            yield from numbers(value)
    elif isinstance(report, int | float):
        yield float(report)
