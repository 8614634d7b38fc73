"""Answers over HTTP are those of the release, whoever else asks, in every form, and audits find the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import commands
import numpy as np
import pytest
import requests
from running_server import DIGIT_IMAGES, running
from sklearn.datasets import load_digits

from palisade.evaluation.subjects.endpoint import Endpoint
from palisade.evaluation.subjects.model_file import of_release
from palisade.targets.guards import GUARDS_BY_NAME
from palisade.targets.release import Release

NO_LIMITS = ("limits.rate=null", "limits.day=null", "limits.budget=null")
ANSWERING_GUARDS = ["memguard", "hamp_output", "topk", "rounding", "temperature", "label_only"]
CUT_ANSWERS = {
    "topk": ("threat.outputs=probabilities", "threat.top_k=3"),
    "rounding": ("threat.outputs=probabilities", "threat.decimals=2"),
}
"""Guards whose probabilities need not sum to 1, which the auditor of an endpoint says."""


@pytest.mark.parametrize("guard", ["none", *ANSWERING_GUARDS])
def test_an_audit_meets_over_http_what_it_meets_in_the_release(digits_release, guard: str, tmp_path: Path) -> None:
    folder, rows = digits_release(guard), DIGIT_IMAGES[:300].astype(np.float32)
    here = of_release(str(folder / "released"), {})
    with running(folder, f"private={tmp_path}", *NO_LIMITS) as server:
        for address in ("v1/models/released:predict", "v2/models/released/infer"):
            endpoint = Endpoint(
                endpoint=f"{server.url}/{address}", answers=here.answers, batch=400, classes=here.classes
            )
            over_http = endpoint.open(tmp_path).answer(rows)
            np.testing.assert_allclose(over_http, here.answer(rows), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["none", *ANSWERING_GUARDS])
def test_an_audit_over_http_is_that_of_the_release(digits_release, guard: str, tmp_path: Path) -> None:
    folder = digits_release(guard)
    for side, rows in {"in": slice(0, 150), "out": slice(1200, 1350)}.items():
        np.savez(tmp_path / f"{side}.npz", features=DIGIT_IMAGES[rows], labels=load_digits().target[rows])

    def audited(name: str, *words: str) -> dict[str, float]:
        cut = CUT_ANSWERS.get(guard, ())
        common = (*cut, "members=in.npz", "nonmembers=out.npz", "attack=quick", f"name={name}", "quiet=true")
        done = commands.call("evaluate.py", *words, *common, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return flat(json.loads((tmp_path / "reports" / name / "report.json").read_text()))

    with running(folder, f"private={tmp_path}", *NO_LIMITS) as server:
        url = f"{server.url}/v1/models/released:predict"
        kind = "predictions" if guard == "label_only" else "probabilities"
        over_http = audited("http", "audit=endpoint", f"endpoint={url}", f"answers={kind}")
    here = audited("here", "audit=model", f"release={folder / 'released'}")
    assert over_http.keys() == here.keys() and len(here) > 10
    for key, value in here.items():
        assert over_http[key] == pytest.approx(value, abs=1e-6), key


def flat(report: object, key: str = "") -> dict[str, float]:
    """The numbers of a report, by their places."""
    if isinstance(report, dict):
        return {k: v for name, inner in report.items() for k, v in flat(inner, f"{key}.{name}").items()}
    if isinstance(report, list):
        return {k: v for place, inner in enumerate(report) for k, v in flat(inner, f"{key}.{place}").items()}
    return {key: float(report)} if isinstance(report, int | float) and "seconds" not in key else {}


@pytest.mark.parametrize("guard", ["none", "memguard"])
def test_batches_of_others_change_no_answer(digits_release, guard: str, tmp_path: Path) -> None:
    with running(digits_release(guard), f"private={tmp_path}", *NO_LIMITS) as server:
        alone = [server.predict(DIGIT_IMAGES[k : k + 1]).json()["predictions"][0] for k in range(40)]
        with ThreadPoolExecutor(16) as pool:
            noise = [pool.submit(server.predict, DIGIT_IMAGES[k : k + 30]) for k in range(100, 160)]
            done = pool.map(lambda k: server.predict(DIGIT_IMAGES[k : k + 1]), range(40))
            beside = [answer.json()["predictions"][0] for answer in done]
            assert all(each.result().status_code == 200 for each in noise)
    np.testing.assert_allclose(beside, alone, atol=1e-6)


def test_counts_belong_to_a_request(digits_release, tmp_path: Path) -> None:
    folder = digits_release("aggregate")
    release = Release.load(folder / "released")
    groups = [DIGIT_IMAGES[k : k + 20] for k in range(0, 200, 20)]
    with running(folder, f"private={tmp_path}", *NO_LIMITS) as server, ThreadPoolExecutor(8) as pool:
        counts = [done.json()["counts"] for done in pool.map(server.predict, groups)]
        few = server.predict(groups[0][:3])
    np.testing.assert_allclose(counts, [release.counts(group) for group in groups], atol=1e-9)
    assert few.status_code == 400 and "at least 10 rows" in few.json()["error"]


def test_open_inference(digits_release, tmp_path: Path) -> None:
    folder = digits_release("none")
    release = Release.load(folder / "released")
    with running(folder, f"private={tmp_path}") as server:
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
    before_classifiers = {name for name, guard in GUARDS_BY_NAME.items() if not guard.on_documents_alone}
    assert before_classifiers == {"none", "aggregate", *ANSWERING_GUARDS}
