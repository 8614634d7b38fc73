"""Answers over HTTP are those of the release, whoever else asks, in every form, and audits find the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import commands
import numpy as np
import pytest
import requests
from conftest import DIGIT_IMAGES, running

from palisade.targets.guards import GUARDS_BY_NAME
from palisade.targets.release import Release

UNLIMITED = ("limits.rate=null", "limits.day=null", "limits.budget=null")
ANSWERING_GUARDS = ["memguard", "hamp_output", "topk", "rounding", "temperature", "label_only"]


def audited(folder: Path, name: str, *words: str) -> list[dict[str, object]]:
    """Numbers of an audit of 150 records a side."""
    sides = {"in": slice(0, 150), "out": slice(1200, 1350)}
    from sklearn.datasets import load_digits

    for side, rows in sides.items():
        np.savez(folder / f"{side}.npz", features=DIGIT_IMAGES[rows], labels=load_digits().target[rows])
    common = ("members=in.npz", "nonmembers=out.npz", "attack=quick", f"name={name}", "quiet=true")
    done = commands.call("evaluate.py", *words, *common, folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "reports" / name / "report.json").read_text())


@pytest.mark.parametrize("guard", ["none", *ANSWERING_GUARDS])
def test_an_audit_over_http_is_that_of_the_release(digits_release, guard: str) -> None:
    folder = digits_release(guard)
    release = Release.load(folder / "released")
    with running(folder, *UNLIMITED) as server:
        answers = server.predict(DIGIT_IMAGES[:100]).json()["predictions"]
        if guard == "label_only":
            assert answers == release.predict(DIGIT_IMAGES[:100])
        else:
            np.testing.assert_allclose(answers, release.predict_proba(DIGIT_IMAGES[:100]), atol=1e-6)
        url = f"{server.url}/v1/models/released:predict"
        kind = "predictions" if guard == "label_only" else "probabilities"
        over_http = audited(folder, "http", "audit=endpoint", f"endpoint={url}", f"answers={kind}")
        here = audited(folder, "here", "audit=model", "release=released")
    assert flat(over_http).keys() == flat(here).keys() and len(flat(here)) > 10
    for key, value in flat(here).items():
        assert flat(over_http)[key] == pytest.approx(value, abs=1e-6), key


def flat(report: object, key: str = "") -> dict[str, float]:
    """The numbers of a report, by their places."""
    if isinstance(report, dict):
        return {k: v for name, inner in report.items() for k, v in flat(inner, f"{key}.{name}").items()}
    if isinstance(report, list):
        return {k: v for place, inner in enumerate(report) for k, v in flat(inner, f"{key}.{place}").items()}
    return {key: float(report)} if isinstance(report, int | float) and "seconds" not in key else {}


@pytest.mark.parametrize("guard", ["none", "memguard", "topk"])
def test_batches_of_others_change_no_answer(digits_release, guard: str) -> None:
    with running(digits_release(guard), *UNLIMITED) as server:
        alone = [server.predict(DIGIT_IMAGES[k : k + 1]).json()["predictions"][0] for k in range(40)]
        with ThreadPoolExecutor(16) as pool:
            noise = [pool.submit(server.predict, DIGIT_IMAGES[k : k + 30]) for k in range(100, 160)]
            done = pool.map(lambda k: server.predict(DIGIT_IMAGES[k : k + 1]), range(40))
            beside = [answer.json()["predictions"][0] for answer in done]
            assert all(each.result().status_code == 200 for each in noise)
    np.testing.assert_allclose(beside, alone, atol=1e-6)


def test_counts_belong_to_a_request(digits_release) -> None:
    folder = digits_release("aggregate")
    release = Release.load(folder / "released")
    groups = [DIGIT_IMAGES[k : k + 20] for k in range(0, 200, 20)]
    with running(folder) as server, ThreadPoolExecutor(8) as pool:
        counts = [done.json()["counts"] for done in pool.map(server.predict, groups)]
        few = server.predict(groups[0][:3])
    np.testing.assert_allclose(counts, [release.counts(group) for group in groups], atol=1e-9)
    assert few.status_code == 400 and "at least 10 rows" in few.json()["error"]


def test_open_inference(digits_release) -> None:
    folder = digits_release("none")
    release = Release.load(folder / "released")
    with running(folder) as server:
        tensor = {"name": "input", "shape": [3, 64], "datatype": "FP32", "data": DIGIT_IMAGES[:3].ravel().tolist()}
        answer = server.post("/infer", {"id": "7", "inputs": [tensor]}).json()
        metadata = requests.get(f"{server.url}/v2/models/released", timeout=5).json()
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/released/ready", "/v2"):
            assert requests.get(server.url + path, timeout=5).status_code == 200
        card = requests.get(f"{server.url}/card", timeout=5).json()
        page = requests.get(f"{server.url}/card", headers={"accept": "text/html"}, timeout=5).text
        description = requests.get(f"{server.url}/openapi.json", timeout=5).json()
        absent = requests.get(f"{server.url}/v2/models/other", timeout=5)
    (output,) = answer["outputs"]
    assert (answer["id"], output["name"], output["datatype"]) == ("7", "probabilities", "FP32")
    assert output["shape"] == [3, 10]
    expected = release.predict_proba(DIGIT_IMAGES[:3])
    np.testing.assert_allclose(np.reshape(output["data"], (3, 10)), expected, atol=1e-6)
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 1, 8, 8]}]
    assert card == release.card and page == (folder / "released" / "card.html").read_text()
    assert "/v2/models/released/infer" in description["paths"]
    assert absent.status_code == 404 and "\n" not in absent.json()["error"]


def test_every_guard_is_shown() -> None:
    names = {name for name in GUARDS_BY_NAME if name not in ("none", "aggregate", "top_k")}
    assert names == {*ANSWERING_GUARDS} - {"topk"}
