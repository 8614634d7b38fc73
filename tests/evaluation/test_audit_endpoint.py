"""An endpoint is asked over a real connection, never the same twice, and says in one line what went wrong."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from palisade.evaluation.subjects.endpoint import AnswerLog, Endpoint
from palisade.evaluation.subjects.http_service import ANSWER_BYTES

pytestmark = pytest.mark.usefixtures("undrawn")

INPUT_ROWS = np.random.default_rng(0).random((10, 2)).astype(np.float32)


class Service(BaseHTTPRequestHandler):
    """Answers as KServe does: the two features are the probabilities."""

    asked: ClassVar[list[Any]] = []
    sizes: ClassVar[list[int]] = []
    keys: ClassVar[list[str | None]] = []
    behavior = "answers"

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"inputs": [{"name": "x"}]}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "inputs" in body:
            self.answer_tensors(body["inputs"])
            return
        instances = body["instances"]
        self.keys.append(self.headers["Authorization"])
        self.sizes.append(len(instances))
        if self.behavior == "small" and len(instances) > 3:
            self.send_error(413)
            return
        if self.behavior.startswith("wait") and len(self.sizes) % 2:
            self.send_response(429)
            self.send_header("Retry-After", self.behavior.split()[1])
            self.end_headers()
            return
        if self.behavior == "slow":
            time.sleep(0.5)
        if self.behavior == "fails late" and len(self.asked) >= 4:
            self.send_error(503)
            return
        if self.behavior == "busy":
            self.send_error(429)
            return
        self.asked.extend(instances)
        if self.behavior == "rows":
            instances = [[row["age"] / 100, 1 - row["age"] / 100] for row in instances]
        if self.behavior == "one number":
            instances = [row[0] for row in instances]
        if self.behavior == "other classes":
            instances = [[*row, 0.0] for row in instances] if len(self.asked) > 4 else instances
        answers = {"words": ["yes"] * len(instances), "few": instances[:-1], "ragged": [[1.0], *instances[1:]]}
        body = json.dumps({"predictions": answers.get(self.behavior, instances)})
        self.send_response(200)
        if self.behavior in ("stalls", "torn"):
            self.send_header("Content-Length", "1000")
        self.end_headers()
        bodies = {"html": b"<html>", "deep": b"[" * 10**5, "endless": b" " * (ANSWER_BYTES + 1)}
        with suppress(ConnectionError):
            self.wfile.write(bodies.get(self.behavior, body.encode()))
            time.sleep(0.5 if self.behavior == "stalls" else 0.0)

    def answer_tensors(self, inputs):
        self.asked.append(inputs)
        count = inputs[0]["shape"][0]
        data = inputs[0]["data"] if len(inputs) == 1 else [0.25, 0.75] * count
        output = {"name": "probabilities", "shape": [count, 2], "datatype": "FP32", "data": data}
        if self.behavior == "words":
            output = {"name": "label", "shape": [count], "datatype": "BYTES", "data": ["yes"] * count}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"outputs": [] if self.behavior == "html" else [output]}).encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def service():
    Service.asked, Service.sizes, Service.keys, Service.behavior = [], [], [], "answers"
    server = HTTPServer(("127.0.0.1", 0), Service)
    Thread(target=server.serve_forever, daemon=True).start()
    yield Service, f"http://127.0.0.1:{server.server_port}/predict"
    server.shutdown()
    server.server_close()


def test_a_url_is_asked_once_for_each_input(service, tmp_path):
    calls, url = service
    model = Endpoint(endpoint=url, batch=4).open(tmp_path)
    np.testing.assert_allclose(
        model.ask(np.concatenate([INPUT_ROWS, INPUT_ROWS[:3]])), np.concatenate([INPUT_ROWS, INPUT_ROWS[:3]])
    )
    assert len(calls.asked) == 10
    calls.asked.clear()
    again = Endpoint(endpoint=url, batch=3).open(tmp_path)
    np.testing.assert_allclose(
        np.concatenate([again.ask(INPUT_ROWS[:6]), again.ask(INPUT_ROWS)]), np.concatenate([INPUT_ROWS[:6], INPUT_ROWS])
    )
    uncertain = sorted(INPUT_ROWS[:6].astype(float).tolist(), key=max)[:4]
    assert sorted(calls.asked) == sorted(uncertain), "to compare, once"
    (log,) = tmp_path.glob("answers-*.jsonl")
    assert log.stat().st_mode & 0o777 == 0o600 and len(log.read_text().splitlines()) == 10


def test_an_audit_that_broke_off_goes_on_without_asking_again(service, tmp_path):
    calls, url = service
    calls.behavior = "fails late"
    with pytest.raises(
        ValueError, match=r"expected HTTP 200, not 503 .*; answers so far are kept, the same command goes on"
    ):
        Endpoint(endpoint=url, batch=2).open(tmp_path).ask(INPUT_ROWS)
    assert len(calls.asked) == 4
    (log,) = tmp_path.glob("answers-*.jsonl")
    log.write_bytes(log.read_bytes() + b'{"input": "torn')  # killed while it wrote
    calls.behavior = "answers"
    np.testing.assert_allclose(Endpoint(endpoint=url, batch=2).open(tmp_path).ask(INPUT_ROWS), INPUT_ROWS)
    first = calls.asked[:4]
    assert sorted(calls.asked[4:8]) == sorted(first), "to compare"
    assert sorted(first + calls.asked[8:]) == sorted(INPUT_ROWS.astype(float).tolist())
    assert len(log.read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("busy", "expected HTTP 200, not 429 .*, ask more slowly with rate="),
        ("slow", r"expected an answer \(no answer in timeout=0\.1 s\); answers so far are kept"),
        ("stalls", r"expected an answer \(no answer in timeout=0\.1 s\); answers so far are kept"),
        ("torn", r"expected an answer \(.*\); answers so far are kept"),
        ("html", r'expected JSON \{"predictions": \[…\]\}; put such a service before it'),
        ("deep", r'expected JSON \{"predictions": \[…\]\}; put such a service before it'),
        ("words", "expected finite probabilities of each of 10 queries, not .*; set answers="),
        ("few", "expected .* of each of 10 queries, not float64 of shape \\(9, 2\\)"),
        ("ragged", "expected .* of each of 10 queries, not "),
        ("endless", "expected at most 67108864 bytes for 10 queries; ask fewer at once with batch=<queries>"),
    ],
)
def test_what_an_endpoint_does_wrong_is_said_in_one_line(service, tmp_path, behavior, message):
    calls, url = service
    calls.behavior = behavior
    with pytest.raises(ValueError, match=message) as error:
        Endpoint(endpoint=url, timeout=0.1 if behavior in ("slow", "stalls") else 10.0).open(tmp_path).ask(INPUT_ROWS)
    assert "\n" not in str(error.value)
    assert [path.read_text() for path in tmp_path.glob("answers-*.jsonl")] == [""]


def test_answers_of_another_length_are_never_stored(service, tmp_path):
    calls, url = service
    calls.behavior = "other classes"
    with pytest.raises(
        ValueError,
        match=r"expected scores of 2 classes as before, not 3; .* if another model answers now, remove .*\.jsonl$",
    ):
        Endpoint(endpoint=url, batch=4).open(tmp_path).ask(INPUT_ROWS)
    (log,) = tmp_path.glob("answers-*.jsonl")
    assert len(log.read_text().splitlines()) == 4
    log.write_text(log.read_text() + '{"input": "a", "answer": [0.1, 0.2, 0.7]}\n')
    with pytest.raises(ValueError, match="line 5 is no answer"):
        AnswerLog(log)


def test_one_progress_line_is_shown_for_the_records_and_stored_answers_are_counted(service, tmp_path, capsys):
    calls, _ = service
    model = Endpoint(endpoint=service[1], batch=4).open(tmp_path)
    assert model.prepare([INPUT_ROWS[:6], INPUT_ROWS[6:]]) == []
    assert "10/10 queries answered" in (shown := capsys.readouterr().err) and len(shown.splitlines()) == 1
    model.ask(INPUT_ROWS + 1)
    assert capsys.readouterr().err == "", "queries of an attack"
    again = Endpoint(endpoint=service[1], batch=4).open(tmp_path)
    assert again.prepare([INPUT_ROWS[:6], INPUT_ROWS[6:], INPUT_ROWS + 2]) == [
        "10 of 20 answers about records are those that an earlier audit kept; 4 of them were asked for again and are"
        " the same."
    ]
    assert len(calls.asked) == 34 and "10/10 queries answered" in capsys.readouterr().err


def test_a_key_comes_from_the_environment(service, tmp_path, monkeypatch):
    calls, url = service
    endpoint = Endpoint(endpoint=url, key_variable="KEY_OF_A_TEST")
    with pytest.raises(ValueError, match="key_variable=KEY_OF_A_TEST: expected an environment variable"):
        endpoint.open(tmp_path).ask(INPUT_ROWS)
    monkeypatch.setenv("KEY_OF_A_TEST", "secret")
    endpoint.open(tmp_path).ask(INPUT_ROWS)
    Endpoint(endpoint=url).open(tmp_path).ask(INPUT_ROWS + 1)
    assert calls.keys == ["Bearer secret", None] and "secret" not in "".join(map(str, tmp_path.iterdir()))


def test_a_service_may_ask_to_wait_but_no_longer_than_the_timeout(service, tmp_path):
    calls, url = service
    calls.behavior = "wait 1"
    started = time.monotonic()
    np.testing.assert_allclose(Endpoint(endpoint=url).open(tmp_path).ask(INPUT_ROWS), INPUT_ROWS)
    assert 1 <= time.monotonic() - started < 10 and calls.sizes == [10, 10]
    for wait in ("wait 100", "wait nan", "wait soon"):
        calls.behavior, started = wait, time.monotonic()
        calls.sizes.clear()
        with pytest.raises(ValueError, match=r"not 429 .*, ask more slowly with rate="):
            Endpoint(endpoint=url, timeout=10.0).open(tmp_path).ask(INPUT_ROWS + 1)
        assert time.monotonic() - started < 5 and calls.sizes == [10]


def test_batches_are_halved_until_a_service_takes_them(service, tmp_path):
    calls, url = service
    calls.behavior = "small"
    np.testing.assert_allclose(Endpoint(endpoint=url, batch=8).open(tmp_path).ask(INPUT_ROWS), INPUT_ROWS)
    assert calls.sizes == [8, 4, 2, 2, 2, 2, 2]


def test_open_inference_is_spoken(service, tmp_path):
    calls, url = service
    url = url.replace("/predict", "/v2/models/m/infer")
    np.testing.assert_allclose(Endpoint(endpoint=url, batch=8).open(tmp_path).ask(INPUT_ROWS), INPUT_ROWS)
    (tensor,) = calls.asked[0]
    assert (tensor["name"], tensor["shape"], tensor["datatype"]) == ("x", [8, 2], "FP32")
    Endpoint(endpoint=url).open(tmp_path).answer(RAW_ROWS)
    columns = {tensor["name"]: (tensor["datatype"], tensor["data"]) for tensor in calls.asked[-1]}
    assert columns["age"] == ("INT64", [40, 50, 60, 40]) and columns["job"] == ("BYTES", ["é", "b", None, "é"])
    assert columns["wage"] == ("FP64", [0.1, None, 1 / 3, 0.1]) and columns["here"][0] == "BOOL"
    calls.behavior = "words"
    labels = Endpoint(endpoint=url, answers="predictions", classes=("no", "yes")).open(tmp_path)
    np.testing.assert_array_equal(labels.answer(INPUT_ROWS), np.ones(10))
    calls.behavior = "html"
    with pytest.raises(ValueError, match=r'expected JSON \{"outputs": \[\{"shape": …'):
        Endpoint(endpoint=url).open(tmp_path).ask(INPUT_ROWS + 2)


RAW_ROWS = pd.DataFrame(
    {
        "age": [40, 50, 60, 40],
        "wage": [0.1, np.nan, 1 / 3, 0.1],
        "job": ["é", "b", None, "é"],
        "here": [True, False] * 2,
    }
)


def test_raw_rows_go_to_a_url_by_the_names_of_columns_and_are_known_again(service, tmp_path):
    calls, url = service
    calls.behavior = "rows"
    endpoint = Endpoint(endpoint=url, batch=2, classes=("old", "young"))
    answers = endpoint.open(tmp_path).answer(RAW_ROWS)
    np.testing.assert_allclose(answers, np.stack([RAW_ROWS["age"] / 100, 1 - RAW_ROWS["age"] / 100], axis=1))
    assert calls.asked == [
        {"age": 40, "wage": 0.1, "job": "é", "here": True},
        {"age": 50, "wage": None, "job": "b", "here": False},
        {"age": 60, "wage": 1 / 3, "job": None, "here": True},
        {"age": 40, "wage": 0.1, "job": "é", "here": False},
    ]
    calls.asked.clear()
    again = endpoint.open(tmp_path)
    assert again.prepare([RAW_ROWS]) and len(calls.asked) == 4, "to compare"
    np.testing.assert_array_equal(again.answer(RAW_ROWS[::-1]), answers[::-1])
    assert len(calls.asked) == 4


def test_raw_rows_go_to_a_function_as_a_table(function, monkeypatch, tmp_path):
    seen = []

    def predict(rows):
        seen.append(rows.copy())
        return rows.pop("age").to_numpy() / 100

    monkeypatch.setattr(sys.modules["my_package"], "predict", predict)
    answers = Endpoint(endpoint="my_package.predict", batch=3).open(tmp_path).answer(RAW_ROWS)
    np.testing.assert_allclose(answers, np.stack([1 - RAW_ROWS["age"] / 100, RAW_ROWS["age"] / 100], axis=1))
    pd.testing.assert_frame_equal(seen[0], RAW_ROWS[:3])
    pd.testing.assert_frame_equal(seen[1], RAW_ROWS[3:].reset_index(drop=True))
    assert "age" in RAW_ROWS, "what is handed over is a copy"


def test_one_number_a_query_is_that_of_the_second_class(service, tmp_path):
    calls, url = service
    calls.behavior = "one number"
    answers = Endpoint(endpoint=url, classes=("no", "yes")).open(tmp_path).answer(INPUT_ROWS)
    np.testing.assert_allclose(answers, np.stack([1 - INPUT_ROWS[:, 0], INPUT_ROWS[:, 0]], axis=1), atol=1e-6)
    with pytest.raises(ValueError, match=r"probabilities are of 2 classes, and 3 are named \(a, b, c\)"):
        Endpoint(endpoint=url, classes=("a", "b", "c")).open(tmp_path).ask(INPUT_ROWS)


def test_predicted_classes_may_be_words_if_their_order_is_known(function, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["my_package"], "predict", lambda x: np.where(x[:, 0] > 0.5, "yes", "no"))
    endpoint = Endpoint(endpoint="my_package.predict", answers="predictions", classes=("no", "yes"))
    for _ in range(2):
        np.testing.assert_array_equal(endpoint.open(tmp_path).answer(INPUT_ROWS), INPUT_ROWS[:, 0] > 0.5)


def test_nobody_listens(tmp_path):
    with pytest.raises(
        ValueError, match=r"endpoint=http://127\.0\.0\.1:9/: expected an answer .*; answers so far are kept"
    ):
        Endpoint(endpoint="http://127.0.0.1:9/").open(tmp_path).ask(INPUT_ROWS)


@pytest.fixture
def function(monkeypatch):
    asked = []

    def predict(x):
        asked.append(len(x))
        return x

    module = ModuleType("my_package")
    module.predict = predict
    monkeypatch.setitem(sys.modules, "my_package", module)
    return asked


def test_a_budget_is_never_exceeded(function, tmp_path):
    endpoint = Endpoint(endpoint="my_package.predict", batch=5, budget=12)
    with pytest.raises(ValueError, match="budget=12"):
        endpoint.open(tmp_path).prepare([INPUT_ROWS, INPUT_ROWS + 1])
    assert function == [], "what cannot suffice is not spent"
    model = endpoint.open(tmp_path)
    assert model.ask(INPUT_ROWS).shape == (10, 2)
    with pytest.raises(ValueError, match="budget=12"):
        model.ask(INPUT_ROWS + 1)
    assert function == [5, 5]
    endpoint.open(tmp_path).ask(np.concatenate([INPUT_ROWS, INPUT_ROWS[:2] + 1]))
    assert function == [5, 5, 4, 2], "what is asked again to compare is not counted"


@pytest.mark.parametrize("change", [lambda x: 1 - x, lambda x: x + np.random.default_rng().normal(0, 0.1, x.shape)])
def test_stored_answers_of_another_model_are_not_used(function, monkeypatch, tmp_path, change):
    Endpoint(endpoint="my_package.predict").open(tmp_path).ask(INPUT_ROWS)
    monkeypatch.setattr(sys.modules["my_package"], "predict", lambda x: x + 1e-4)
    Endpoint(endpoint="my_package.predict").open(tmp_path).ask(INPUT_ROWS)
    monkeypatch.setattr(sys.modules["my_package"], "predict", change)
    with pytest.raises(ValueError, match=r"the model behind it has changed, or it answers at random; remove .*jsonl"):
        Endpoint(endpoint="my_package.predict").open(tmp_path).ask(INPUT_ROWS)


def test_stored_classes_of_another_model_are_not_used(function, monkeypatch, tmp_path):
    endpoint = Endpoint(endpoint="my_package.predict", answers="predictions")
    for _ in range(2):
        monkeypatch.setattr(sys.modules["my_package"], "predict", lambda x: (x[:, 0] > 0.5).astype(int))
        endpoint.open(tmp_path).ask(INPUT_ROWS)
    monkeypatch.setattr(sys.modules["my_package"], "predict", lambda x: (x[:, 0] <= 0.5).astype(int))
    with pytest.raises(ValueError, match=": expected the answers of an earlier audit"):
        endpoint.open(tmp_path).ask(INPUT_ROWS)


def test_a_rate_is_never_exceeded(function, tmp_path):
    started = time.monotonic()
    Endpoint(endpoint="my_package.predict", batch=2, rate=20).open(tmp_path).ask(INPUT_ROWS)
    assert time.monotonic() - started >= 4 / 20


def test_answers_of_one_endpoint_are_not_those_of_another(function, tmp_path):
    Endpoint(endpoint="my_package.predict").open(tmp_path).ask(INPUT_ROWS)
    Endpoint(endpoint="my_package.predict", answers="logits").open(tmp_path).ask(INPUT_ROWS)
    assert function == [10, 10]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "budget=0: expected "),
        ({"batch": 1.5}, r"batch=1\.5: expected "),
        ({"batch": None}, "batch=null: expected "),
        ({"batch": True}, "batch=true: expected "),
        ({"rate": -1}, "rate=-1: expected "),
        ({"timeout": 0}, "timeout=0: expected "),
        ({"timeout": None}, "timeout=null: expected "),
        ({"endpoint": 5}, r"endpoint=5: expected .*give http://… or my_package\.predict"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Endpoint(**{"endpoint": "a.b", **settings})


def test_no_such_function(tmp_path):
    with pytest.raises(ValueError, match=r"endpoint=nowhere\.predict: expected a URL or a Python function"):
        Endpoint(endpoint="nowhere.predict").open(tmp_path)


def test_an_error_of_a_function_is_reported_with_its_input(function, monkeypatch, tmp_path):
    def fails(x):
        raise KeyError("weights")

    monkeypatch.setattr(sys.modules["my_package"], "predict", fails)
    with pytest.raises(
        ValueError,
        match=r"an answer to float32 of shape \(10, 2\), and it raised KeyError\('weights'\); answers so far",
    ):
        Endpoint(endpoint="my_package.predict").open(tmp_path).ask(INPUT_ROWS)


def test_what_cannot_be_called_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"endpoint=json: expected a function that takes rows"):
        Endpoint(endpoint="json").open(tmp_path)


def test_a_log_of_something_else_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"input": "a", "answer": [1]}\nhello\n')
    with pytest.raises(ValueError, match="line 2 is no answer; remove the file to ask anew"):
        AnswerLog(tmp_path / "log.jsonl")
