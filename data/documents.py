"""Your own documents: a folder of text files, or a table with a column of texts, for language models."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from palisade.data.files import READER_ERRORS, opened
from palisade.data.origins import Origins
from palisade.data.records import Records, name_of
from palisade.data.sequences import Sequences
from palisade.data.settings import place
from palisade.data.subwords import BYTES_TOKENS, DEFAULT_VOCABULARY, TokensOfTexts, UnfittedSubwords, tokens_of
from palisade.data.table_reader import ending_of, is_table_file, read_table
from palisade.fields import CheckedFields, CountFromZero, nearest

HALF_LETTER = re.compile("[\ud800-\udfff]")
"""Half of a letter, of which no UTF-8 can be made."""
MAX_LETTER_BYTES = 4
TORN_LETTER = "\N{REPLACEMENT CHARACTER}"
"""Bytes that make no letter, as a decoder writes them."""
DOCUMENT_PERSON = "document"
"""Value of `person` that makes a document what is protected, with all the pieces it is cut into."""
Vocabulary = Annotated[int, Field(ge=300, le=2**20)]
TEXT_ENDING, LINES_ENDING = ".txt", ".jsonl"
TABLE_ENDINGS = (LINES_ENDING, ".csv", ".tsv", ".parquet")
TABLE_FORMS = ".jsonl, .csv, .tsv or .parquet"
TEXT_ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that some editors put before it."""


