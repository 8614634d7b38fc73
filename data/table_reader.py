"""Reader of tables: files of text, Parquet, Feather or Excel, packed or not, and rows of a program."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palisade.data.cells import PLAIN_READING, Reading, quoted, text_of
from palisade.data.column_kinds import setting as written
from palisade.data.files import OPENERS_BY_ENDING, READER_ERRORS, opened
from palisade.data.settings import place

if TYPE_CHECKING:
    import pandas as pd

ROW_FORMS = "a DataFrame, a dict, a list of dicts, or the path of a file"
TYPED_READERS = {".parquet": "read_parquet", ".feather": "read_feather", ".xlsx": "read_excel"}
"""The function of pandas that reads a file with types, by the file's ending."""
TABLE_ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".data", *TYPED_READERS)
PACKED_ENDINGS = (*OPENERS_BY_ENDING, ".zip")
OTHER_SEPARATORS = (",", ";", "\t", "|")
LIKELY_ENCODING = "cp1252"
"""Of files that are no UTF-8, unless their text says otherwise."""
SAMPLE_BYTES, SAMPLE_LINES = 200_000, 20
"""Beginning of a file that is looked at where it cannot be read as it was said to be written."""


def ending_of(path: Path | str) -> str:
    """The ending that says what a file holds, that of its packing left out: `.csv` of `people.csv.gz`."""
    endings = [ending.lower() for ending in Path(path).suffixes[-2:]]
    while endings and endings[-1] in PACKED_ENDINGS:
        endings.pop()
    return endings[-1] if endings else ""


def is_table_file(path: Path | str) -> bool:
    """True for a file that `read_table` is for, by its ending."""
    return ending_of(path) in TABLE_ENDINGS


def read_table(key: str, path: str | Path, reading: Reading = PLAIN_READING) -> pd.DataFrame:
    """A table's cells as text; of text files by the separator, header and encoding of `reading`.

    Args:
        key: of the setting that names the file, for errors; under `data` its other settings are the remedies.
        path: of the file; it may be packed (.gz, .bz2, .xz, or .zip with one file).
        reading: how the table is written.

    Returns:
        Every cell as it is written, or of a file with types as Python writes its value, empty where there is none; the
        names of columns without blanks around them, even if two are alike.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is written in another way.
    """
    setting, file = f"{key}={path}", place(key, path)
    if not file.is_file():
        raise FileNotFoundError(f"{setting} is no file; give a table, such as a CSV file")
    typed = ending_of(file) in TYPED_READERS
    frame = _read_typed(setting, file) if typed else _read_text(key, setting, file, reading)
    if not len(frame):
        raise ValueError(f"{setting} has a header and no rows; give at least 4")
    return frame


def lines_of_rows(key: str, path: str | Path, reading: Reading, rows: int) -> list[int] | None:
    """The line, counted from 1, on which each row of a table begins; None where the file has no lines, or others.

    Args:
        key: of the setting that names the file.
        path: of the file.
        reading: how it is written.
        rows: number of the rows that `read_table` gave.
    """
    first = 2 if reading.header is True else 1
    if ending_of(path) in TYPED_READERS:
        return list(range(2, rows + 2)) if ending_of(path) == ".xlsx" else None
    with opened(place(key, path)) as content, io.TextIOWrapper(content, reading.encoding, newline="") as text:
        reader = csv.reader(text, delimiter=reading.separator, skipinitialspace=reading.separator != " ")
        lines, before = [], 0
        for row in reader:
            if row:
                lines.append(before + 1)
            before = reader.line_num
    return lines[first - 1 :] if len(lines) == rows + first - 1 else None


def check_header(key: str, path: str | Path, frame: pd.DataFrame, reading: Reading = PLAIN_READING) -> None:
    """Raises ValueError if a table that lacks a column has a record in the place of its header.

    Args:
        key: of the setting that names the file.
        path: of the file.
        frame: of `read_table`.
        reading: how the table is written.
    """
    names = list(map(str, frame))
    first_row = [name for name in names if reading.number(name) is not None or name in set(frame[name])]
    if reading.header is True and ending_of(path) not in TYPED_READERS and 2 * len(first_row) > len(names):
        remedy = f"set data.header=false, or {written('header', ['name_of_column_1', '…'])}"
        raise ValueError(
            f"{key}={path}: expected a header, and the first row looks like a record ({quoted(','.join(names[:4]))},"
            f" …); {remedy if key.startswith('data.') else 'add a row with the names of the columns'}"
        )


