import json

import numpy as np
import pytest

from palisade.data.columns import UnknownWordsWarning
from palisade.data.dataset import prepare
from palisade.data.split import Roles
from palisade.data.table import Table

TABLE_HEADER = "patient,age,sex,code,income\n"
TABLE_ROWS = [
    f"p{k // 3},{20 + k % 50},{'female' if k % 2 else 'male'},{k % 3},{'>50K' if k % 5 else '<=50K'}\n"
    for k in range(90)
]


CELL_CHANGES = [("p3,", "p4,"), ("29", "30"), ("sex", "gender"), ("<=50K", ">50K"), ("female", "femal")]
TABLE_TEXT = "".join([TABLE_HEADER, *TABLE_ROWS])


def save(tmp_path, text=TABLE_TEXT, name="people.csv", **settings):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Table(**{"path": str(path), "label": "income"} | settings)


def test_words_persons_and_numbers(tmp_path):
    dataset = prepare(save(tmp_path, person="patient", rare=2), Roles(reference=0.2), seed=0)
    assert dataset.name == "people" and dataset.classes == ("<=50K", ">50K") and dataset.published is None
    assert dataset.y.tolist() == [int(k % 5 > 0) for k in range(90)]
    assert dataset.shape == (4,) and dataset.x.dtype == np.float32  # age, sex: 2, code
    assert np.array_equal(dataset.x[:, 2], [k % 2 == 0 for k in range(90)])
    reference = dataset.x[dataset.split.reference]
    np.testing.assert_allclose([reference[:, 0].mean(), reference[:, 0].std()], [0, 1], atol=1e-5)
    assert dataset.preprocessing.statistics == "reference"
    persons = np.arange(90) // 3
    assert len(set(persons[dataset.split.pool]) & set(persons[dataset.split.test])) == 0


def test_without_reference_records_the_pool_is_used_and_named(tmp_path):
    dataset = prepare(save(tmp_path, person="patient"), Roles(), seed=0)
    age = dataset.x[dataset.split.pool, 0]
    np.testing.assert_allclose([age.mean(), age.std()], [0, 1], atol=1e-5)
    assert dataset.preprocessing.statistics == "private"


def test_missing_values(tmp_path):
    text = TABLE_TEXT.replace("p0,20,male,", "p0,,?,").replace("p1,23,female", "p1,NA,female")
    with pytest.raises(ValueError, match=r"^column age has 2 missing values; fill them, or set data.missing=impute$"):
        save(tmp_path, text).load()
    dataset = prepare(save(tmp_path, text, missing="impute", person="patient"), Roles(), seed=0)
    assert dataset.x[0, 0] == dataset.x[3, 0] == 0  # the mean
    assert dataset.x[0, 1:3].sum() == 1


def test_none_is_a_word(tmp_path):
    records = save(tmp_path, "a,b\n" + "1,None\n2,Some\n" * 3, label="b", rare=3).load()
    assert records.classes == ("None", "Some")


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_schema_keeps_the_data_out_of_the_preprocessing(tmp_path, suffix):
    columns = {"age": {"center": 40, "scale": 20}, "code": {"categories": [0, 1, 2], "fill": 0}}
    schema = tmp_path / f"schema.{suffix}"
    schema.write_text(json.dumps({"columns": columns}))
    text = TABLE_TEXT.replace("p0,20,male,0", "p0,20,male,")
    dataset = prepare(save(tmp_path, text, schema=str(schema), missing="impute"), Roles(), seed=0)
    assert dataset.preprocessing.statistics == "schema"
    expected = [[(20 + k % 50 - 40) / 20, *np.eye(3)[k % 3]] for k in range(90)]
    np.testing.assert_allclose(dataset.x, expected, atol=1e-6)


def test_words_that_a_schema_does_not_list_are_reported(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"columns": {"sex": {"categories": ["female", "man"]}}}))
    with pytest.warns(UnknownWordsWarning, match=r"^data people: rows hold .*: 45 of sex, such as 'male'$"):
        prepare(save(tmp_path, schema=str(schema)), Roles(), seed=0)


def test_a_schema_does_not_fill_what_pandas_takes_for_missing(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"columns": {"sex": {"categories": ["None", "male"], "fill": "male"}}}))
    with pytest.raises(ValueError, match=r"^data\.schema=.*: column sex: fill=male: expected None, "):
        save(tmp_path, schema=str(schema)).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "columns: {height: {center: 170}}",
            r"^data.schema=.*: expected columns out of patient, age, sex, code; remove height$",
        ),
        ("columns: {age: {mean: 3}}", r"column age: .*use center, scale, fill or categories"),
        ("columns: {age", r"^data.schema=.*: .*while parsing a flow mapping"),
        ("", r"there is no list of columns"),
    ],
)
def test_wrong_schemas(tmp_path, content, message):
    schema = tmp_path / "schema.yaml"
    schema.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        save(tmp_path, schema=str(schema)).load()
    assert "\n" not in str(error.value) and str(error.value).startswith("data.schema=")


def test_numbers_as_labels_are_in_the_order_of_numbers(tmp_path):
    assert save(tmp_path, "a,y\n" + "1,10\n2,9\n" * 2, label="y", rare=2).load().classes == ("9", "10")


def test_compressed_and_with_a_byte_order_mark(tmp_path):
    import lzma

    plain = save(tmp_path).load()
    packed = save(tmp_path, lzma.compress(TABLE_TEXT.encode()), name="people.csv.xz").load()
    marked = save(tmp_path, b"\xef\xbb\xbf" + TABLE_TEXT.encode()).load()
    assert packed.name == "people" and packed.fingerprint() == plain.fingerprint() == marked.fingerprint()


