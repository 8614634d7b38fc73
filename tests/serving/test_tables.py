"""Raw rows of a table, and of texts, are served as they are trained on; a domain refuses what no record can be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running_server import DIGIT_IMAGES, running

from palisade.data.columns import Columns
from palisade.data.preprocessing import Scale
from palisade.data.secret import Secret
from palisade.data.tokens import Tokens
from palisade.serving.bodies import RefusedError, RowForm, parsed
from palisade.serving.domain import DomainSettings, domain_of
from palisade.targets.release import Release
from palisade.targets.shipping import ship
from palisade.train import composed

COLUMN_SCHEMA = Columns.from_json(
    {
        "columns": {
            "age": {"center": 40, "scale": 15},
            "job": {"categories": ["nurse", "clerk", "other"], "other": "other"},
        }
    }
)


def table(records: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.integers(18, 90, records)
    job = rng.choice(["nurse", "clerk", "smith"], records)
    wage = rng.normal(20, 5, records).round(2)
    return pd.DataFrame({"age": age, "job": job, "wage": wage, "rich": np.where(wage > 20, "yes", "no")})


@pytest.fixture(scope="module")
def table_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    table().to_csv(folder / "people.csv", index=False)
    words = ("data=csv", f"data.path={folder}/people.csv", "data.label=rich", "network.hidden=[]", "trainer.epochs=1")
    ship(composed(*words), [], Secret.from_text("s")).save(folder / "released")
    return folder


def test_raw_rows_by_both_forms(table_release: Path, tmp_path: Path) -> None:
    release, rows = Release.load(table_release / "released"), table()[["age", "job", "wage"]][:50]
    expected = release.predict_proba(rows)
    records = rows.to_dict("records")
    kinds = {"age": "INT64", "job": "BYTES", "wage": "FP64"}
    tensors = [
        {"name": name, "shape": [50], "datatype": kind, "data": rows[name].tolist()} for name, kind in kinds.items()
    ]
    with running(table_release, f"private={tmp_path}") as server:
        v1 = server.predict(records).json()["predictions"]
        v2 = server.post("/infer", {"inputs": tensors}).json()["outputs"][0]
        more = server.predict([{**records[0], "shoe": 43}])
        absent = server.predict([{"age": 1, "job": "nurse"}])
        nested = server.predict([{**records[0], "age": [1]}])
        word = server.predict([{**records[0], "wage": "much money"}])
        huge = [server.predict([{**records[0], "wage": cell}]) for cell in (1e308, "1e308", "inf")]
        twice = server.post("/infer", {"inputs": [*tensors, tensors[0]]})
        short = server.post("/infer", {"inputs": [{**tensors[0], "shape": [49], "data": [1] * 49}, *tensors[1:]]})
    np.testing.assert_allclose(v1, expected, atol=1e-6)
    np.testing.assert_allclose(np.reshape(v2["data"], v2["shape"]), expected, atol=1e-6)
    assert {each.status_code for each in huge} == {400}, [each.text for each in huge]
    assert more.status_code == 200, "other columns are not looked at"
    for refused, words in (
        (absent, "age, job, wage"),
        (nested, "send no lists"),
        (word, "column wage"),
        (twice, "once"),
    ):
        assert refused.status_code == 400 and words in refused.json()["error"]
        assert "much" not in refused.text and short.status_code == 400


def test_a_domain_of_a_table(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "reference.csv", index=False)
    (tmp_path / "schema.yaml").write_text("columns: {age: {low: 18, high: 120}, job: {words: [nurse, clerk, smith]}}\n")
    form = RowForm(COLUMN_SCHEMA, 10)
    learned = domain_of(DomainSettings(reference=str(tmp_path / "reference.csv")), form)
    described = domain_of(DomainSettings(schema=str(tmp_path / "schema.yaml")), form)
    for row in ({"age": 500, "job": "smith"}, {"age": "", "job": "nurse"}, {"age": None, "job": "clerk"}):
        learned.check([row])
    for row in ({"age": 40.5, "job": "nurse"}, {"age": "40.25", "job": "nurse"}, {"age": 40, "job": "thief"}):
        with pytest.raises(RefusedError) as refused:
            learned.check([{"age": 40, "job": "nurse"}, row])
        assert refused.value.status == 422 and not {"40", "thief"} & set(refused.value.reason.split())
    described.check([{"age": 40.5, "job": "nurse"}])
    for row in ({"age": 17, "job": "nurse"}, {"age": 121, "job": "nurse"}, {"age": 40, "job": "thief"}):
        with pytest.raises(RefusedError, match="column"):
            described.check([row])
    assert domain_of(DomainSettings(), form) is None


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("columns: {shoe: {low: 1}}", "expected columns of the release, not shoe"),
        ("columns: {age: {lowest: 1}}", "lowest=1: no such setting"),
        ("values: {low: 1}", "expected columns: alone at its top"),
        ("[1]", "expected columns: alone at its top"),
    ],
)
def test_a_wrong_schema_is_said(tmp_path: Path, schema: str, message: str) -> None:
    (tmp_path / "schema.yaml").write_text(schema)
    with pytest.raises(ValueError, match=message):
        domain_of(DomainSettings(schema=str(tmp_path / "schema.yaml")), RowForm(COLUMN_SCHEMA, 10))


def test_a_domain_refuses_moved_records_and_no_record(tmp_path: Path) -> None:
    """Steps between a record and one of another class, as HopSkipJump's, on whole numbers and on zeros and ones."""
    rng = np.random.default_rng(0)
    for images, shape in ((DIGIT_IMAGES, (1, 8, 8)), ((DIGIT_IMAGES > 8).astype(float).reshape(-1, 64), (64,))):
        np.savez(tmp_path / "reference.npz", features=images[:300])
        domain = domain_of(DomainSettings(reference=str(tmp_path / "reference.npz")), RowForm(Scale(shape=shape), 10))
        records = images[300:]
        domain.check(records)
        for step in (0.5, 0.1, 1e-3):
            for record, other in zip(records[:100], records[rng.permutation(len(records))[:100]], strict=True):
                moved = (1 - step) * record + step * other
                if not np.array_equal(moved, np.round(moved)):
                    with pytest.raises(RefusedError, match="of a row: expected what a record can have"):
                        domain.check(moved[None])
            noise = rng.normal(size=(100, *shape)) * step
            for moved in records[:100] + noise:
                with pytest.raises(RefusedError):
                    domain.check(moved[None])


