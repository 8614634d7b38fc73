"""Tables as people have them: a release answers the same however they are given, and says which words are unknown."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palisade.data.columns import UnknownWordsWarning
from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.targets.release import Release
from palisade.targets.shipping import ship

COUNTRY_WORDS = ("United-States", "Mexico", "Holand-Netherlands")


def write_census(path: Path, rows: int, seed: int, *, dot: str = "") -> pd.DataFrame:
    """A table with the traits of UCI Adult: blanks after commas, ` ?` for missing, codes, and dots in the test file."""
    rng = np.random.default_rng(seed)
    ages, codes, hours = rng.integers(17, 90, rows), rng.integers(1, 41, rows), rng.integers(1, 99, rows)
    places = rng.choice(COUNTRY_WORDS[: 3 if dot else 2], rows, p=[0.6, 0.35, 0.05] if dot else [0.6, 0.4])
    works = np.where(rng.random(rows) < 0.1, "?", rng.choice(["Private", "State-gov"], rows))
    rich = (codes % 3 == 0) ^ (rng.random(rows) < 0.05)
    lines = [
        f"{ages[k]}, {codes[k]:03}, {works[k]}, {hours[k]}, {places[k]}, {'>50K' if rich[k] else '<=50K'}{dot}"
        for k in range(rows)
    ]
    path.write_text("\n".join(["age, code, workclass, hours, country, income", *lines]) + "\n")
    return pd.DataFrame({"income": np.where(rich, ">50K", "<=50K")})


@pytest.fixture(scope="module")
def census(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Release, pd.DataFrame]:
    """A folder with both files, a release trained on the first, and the labels of the second."""
    from palisade.train import composed

    folder = tmp_path_factory.mktemp("census")
    write_census(folder / "adult.data", 2000, 0)
    labels = write_census(folder / "adult.test", 1000, 1, dot=".")
    words = ["network=mlp", f"data.path={folder}/adult.data", "data.label=income", "data.missing=impute"]
    ship(composed("data=csv", *words, "trainer.epochs=15", "fleet.models=1"), [], Secret.from_text("s")).save(
        folder / "released"
    )
    return folder, Release.load(folder / "released"), labels


ROW_FORMS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "frame": pd.read_csv,
    "frame without blanks": lambda path: pd.read_csv(path, skipinitialspace=True, na_values="?"),
    "frame of text": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    "list of dicts": lambda path: pd.read_csv(path).to_dict("records"),
    "dict of columns": lambda path: pd.read_csv(path).to_dict("list"),
}


@pytest.mark.filterwarnings("ignore::palisade.data.columns.UnknownWordsWarning")
@pytest.mark.parametrize("form", ROW_FORMS)
def test_every_form_of_a_test_file_is_predicted_alike_and_well(census: Any, form: str) -> None:
    folder, release, labels = census
    predicted = release.predict(ROW_FORMS[form](folder / "adult.test"))
    assert predicted == release.predict(folder / "adult.test")
    assert (np.array(predicted) == labels["income"]).mean() > 0.85


def test_one_record_is_a_dict(census: Any) -> None:
    _, release, _ = census
    record = {"age": 30, "code": "003", "workclass": "State-gov", "hours": 40, "country": "Mexico"}
    assert release.predict(record) == [">50K"] == release.predict({**record, "code": 3}) == release.predict([record])


def test_unknown_words_are_counted_reported_or_refused(census: Any) -> None:
    folder, release, _ = census
    frame = pd.read_csv(folder / "adult.test")
    unknown = int((frame[" country"].str.strip() == "Holand-Netherlands").sum())
    with pytest.warns(UnknownWordsWarning, match=rf"{unknown} of country, such as 'Holand-Netherlands'$") as caught:
        release.predict(frame)
    assert len(caught) == 1
    with pytest.raises(ValueError, match=rf"{unknown} of country, .*; correct them, or set unknown=tell$"):
        release.predict(frame, unknown="error")
    with pytest.raises(ValueError, match=r"^unknown=drop: expected one of tell, error"):
        release.predict(frame, unknown="drop")  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        release.predict_proba(folder / "adult.data", unknown="error")


def test_a_code_that_is_two_words_is_refused() -> None:
    from palisade.data.categorical import Categorical
    from palisade.data.columns import Columns

    columns = Columns(columns={"code": Categorical(categories=("01", "1", "2"))}, statistics="schema")
    assert columns({"code": ["01", "1", "2", 2]}).argmax(axis=1).tolist() == [0, 1, 2, 2]
    with pytest.raises(ValueError, match=r"^column code: 1 may be 01 or 1; give words as they are written"):
        columns({"code": [1]})


def test_none_is_a_word_that_pandas_takes_for_missing(tmp_path: Path) -> None:
    from palisade.data.columns import UnfittedColumns
    from palisade.data.dataset import prepare
    from palisade.data.split import Roles
    from palisade.data.table import Table

    (tmp_path / "t.csv").write_text("test,y\n" + "None,a\n>7,b\n>7,b\n" * 30)
    dataset = prepare(Table(path=str(tmp_path / "t.csv"), label="y"), Roles(), seed=0)
    frame = pd.read_csv(tmp_path / "t.csv")
    assert frame["test"].isna().any() and np.array_equal(dataset.preprocessing(frame), dataset.x)
    filled = UnfittedColumns(numeric=(), categorical=("test",), missing="impute").fit(
        pd.DataFrame({"test": ["None", "a", "a", None]}), "private"
    )
    assert filled.columns["test"].fill == "None", "though it is not the most frequent one"


@pytest.mark.parametrize("rows", [np.zeros((2, 5)), 5, None, "nowhere.csv", [], {}, {"age": [1, 2]}])
def test_what_is_no_table_is_one_line(census: Any, rows: Any) -> None:
    _, release, _ = census
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        release.predict(rows)
    assert str(error.value).startswith("rows") and "\n" not in str(error.value)


def test_cards_without_a_reading_are_read_as_before(census: Any) -> None:
    from palisade.data.preprocessing import from_json

    folder, release, _ = census
    content = json.loads((folder / "released" / "card.json").read_text())["preprocessing"]
    del content["reading"]
    for column in content["columns"].values():
        column.pop("other", None)
    rows = folder / "adult.data"
    np.testing.assert_array_equal(from_json(content)(rows), release.preprocessing(rows))


def test_training_reads_codes_as_words(census: Any, compose: Callable[..., dict[str, Any]]) -> None:
    folder, release, _ = census
    words = [f"data.path={folder}/adult.data", "data.label=income", "data.missing=impute"]
    dataset = from_config(compose("data=csv", *words))
    assert dataset.shape[0] == 40 + 2 + 2 + 2, "40 codes, 2 kinds of work, 2 countries, 2 numbers"
    np.testing.assert_array_equal(release.preprocessing(folder / "adult.data"), dataset.x)


def test_words_of_few_persons_enter_no_card(tmp_path: Path, compose: Callable[..., dict[str, Any]]) -> None:
    rng = np.random.default_rng(0)
    city = np.where(rng.random(300) < 0.02, "Quellstadt", rng.choice(["Bern", "Genf"], 300))
    frame = pd.DataFrame({"city": city, "dose": rng.normal(size=300), "y": rng.choice(["no", "yes"], 300)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = [f"data.path={tmp_path}/t.csv", "data.label=y", "trainer.epochs=1", "fleet.models=1"]
    for rare, there in ((10, False), (1, True)):
        config = compose("data=csv", *words, f"data.rare={rare}")
        ship(config, [], Secret.from_text("s")).save(tmp_path / f"released{rare}")
        card = (tmp_path / f"released{rare}" / "card.json").read_text()
        assert ("Quellstadt" in card) is there and "Bern" in card