def write_table(frame: pd.DataFrame) -> str:
    """A DataFrame as a CSV file that `read_table` reads with the same cells."""
    table = _as_text(frame)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.itertuples(index=False))
    return buffer.getvalue()


def table_of(rows: Any, names: Iterable[str] = (), reading: Reading = PLAIN_READING) -> pd.DataFrame:
    """Rows in any of the forms that a release takes, as a table.

    Args:
        rows: a DataFrame; a dict of columns, or of one record's values; a list of dicts; or the path of a file.
        names: columns that the table must have.
        reading: how a file of text is written.

    Raises:
        FileNotFoundError: if there is no file at the path.
        ValueError: if it is something else, or a column is absent, be it from one dict of a list, or there twice.
    """
    import pandas as pd

    names = list(names)
    if isinstance(rows, str | PathLike):
        table = read_table("rows", Path(rows), reading)
    elif isinstance(rows, pd.DataFrame):
        table = rows
    elif isinstance(rows, Mapping):
        table = pd.DataFrame(_columns(rows), dtype=object)
    elif isinstance(rows, Sequence) and rows and all(isinstance(row, Mapping) for row in rows):
        for keys in dict.fromkeys(map(tuple, rows)):
            _check_columns("one of the rows has", keys, names)
        table = pd.DataFrame(list(rows), dtype=object)
    else:
        raise ValueError(f"rows are of type {type(rows).__name__}; give {ROW_FORMS}")
    table = table.set_axis([str(name).strip() for name in table.columns], axis=1)
    _check_columns("rows have", table, names)
    wanted = set(names)
    if twice := repeated(name for name in table if name in wanted):
        raise ValueError(f"rows have two columns {twice}; rename one of them")
    return table


def repeated(names: Iterable[Any]) -> str | None:
    """A name that stands there twice; None if none does."""
    return next((str(name) for name, count in Counter(names).items() if count > 1), None)


def _check_columns(which: str, columns: Iterable[Any], names: Sequence[str]) -> None:
    own = {str(name).strip() for name in columns}
    if absent := [name for name in names if name not in own]:
        raise ValueError(f"{which} no column {', '.join(absent)}; give {', '.join(names)}")


def _columns(rows: Mapping[Any, Any]) -> dict[Any, Any]:
    lists = {name: list(values) for name, values in rows.items() if _is_list(values)}
    if not rows or len({len(values) for values in lists.values()}) > 1 or 0 < len(lists) < len(rows):
        raise ValueError(
            "rows are a dict of unlike parts; give a list of one length for each column, or one value each"
        )
    return lists or {name: [value] for name, value in rows.items()}


def _is_list(values: Any) -> bool:
    return isinstance(values, list | tuple) or getattr(values, "ndim", 0) == 1


def _read_text(key: str, setting: str, file: Path, reading: Reading) -> pd.DataFrame:
    try:
        with opened(file) as content:
            frame = _parsed(content, reading)
    except (UnicodeError, LookupError) as error:
        raise ValueError(_wrong_encoding(key, setting, file, reading, error)) from None
    except (ValueError, OSError, *READER_ERRORS) as error:
        reason = " ".join(str(error).split())
        if "No columns to parse" in reason:
            raise ValueError(f"{setting} is empty; give a header and at least 4 rows") from None
        proposed = _other_separator(key, file, reading) or "every row needs as many values as the header"
        raise ValueError(f"{setting} cannot be read: {reason}; {proposed}") from None
    if len(frame.columns) == 1 and (remedy := _other_separator(key, file, reading)):
        raise ValueError(f"{setting}: expected columns separated by {reading.separator!r}; {remedy}")
    if (frame.iloc[:, -1] == "").any():
        _check_lengths(setting, file, reading, frame.shape[1])
    return _with_header(setting, frame, reading)


def _parsed(content: Any, reading: Reading) -> pd.DataFrame:
    import pandas as pd

    options: dict[str, Any] = {"header": None, "dtype": object, "keep_default_na": False, "na_values": []}
    frame = pd.read_csv(
        content, sep=reading.separator, encoding=reading.encoding, skipinitialspace=reading.separator != " ",
        low_memory=False, **options,
    )  # fmt: skip
    return pd.DataFrame(frame.to_numpy(dtype=object), dtype=object)  # one block of memory, as many blocks are slow


def _check_lengths(setting: str, file: Path, reading: Reading, width: int) -> None:
    """Raises ValueError if a row of a text file has fewer values than others, which would look like missing ones."""
    with opened(file) as content, io.TextIOWrapper(content, reading.encoding, newline="") as text:
        lines = csv.reader(text, delimiter=reading.separator, skipinitialspace=True)
        try:
            short = next((len(row) for row in lines if 0 < len(row) < width), width)
        except csv.Error as error:
            raise ValueError(f"{setting}: line {lines.line_num} cannot be read ({error}); correct it") from None
    if short < width:
        raise ValueError(
            f"{setting}: line {lines.line_num} has {short} of {width} values; every row needs as many values as the"
            " header"
        )


