"""Documents are read as they are written, and become tokens with a label at every position."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palisade.data.dataset import prepare
from palisade.data.documents import Documents, pieces
from palisade.data.preprocessing import from_json
from palisade.data.sequences import BEGIN_TOKEN, NO_TOKEN, ByteTokens
from palisade.data.split import Roles
from palisade.data.text import AGNews

AG_NEWS_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "ag_news"
OWN_TEXTS, OWN_AUTHORS = ["one, two", 'a "quoted" line\nand another', "Grüße", "x"], ["ann", "bob", "ann", "cy"]


@pytest.fixture(params=["folder", "jsonl", "jsonl.gz", "csv", "parquet"])
def written(request, tmp_path):
    """The same texts in every form, with authors where a form has them."""
    frame = pd.DataFrame({"text": OWN_TEXTS, "author": OWN_AUTHORS})
    path = tmp_path / f"own.{request.param}"
    match request.param:
        case "folder":
            path.mkdir()
            for number, text in enumerate(OWN_TEXTS):
                (path / f"{number}.txt").write_text(text, encoding="utf-8")
        case "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
        case "jsonl.gz":
            path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in frame.to_dict("records")).encode()))
        case "csv":
            frame.to_csv(path, index=False)
        case "parquet":
            frame.to_parquet(path)
    return path


def test_every_form_gives_the_same_texts(written):
    records = Documents(path=written, person=None if written.is_dir() else "author").load()
    assert list(records.rows) == OWN_TEXTS and records.labels is None and records.name == "own"
    assert written.is_dir() or records.persons.tolist() == [0, 1, 0, 2]
    data = prepare(Documents(path=written, length=12), Roles(pool=0.5), seed=0)
    assert data.positional and data.x.shape == data.y.shape == (4, 12) and data.labels.tolist() == [0] * 4
    tokens = [1 + byte for byte in "Grüße".encode()]
    assert data.y[2].tolist() == tokens + [NO_TOKEN] * (12 - len(tokens))
    assert data.x[2].tolist() == [BEGIN_TOKEN, *tokens] + [BEGIN_TOKEN] * (11 - len(tokens))
    assert data.preprocessing.not_covered is None and len(data.classes) == 257


@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), length=st.integers(1, 40))
def test_bytes_of_any_text_come_back(texts, length):
    tokens = ByteTokens(length=length, new_tokens=2)
    labels = tokens.labels(texts)
    assert labels.max() < tokens.text_tokens and tokens.vocabulary == tokens.text_tokens + 2
    for text, row in zip(texts, labels, strict=True):
        assert tokens.decode(row[row != NO_TOKEN].tolist()) == text.encode()[:length]
    assert (tokens(texts)[:, 1:][labels[:, :-1] != NO_TOKEN] == labels[:, :-1][labels[:, :-1] != NO_TOKEN]).all()
    again = from_json(json.loads(json.dumps(tokens.to_json())))
    np.testing.assert_array_equal(again(texts), tokens(texts))


def test_pieces_of_a_document_share_its_fate(tmp_path):
    for number, text in enumerate(["a" * 25, "b" * 10, "c"]):
        (tmp_path / f"{number}.txt").write_text(text)
    source = Documents(path=tmp_path, person="document", length=10)
    records = source.load()
    assert [len(text) for text in records.rows] == [10, 10, 5, 10, 1]
    assert records.persons.tolist() == [0, 0, 0, 1, 2] and source.read_origins().person(4) == "3"


def test_a_folder_of_tables_is_one_table_in_parts(tmp_path):
    for number, text in enumerate(("one", "two", "three")):
        line = json.dumps({"text": text, "author": f"author {number % 2}"})
        (tmp_path / f"part-{number}.jsonl").write_text(line)
    (tmp_path / "README.md").write_text("three parts")
    records = Documents(path=tmp_path, person="author").load()
    assert records.rows.tolist() == ["one", "two", "three"] and records.persons.tolist() == [0, 1, 0]
    (tmp_path / "more.csv").write_text("text,author\nfour,b\n")
    with pytest.raises(
        ValueError, match=r"^data.path=.*: expected a folder of .txt files, or of one kind of .*several"
    ):
        Documents(path=tmp_path).load()


@given(text=st.text(min_size=1, max_size=40), length=st.integers(4, 9))
def test_documents_are_cut_between_letters(text, length):
    cut = pieces(text, ByteTokens(length=length))
    assert "".join(cut) == text.encode("utf-8", "replace").decode() or "\N{REPLACEMENT CHARACTER}" in text
    assert all(len(piece.encode("utf-8", "replace")) <= length for piece in cut) or "\N{REPLACEMENT CHARACTER}" in text


def test_what_editors_and_systems_leave_in_a_folder_is_no_text(tmp_path):
    (tmp_path / "one.TXT").write_bytes(b"\xef\xbb\xbfone\r\n")  # a mark of UTF-8, and lines as Windows ends them
    (tmp_path / "._one.txt").write_bytes(b"\x00\xff")
    for name in ("more", ".checkpoints"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "two.txt").write_text("two")
    assert sorted(Documents(path=tmp_path).load().rows) == ["one\n", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"text": "a"}\n{"text": 5}',
            r"^data.field=text: expected a text in each document, and line 2 holds a int; ",
        ),
        (b'{"text": ["a"]}', r"^data.field=text: expected a text in each document, and line 1 holds a list; "),
        (b'{"text": "a"}\n{"text": "b \\ud83d"}', r"^data.field=text: .*, and document 2 of .* holds half of one "),
        (b'{"text": "a"}\n[1]', r"^data.path=.*: line 2 is no object; "),
        (b'{"text": "a"}\n\n{"text": ', r"^data.path=.*: line 3 is no JSON \("),
        (b'{"text": "a"}\n{"body": "b"}', r"^data.field=text: expected a column of .*; choose one of body"),
        (b'{"text": "a"}\n{"text": null}', r"^data.field=text: .*; remove the 1 of .* that are empty, .* number 2$"),
        ('{"text": "ü"}'.encode("latin-1"), r"^data.path=.*: expected lines of JSON in UTF-8 "),
        (b"", r"^data.path=.*: expected documents, and it holds none; "),
    ],
)
def test_lines_that_are_no_documents_are_named(tmp_path, content, message):
    (tmp_path / "own.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        Documents(path=tmp_path / "own.jsonl").load()
    assert "\n" not in str(error.value)


def test_remedies_are_settings_that_documents_have(tmp_path):
    (tmp_path / "own.csv").write_bytes("text\nGrüße aus der alten Stadt\nnoch ein Stück\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^data.path=.*: utf-8.* is not how it is written.*; convert it \(iconv "):
        Documents(path=tmp_path / "own.csv").load()
    (tmp_path / "own.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"^data.path=.*: expected UTF-8, and own.txt is none at byte 0; convert it "):
        Documents(path=tmp_path).load()


@pytest.mark.parametrize(
    ("author", "message"),
    [
        (float("nan"), "expected a value in each row; remove or fill 1 rows"),
        (["a"], "expected a name in each document, and "),
    ],
)
def test_authors_that_are_no_names_are_refused(tmp_path, author, message):
    lines = ({"text": "a", "author": "a"}, {"text": "b", "author": author})
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=rf"^data.person=author: {message}"):
        Documents(path=tmp_path / "own.jsonl", person="author").load()


@pytest.mark.parametrize("second", [[], ["b"], "b", ["b", 5], None])
def test_paraphrases_are_as_many_of_each_document(tmp_path, second):
    lines = [{"text": "one", "rewritten": ["1", "eins"]}, {"text": "two", "rewritten": ["2", "zwei"]}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = Documents(path=tmp_path / "own.jsonl", paraphrases="rewritten")
    assert source.read_paraphrases() == [["1", "eins"], ["2", "zwei"]] and list(source.load().rows) == ["one", "two"]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, [lines[0], {"text": "two", "rewritten": second}])))
    with pytest.raises(ValueError, match=r"^data.paraphrases=rewritten: expected a list of texts in each document of "):
        source.read_paraphrases()
    with pytest.raises(ValueError, match=r"^data.paraphrases=rewritten: expected null, but for whole documents in a "):
        Documents(path=tmp_path, paraphrases="rewritten").read_paraphrases()


def test_documents_without_a_token_are_refused(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ["word", " ", "word word"]))
    with pytest.raises(ValueError, match=r"^data own: expected a token in each document; remove the 1 of which "):
        prepare(Documents(path=tmp_path / "own.jsonl", tokens=tmp_path, length=4), Roles(pool=0.5), seed=0)


@pytest.mark.parametrize("reference", [0, 0.4])
def test_pairs_of_bytes_come_from_reference_records_and_the_statement_says_so(tmp_path, reference):
    pytest.importorskip("tokenizers")
    texts = [f"the house number {number} <|begin|> über" for number in range(60)]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    source = Documents(path=tmp_path / "own.jsonl", tokens="bpe", vocabulary=320, length=40)
    data = prepare(source, Roles(pool=0.5, reference=reference), seed=0)
    assert data.preprocessing.statistics == ("reference" if reference else "private")
    (sentence,) = (line for line in data.not_covered(()) if "vocabulary" in line)
    assert ("subwords of reference records" if reference else "subwords of the pool") in sentence
    tokens = data.preprocessing
    assert 257 < tokens.text_tokens <= 320 and len(data.classes) == tokens.vocabulary
    for text, row in zip(texts, data.y, strict=True):
        own = row[row != NO_TOKEN]
        assert tokens.decode(own.tolist()) == text.encode() and BEGIN_TOKEN not in own and len(own) < len(text)
    again = from_json(json.loads(json.dumps(tokens.to_json())))
    np.testing.assert_array_equal(again(texts), data.x)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text(tokens.content)
    (tmp_path / "model" / "config.json").write_text(json.dumps({"vocab_size": 400, "bos_token_id": 7}))
    public = prepare(Documents(path=tmp_path / "own.jsonl", tokens=tmp_path / "model", length=40), Roles(pool=0.5), 0)
    assert public.preprocessing.not_covered is None and len(public.classes) == 400 and (public.x[:, 0] == 7).all()
    np.testing.assert_array_equal(public.y, data.y)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("text\na\n", {"field": "body"}, r"^data.field=body: expected a column of .*own.csv; choose one of text$"),
        (
            "text,who\na,\nb,x\n",
            {"person": "who"},
            r"^data.person=who: expected a value in each row; ",
        ),
        ("text,n\n,1\nb,2\n", {}, r"^data.field=text: expected a text in each document; remove the 1 of "),
        ("text\na\n", {"length": 0}, r"^length=0: expected an integer >= 1 and <= 65536; "),
        ("text\na\n", {"tokens": "words"}, r"^data.tokens=words: expected bytes, bpe, or a folder with tokenizer.json"),
        ("text\na\n", {"path": "nowhere"}, r"^data.path=nowhere: expected a folder of .txt files, or a file, "),
        ("text\na\n", {"path": "/dev"}, r"^data.path=/dev: expected a folder of .txt files, .* it holds none; "),
    ],
)
def test_refusals_name_value_rule_and_remedy(tmp_path, content, settings, message):
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Documents(**{"path": tmp_path / "own.csv"} | settings).load()


@pytest.mark.skipif(not AG_NEWS_FOLDER.is_dir(), reason="the file is not under ../shared/data/ag_news")
def test_news_are_the_published_ones(tmp_path):
    records = AGNews(root=str(AG_NEWS_FOLDER)).load()
    assert len(records.rows) == 7600 and records.rows[0].startswith("Fears for T N pension after talks Unions ")
    (tmp_path / "test.csv").write_text("3,a,b\n")
    with pytest.raises(ValueError, match=r"test.csv has md5 .*, the published file has "):
        AGNews(root=str(tmp_path)).load()