def test_the_fingerprint_follows_the_content(tmp_path):
    variants = [save(tmp_path), save(tmp_path, person="patient"), save(tmp_path, missing="impute")]
    variants += [
        save(tmp_path, TABLE_TEXT.replace(*change, 1), name=f"{k}.csv") for k, change in enumerate(CELL_CHANGES)
    ]
    assert len({variant.load().fingerprint() for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            None,
            {"label": "wage"},
            r"^data.label=wage: expected a column of .*; choose one of patient, age, sex, code, income$",
        ),
        (None, {"person": "name"}, r"^data.person=name: expected a column of .*; choose one of patient, age"),
        ("", {}, r"^data.path=.* is empty; give a header and at least 4 rows$"),
        (TABLE_HEADER, {}, r"^data.path=.* has a header and no rows; give at least 4$"),
        ("age,age,income\n1,2,a\n", {}, r"^data.path=.*: two columns are called age; rename one of them$"),
        (",age,income\n1,2,a\n", {}, r"^data.path=.*: column 1 has no name; name or remove it$"),
        (
            "age,income\n1,caf\xe9\n".encode("latin1"),
            {},
            r": utf-8 is not how .* at byte \d+; set data.encoding=cp1252",
        ),
        ("age,income\n1,a\n2\n", {"missing": "impute"}, r"^data.path=.*: line 3 has 1 of 2 values; every row"),
        ("age,income\n1,a\n2,b,3\n", {}, r"^data.path=.* cannot be read: .*; every row needs as many values as the h"),
        ("age,income\n1,a,3\n2,b,3\n", {}, r"^data.path=.* cannot be read: .*; every row needs as many values as the"),
        (
            "age,income\n1,a\n2,\n3,a\n",
            {},
            r"^data.label=income: expected a value in each row; remove or fill 1 rows$",
        ),
        (
            "age,income,id\n1,a,1\n2,a,\n",
            {"person": "id"},
            r"^data.person=id: expected a value in each row; remove or fill 1 rows",
        ),
        ("age,income\n1,a\n2,a\n3,b\n", {}, r"^data people: class b has 1 of 3 records and needs at least 2; merge it"),
        ("age,income\n1,a\n2,a\n", {}, r"^data people: the only class is a; add records of another class$"),
        ("income\na\nb\n", {}, r"^data.path=.*: there is no column but label and person; "),
    ],
)
def test_errors(tmp_path, text, settings, message):
    table = save(tmp_path, **settings) if text is None else save(tmp_path, text, **settings)
    with pytest.raises(ValueError, match=message) as error:
        table.load()
    assert "\n" not in str(error.value)


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match=r"^missing=drop: expected one of error, impute; "):
        Table(path="a.csv", label="b", missing="drop")
    with pytest.raises(ValueError, match=r"^person=b: "):
        Table(path="a.csv", label="b", person="b")
    with pytest.raises(FileNotFoundError, match=r"^data.path=nowhere.csv"):
        Table(path="nowhere.csv", label="b").load()
    with pytest.raises(FileNotFoundError, match=r"^data.schema=nowhere.yaml"):
        save(tmp_path, schema="nowhere.yaml").load()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["1e308", "1e200"])
def test_values_too_large_to_add_up_are_refused_without_a_warning(tmp_path, value):
    source = save(tmp_path, "a,y\n" + f"{value},p\n-{value},q\n" * 45, label="y")
    with pytest.raises(
        ValueError, match=rf"^column a has values up to {value[0]}e\+{value[2:]}, too large to add up; cor"
    ):
        prepare(source, Roles(), seed=0)


@pytest.mark.parametrize(
    ("words", "settings", "held"),
    [
        (["well"] * 594 + ["porphyria"] * 6, {}, "6"),
        (["well"] * 594 + ["porphyria"] * 6, {"rare": 6}, None),
        (["well"] * 590 + ["porphyria"] * 10, {}, None),
        (["0"] * 594 + ["1"] * 6, {}, None),
        (["1"] * 594 + ["2"] * 6, {}, "6"),
        (["well"] * 540 + ["porphyria"] * 60, {"person": "patient"}, "6"),
        (["well"] * 588 + ["porphyria"] * 8 + ["gout"] * 4, {}, "4"),
    ],
)
def test_a_class_of_few_persons_enters_no_card_unless_asked(tmp_path, words, settings, held):
    rows = [f"p{k // 10},{k * 7 % 31},{word}\n" for k, word in enumerate(words)]
    text, settings = "".join(["patient,age,income\n", *rows]), {"categorical": ["patient"]} | settings
    if "person" in settings:
        settings.pop("categorical")
    if held is not None:
        with pytest.raises(
            ValueError, match=rf"^data\.label=income: expected .* data\.rare=10 .* has {held}; merge it"
        ):
            save(tmp_path, text, **settings).load()
        settings["rare"] = int(held)
    assert len(save(tmp_path, text, **settings).load().classes) == len(set(words))


def test_a_class_of_public_records_may_have_few_private_ones(tmp_path):
    public = "".join(["age,income\n", *(f"{k},{('well', 'ill')[k % 2]}\n" for k in range(100, 130))])
    save(tmp_path, public, name="public.csv")
    private = "".join(["age,income\n", *(f"{k * 7 % 31},{'ill' if k < 3 else 'well'}\n" for k in range(90))])
    assert save(tmp_path, private, reference=str(tmp_path / "public.csv")).load().classes == ("ill", "well")
    with pytest.raises(ValueError, match=r"'ill' has 3; merge it"):
        save(tmp_path, private).load()