def _read_typed(setting: str, file: Path) -> pd.DataFrame:
    import pandas as pd

    ending = ending_of(file)
    options = {"engine": "openpyxl"} if ending == ".xlsx" else {}
    try:
        with opened(file) as content:
            return _as_text(getattr(pd, TYPED_READERS[ending])(io.BytesIO(content.read()), **options))
    except ImportError as error:
        raise ValueError(
            f"{setting}: expected the library that reads {ending} files ({error.name}); install"
            " palisade-privacy[tables]"
        ) from None
    except (ValueError, OSError, KeyError, *READER_ERRORS) as error:
        raise ValueError(
            f"{setting} cannot be read: {' '.join(str(error).split())}; write it anew, or as a CSV file"
        ) from None


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells as text, empty where there is no value; an index with names becomes columns."""
    import pandas as pd

    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    columns = [_column_as_text(frame.iloc[:, k]) for k in range(frame.shape[1])]
    table = pd.concat(columns, axis=1) if columns else frame
    return table.set_axis([str(name).strip() for name in frame.columns], axis=1).reset_index(drop=True)


def _column_as_text(values: pd.Series) -> pd.Series:
    import pandas as pd

    try:
        codes, distinct = pd.factorize(values.astype(object))
    except TypeError:
        raise ValueError(f"column {values.name} holds lists or other objects; give one value for each record") from None
    texts = [_cell_as_text(cell) for cell in distinct]
    return pd.Series([*texts, ""], dtype=object).iloc[codes].set_axis(values.index)


def _cell_as_text(cell: Any) -> str:
    value = cell.item() if hasattr(cell, "item") else cell
    text = text_of(value)
    return text.removesuffix(" 00:00:00") if hasattr(value, "strftime") else text


def _with_header(setting: str, frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    if reading.header is True:
        names = ["" if isinstance(name, float) else name.strip() for name in frame.iloc[0]]
        return frame.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    if reading.header is False:
        return frame.set_axis([f"column_{k + 1}" for k in range(len(frame.columns))], axis=1)
    if len(reading.header) != len(frame.columns):
        raise ValueError(
            f"{setting}: expected {len(reading.header)} columns, as data.header names, and there are"
            f" {len(frame.columns)}; name each of them"
        )
    return frame.set_axis(list(reading.header), axis=1)


def _sample(file: Path) -> bytes:
    """The beginning of a file; nothing of a damaged one."""
    try:
        with opened(file) as content:
            return content.read(SAMPLE_BYTES)
    except (ValueError, OSError, *READER_ERRORS):
        return b""


def _wrong_encoding(key: str, setting: str, file: Path, reading: Reading, error: Exception) -> str:
    from charset_normalizer import from_bytes

    sample = _sample(file)
    best = from_bytes(sample, cp_exclusion=["utf_8"], preemptive_behaviour=True).best()
    is_sure = best is not None and (best.bom or best.coherence > 0)
    if best is None or not is_sure or LIKELY_ENCODING in best.could_be_from_charset:
        likely = LIKELY_ENCODING
    else:
        likely = best.encoding
    where = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
    reason = "no encoding" if isinstance(error, LookupError) else f"not how it is written{where}"
    remedy = f"set data.encoding={likely}" if key.startswith("data.") else f"convert it (iconv -f {likely} -t utf-8)"
    return f"{setting}: {reading.encoding} is {reason}; {remedy}, which reads its beginning"


def _other_separator(key: str, file: Path, reading: Reading) -> str | None:
    """The remedy if another separator gives all lines at the beginning of a file equally many columns."""
    text = _sample(file).decode(reading.encoding, errors="replace")
    lines = [line for line in text.splitlines()[:SAMPLE_LINES] if line.strip()]
    for separator in OTHER_SEPARATORS:
        try:
            counts = Counter(len(row) for row in csv.reader(lines, delimiter=separator))
        except csv.Error:
            return None
        width, agreeing = counts.most_common(1)[0] if counts else (1, 0)
        if separator != reading.separator and width > 1 and agreeing >= len(lines) - 1:
            named = "tab" if separator == "\t" else separator
            write = written("separator", named) if key.startswith("data.") else "separate them by ,"
            return f"they look separated by {named!r}: {write}"
    return None