@dataclass(frozen=True, kw_only=True)
class Documents(CheckedFields):
    """Documents in a folder of `.txt` files, or in a file of `.jsonl`, `.csv`, `.tsv` or `.parquet`.

    Args:
        path: of the folder or file; a file may be packed (.gz, .bz2, .xz, or .zip with one file). A folder without
            `.txt` may hold such files of one kind, which are read one after the other by their names.
        field: the column or key that holds the text; a folder has none.
        person: the column or key that names the author of a document, by whom records are then dealt out and, with
            `records_per_person`, protected. `document`: whole documents are read, each cut into pieces of `length`
            tokens, which share its fate. None: a document is a record, of which the first `length` tokens are read.
        length: T, tokens of a record.
        tokens: `bytes`: the bytes of a text, which take no vocabulary from anybody. `bpe`: pairs of bytes that are
            frequent in the reference records, or in the pool if there are none. Or a folder with `tokenizer.json`.
        vocabulary: entries of `bpe` at most.
        new_tokens: entries of the vocabulary that no text has, for canaries of kind `new_token`.
        paraphrases: the key of a `.jsonl` file that holds a list of each document's paraphrases, as many of each, for
            the attack `neighbors` in the place of copies with other tokens; no model is trained on them. A run that
            is there takes them when it is trained again, which trains no model anew.
        name: of the data set; None takes the name of the file or folder.

    Raises:
        ValueError: if a setting is out of range.
    """

    path: str | Path
    field: str = "text"
    person: str | None = None
    length: Annotated[int, Field(ge=1, le=2**16)] = 128
    tokens: str | Path = BYTES_TOKENS
    vocabulary: Vocabulary = DEFAULT_VOCABULARY
    new_tokens: CountFromZero = 0
    paraphrases: str | None = None
    name: str | None = None

    def load(self) -> Records:
        """Texts as they were written, or their pieces.

        Raises:
            FileNotFoundError: if there is nothing at `path`.
            ValueError: if a file cannot be read, lacks a column or paraphrases, or a document is empty.
        """
        texts, persons = self._documents()
        self.read_paraphrases()  # wrong ones are refused before anything is trained
        if empty := [number for number, text in enumerate(texts, 1) if not text]:
            raise ValueError(
                f"data.field={self.field}: expected a text in each document; remove the {len(empty):,} of {self.path}"
                f" that are empty, the first of them number {empty[0]:,}"
            )
        for number, text in enumerate(texts, 1):
            if not text.isprintable() and HALF_LETTER.search(text):
                raise ValueError(
                    f"data.field={self.field}: expected whole letters, and document {number:,} of {self.path} holds"
                    " half of one (a lone surrogate); correct it"
                )
        tokens = self._tokens()
        if self.person == DOCUMENT_PERSON:
            cut = [self._pieces(text, tokens) for text in texts]
            texts = [piece for document in cut for piece in document]
            persons = [number for number, document in enumerate(cut) for _ in document]
        return Records(
            name=self.name or name_of(self.path),
            rows=np.array(texts, dtype=object),
            labels=None,
            persons=None if persons is None else numbered(persons),
            preprocessing=tokens,
        )

    def read_origins(self) -> Origins:
        """Words of the person column; pieces have no lines."""
        texts, persons = self._documents()
        if self.person == DOCUMENT_PERSON:
            tokens = self._tokens()
            persons = [str(number) for number, text in enumerate(texts, 1) for _ in self._pieces(text, tokens)]
        return Origins(persons=None if persons is None else list(map(str, persons)))

    def read_paraphrases(self) -> list[list[str]] | None:
        """Paraphrases of each document, as many of each; None where none are named.

        Raises:
            ValueError: if a document has none, or more or fewer than others.
        """
        if (key := self.paraphrases) is None:
            return None
        path = place("data.path", self.path)
        if ending_of(path) != LINES_ENDING or self.person == DOCUMENT_PERSON:
            raise ValueError(
                f"data.paraphrases={key}: expected null, but for whole documents in a {LINES_ENDING} file; leave it out"
            )
        rows: list[Any] = [row.get(key) for _, row in self._rows(path)]
        counts = [len(row) if isinstance(row, list) and all(map(_is_text, row)) else 0 for row in rows]
        if wrong := [number for number, count in enumerate(counts, 1) if not count or count != counts[0]]:
            raise ValueError(
                f"data.paraphrases={key}: expected a list of texts in each document of {self.path}, as many in each,"
                f" and document {wrong[0]:,} has {counts[wrong[0] - 1] or 'none'}; correct it"
            )
        return rows

    def _tokens(self) -> TokensOfTexts:
        return tokens_of(str(self.tokens), length=self.length, new_tokens=self.new_tokens, vocabulary=self.vocabulary)

    def _pieces(self, text: str, tokens: TokensOfTexts) -> list[str]:
        if isinstance(tokens, UnfittedSubwords):
            raise ValueError(
                f"data.person={DOCUMENT_PERSON}: expected tokens that are no matter of the texts, as documents are cut"
                " before any are fitted; set data.tokens=bytes or a folder"
            )
        return pieces(text, tokens)

    def _documents(self) -> tuple[list[str], list[Any] | None]:
        """All texts, and the person of each if there is a column that names it."""
        files, column = self._files(), None if self.person == DOCUMENT_PERSON else self.person
        if ending_of(files[0]) == TEXT_ENDING:
            if column is not None:
                raise ValueError(
                    f"data.person={column}: expected null or document for a folder of {TEXT_ENDING} files, which name"
                    f" no authors; give a {LINES_ENDING} file"
                )
            return [self._text_of(file) for file in files], None
        columns = [self.field] if column is None else [self.field, column]
        cells: dict[str, list[str]] = {name: [] for name in columns}
        for file in files:
            own = self._of_lines(file, columns) if ending_of(file) == LINES_ENDING else self._of_table(file, columns)
            for name, values in own.items():
                cells[name] += values
        if column is not None and (absent := sum(not person for person in cells[column])):
            raise ValueError(f"data.person={column}: expected a value in each row; remove or fill {absent:,} rows")
        return cells[self.field], None if column is None else cells[column]

    def _files(self) -> list[Path]:
        """The file at `path`, or all texts of a folder, or else its tables, which are parts of one."""
        path = place("data.path", self.path)
        if path.is_file():
            if ending_of(path) == LINES_ENDING or (is_table_file(path) and ending_of(path) != TEXT_ENDING):
                return [path]
            raise ValueError(f"data.path={self.path}: expected a folder of .txt files, or {TABLE_FORMS}; choose one")
        if not path.is_dir():
            raise FileNotFoundError(
                f"data.path={self.path}: expected a folder of .txt files, or a file, and there is none; correct it"
            )
        hidden = [file for file in path.rglob(".*") if file != path]  # notes of editors and systems
        there = [file for file in sorted(path.rglob("*")) if file.is_file() and not {file, *file.parents} & {*hidden}]
        if texts := [file for file in there if ending_of(file) == TEXT_ENDING and file.suffix.lower() == TEXT_ENDING]:
            return texts
        tables = [file for file in there if ending_of(file) in TABLE_ENDINGS]
        if len({ending_of(file) for file in tables}) != 1:
            raise ValueError(
                f"data.path={self.path}: expected a folder of .txt files, or of one kind of {TABLE_FORMS}, and it holds"
                f" {'several' if tables else 'none'}; {'name one file' if tables else 'add them'}"
            )
        return tables

    def _text_of(self, file: Path) -> str:
        try:
            return file.read_text(encoding=TEXT_ENCODING)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data.path={self.path}: expected UTF-8, and {file.name} is none at byte {error.start}; convert it"
                " (iconv -t utf-8)"
            ) from None

    def _of_lines(self, path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
        cells: dict[str, list[str]] = {column: [] for column in columns}
        for number, row in self._rows(path):
            self._check_columns(columns, row)
            for column, values in cells.items():
                value, key = row[column], "field" if column == self.field else "person"
                if isinstance(value, list | dict) or (key == "field" and not isinstance(value, str | None)):
                    raise ValueError(
                        f"data.{key}={column}: expected a {'text' if key == 'field' else 'name'} in each document, and"
                        f" line {number} holds a {type(value).__name__}; correct it"
                    )
                values.append("" if value is None or value != value else str(value))  # NaN, as pandas has it
        if not cells[self.field]:
            raise ValueError(f"data.path={self.path}: expected documents, and it holds none; add some")
        return cells

    def _rows(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """The objects of a file of JSON lines, with the numbers of their lines."""
        try:
            with opened(path) as content, io.TextIOWrapper(content, TEXT_ENCODING) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield number, self._object(number, line)
        except (*READER_ERRORS, UnicodeDecodeError) as error:
            raise ValueError(
                f"data.path={self.path}: expected lines of JSON in UTF-8 ({error}); write it anew"
            ) from None

    def _object(self, number: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"data.path={self.path}: line {number} is no JSON ({error}); correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f"data.path={self.path}: line {number} is no object; write {{…}} in each line")
        return row

    def _of_table(self, path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
        try:
            frame = read_table("path", path)  # of which `data` has no settings that could be remedies
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"data.{error}") from None
        self._check_columns(columns, list(frame))
        return {column: frame[column].fillna("").astype(str).tolist() for column in columns}

    def _check_columns(self, columns: Sequence[str], there: Any) -> None:
        for key, column in zip(("field", "person"), columns, strict=False):
            if column not in there:
                raise ValueError(
                    f"data.{key}={column}: expected a column of {self.path}; {nearest(column, list(map(str, there)))}"
                )


def pieces(text: str, tokens: Sequences) -> list[str]:
    """A document cut between letters into texts of at most as many tokens as a record has."""
    numbers, texts, start = tokens.encode(text), [], 0
    while start < len(numbers):
        ends = range(min(start + tokens.length, len(numbers)), start, -1)[:MAX_LETTER_BYTES]
        parts = [tokens.decode(numbers[start:end]).decode("utf-8", "replace") for end in ends]
        whole = next((place for place, part in enumerate(parts) if not part.endswith(TORN_LETTER)), 0)
        texts.append(parts[whole])
        start = ends[whole]
    return texts


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def numbered(persons: Sequence[Any]) -> Int64[np.ndarray, " records"]:
    """A number for each person."""
    return np.unique(np.asarray(persons), return_inverse=True)[1].astype(np.int64)
