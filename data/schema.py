"""Schema of a table: a description of its columns as YAML, to be edited until nothing of it comes from the records."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import asdict
from typing import Any

from palisade.data.cells import PLAIN_READING
from palisade.data.columns import Columns, UnfittedColumns
from palisade.data.settings import validated
from palisade.data.table import Table
from palisade.data.table_reader import read_table

SIGNIFICANT_DIGITS = 4
LINE_WIDTH = 110
SCHEMA_USAGE = "palisade schema <file> [data.label=<column>] [data.drop=[…] and other settings of data=csv]"
SCHEMA_HEADER = """\
Columns of {path}, but for the label {label}{person}. Their numbers and words were read off the file, so that ε does
not cover them. Put in their place what was known before anybody saw the records, such as the ages that adults have
and the words of a code book, and remove the next line: then the statement holds without exception.
"""


def schema_text(path: str, settings: dict[str, Any]) -> str:
    """A whole schema of a table, which `data.schema=<file>` reads.

    Args:
        path: of the table.
        settings: of `Table`; the label is the last column unless they name another one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or a column identifies persons.
    """
    import yaml

    if "label" not in settings:
        settings = {**settings, "label": str(column_names(path, settings)[-1])}
    table = validated(Table, "data", {"missing": "impute", **settings, "path": path})
    records = table.load()
    if not isinstance(records.preprocessing, UnfittedColumns):
        raise ValueError(f"data.schema={table.schema}: expected none, as it is to be written; leave it out")
    rows: Any = records.rows
    columns = records.preprocessing.fit(rows, "private", records.persons)
    with_gaps = {str(name) for name in rows.columns[rows.isna().any()]}
    content: dict[str, Any] = {"columns": {name: _entry(columns, name, with_gaps) for name in columns.columns}}
    if columns.reading != PLAIN_READING:
        plain = asdict(PLAIN_READING)
        own = {key: value for key, value in asdict(columns.reading).items() if value != plain[key]}
        content["reading"] = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
    person = "" if table.person is None else f" and the person {table.person}"
    header = SCHEMA_HEADER.format(path=path, label=table.label, person=person)
    comment = textwrap.fill(header, LINE_WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    described = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=LINE_WIDTH)
    return f"{comment}\nstatistics: private\n{described}"


def column_names(path: str, settings: dict[str, Any]) -> list[str]:
    """The names of a table's columns."""
    table = validated(Table, "data", {**settings, "path": path, "label": ""})
    return list(map(str, read_table("data.path", path, table.reading)))


def main() -> None:
    """The command `palisade schema`: prints a schema of the file that its words name.

    Raises:
        ValueError: if they name none, or a setting is wrong.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = sys.argv[1:]
    paths = [word for word in words if "=" not in word]
    overrides = OverridesParser.create().parse_overrides([word for word in words if "=" in word])
    foreign = [each.key_or_group for each in overrides if not each.key_or_group.startswith("data.")]
    if len(paths) != 1 or foreign:
        raise ValueError(f"{' '.join([*paths, *foreign]) or 'no file'}: expected one file; {SCHEMA_USAGE}")
    print(schema_text(paths[0], {each.key_or_group.removeprefix("data."): each.value() for each in overrides}), end="")


def _entry(columns: Columns, name: str, with_gaps: set[str]) -> dict[str, Any]:
    """A column's description without what is usual: values that are missing in no row need no fill."""
    entry = {key: _plain(value) for key, value in asdict(columns.columns[name]).items() if value is not None}
    if name not in with_gaps:
        entry.pop("fill", None)
    return entry


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return list(value) if isinstance(value, tuple) else value