def test_ranges_of_an_array_come_from_a_schema_alone(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text("values: {low: 0, high: 16, whole: true}\n")
    np.savez(tmp_path / "reference.npz", features=DIGIT_IMAGES[:300] / 2)
    form, files = RowForm(Scale(shape=(1, 8, 8)), 10), (tmp_path / "schema.yaml", tmp_path / "reference.npz")
    described, learned = (
        domain_of(DomainSettings(**{name: str(file)}), form)
        for name, file in zip(("schema", "reference"), files, strict=True)
    )
    learned.check(np.full((1, 1, 8, 8), 1000.0))
    described.check(np.full((1, 1, 8, 8), 16.0))
    for value in (17.0, -1.0, 0.5):
        with pytest.raises(RefusedError):
            described.check(np.full((1, 1, 8, 8), value))
    np.savez(tmp_path / "few.npz", features=DIGIT_IMAGES[:20])
    with pytest.raises(ValueError, match=r"domain\.reference=.*: expected at least 50 records, not 20"):
        domain_of(DomainSettings(reference=str(tmp_path / "few.npz")), form)


@pytest.mark.parametrize("step", [COLUMN_SCHEMA, Scale(shape=(1, 8, 8)), Tokens(length=4)])
def test_bodies_have_room_for_all_rows_and_no_more(step: Columns | Scale | Tokens) -> None:
    form = RowForm(step, 20)
    row = {"age": 1, "job": "[,{"} if isinstance(step, Columns) else "a, b [" * 9
    rows = DIGIT_IMAGES[:20].tolist() if isinstance(step, Scale) else [row] * 20
    assert len(form.of_instances(parsed(json.dumps({"instances": rows}).encode(), form.room))) == 20
    for part in (b"[]", b"{}", b"0"):
        with pytest.raises(RefusedError, match="expected no more parts than 20 rows have") as refused:
            parsed(b'{"instances": [' + b",".join([part] * 20_000) + b"]}", form.room)
        assert refused.value.status == 413


def test_texts_are_rows_too() -> None:
    form = RowForm(Tokens(length=4), 10)
    assert form.of_instances({"instances": ["a b", ""]}) == ["a b", ""]
    tensor = {"name": "input", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    assert form.of_tensors({"inputs": [tensor]}) == ["a", "b"]
    for wrong in ({**tensor, "datatype": "FP32"}, {**tensor, "data": ["a", 1]}, {**tensor, "shape": [1, 2]}):
        with pytest.raises(RefusedError):
            form.of_tensors({"inputs": [wrong]})
