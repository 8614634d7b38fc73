"""Outputs of a command in a form in which two versions of the code can be compared: keys and values, no layout.

What may differ between machines and releases (hashes of runs, folders, versions, module paths, progress) is left out.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

HASH_PATTERNS = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<digest>"),
    (re.compile(r"-(?=[0-9a-f]*\d)[0-9a-f]{6,8}\b"), "-<hash>"),
)
VERSION_PATTERN = re.compile(r"(?:[\w-]+ \d+\.\d+\.\d+(?:\+\w+)?(?:, )?){2,}")
MODULE_PATH = re.compile(
    r"\b(?:palisade\.)?(?:datamodules|data|targets|defenses|attacks|evaluation)(?:\.[a-z_]+)*\.(?=[A-Z])"
)
NUMBER_PATTERN = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
PROGRESS_PATTERN = re.compile(r"^.*\d+/\d+ (?:models|runs|records).*·.*$\n?", re.MULTILINE)
UNSTABLE_KEYS = ("versions", "results_version", "method_version", "command")
ROW_LISTS = ("rows", "roc")
"""Of report.json: the rows stand in results.csv as well, and the curves are long."""
ROW_KEYS = ("run", "attack", "group", "metric")
ROW_VALUES = ("value", "low", "high", "members", "nonmembers", "queries_made")
RELATIVE_TOLERANCE = 1e-4


def json_of(path: Path, folder: Path) -> Any:
    """A JSON file without what is unstable."""
    return _stable(json.loads(path.read_text(encoding="utf-8")), folder)


def csv_of(path: Path, folder: Path) -> dict[str, str]:
    """A tidy table as {run, attack, group, metric: values}: all models together, of groups the first class."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("model", "all") == "all"]
    rows = [row for row in rows if row.get("group", "all") in ("all", "class=0")]
    table = {}
    for row in rows:
        key = " ".join(text(row.get(part, ""), folder) for part in ROW_KEYS)
        assert key not in table, f"{path.name}: two rows {key}"
        table[key] = " ".join(short(row.get(part, "")) for part in ROW_VALUES).strip()
    return table


def page_of(path: Path, folder: Path) -> list[str]:
    """The words of a page, one element a line, without styles, scripts and figures."""
    reader = _Words()
    reader.feed(path.read_text(encoding="utf-8"))
    return [text(line, folder) for line in reader.lines]


def printed_of(output: str, folder: Path) -> list[str]:
    """Printed text in paragraphs: width and padding say nothing."""
    paragraphs = re.split(r"\n\s*\n", PROGRESS_PATTERN.sub("", output).replace("─", ""))
    return [" ".join(text(part, folder).split()) for part in paragraphs if part.strip()]


def text(words: str, folder: Path) -> str:
    """Words without folders, hashes and module paths."""
    words = words.replace(str(folder.resolve()), "<folder>").replace(str(folder), "<folder>")
    for pattern, name in HASH_PATTERNS:
        words = pattern.sub(name, words)
    words = VERSION_PATTERN.sub("<versions>", words)
    return MODULE_PATH.sub("", words)


def short(cell: str) -> str:
    """A number of a table with six digits."""
    try:
        return f"{float(cell):.6g}"
    except ValueError:
        return cell


def differences(expected: Any, actual: Any) -> list[str]:
    """Places where two outputs differ; numbers may differ by 1e-4, or by one in the last digit that is shown."""
    left, right = dict(_leaves(expected)), dict(_leaves(actual))
    lost = [f"{key}: {left[key]!r} is lost" for key in left.keys() - right.keys()]
    new = [f"{key}: {right[key]!r} is new" for key in right.keys() - left.keys()]
    changed = [
        f"{key}: {left[key]!r} became {right[key]!r}"
        for key in left.keys() & right.keys()
        if not _equal(left[key], right[key])
    ]
    return sorted(lost + new + changed)


def _stable(value: Any, folder: Path) -> Any:
    match value:
        case dict():
            left_out = (*UNSTABLE_KEYS, *ROW_LISTS)
            return {text(key, folder): _stable(entry, folder) for key, entry in value.items() if key not in left_out}
        case list():
            return [_stable(entry, folder) for entry in value]
        case str():
            return text(value, folder)
        case float():
            return float(f"{value:.6g}")
    return value


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    match value:
        case Mapping() if value:
            for key, entry in value.items():
                yield from _leaves(entry, f"{place}/{key}")
        case list() if value:
            for k, entry in enumerate(value):
                yield from _leaves(entry, f"{place}/{k}")
        case _:
            yield place, value


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool) or type(left) is type(right) is str:
        return left == right or (isinstance(left, str) and isinstance(right, str) and _equal_words(left, right))
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)
    return bool(left == right)


def _equal_words(left: str, right: str) -> bool:
    if NUMBER_PATTERN.sub("#", left) != NUMBER_PATTERN.sub("#", right):
        return False
    return all(_close(*pair) for pair in zip(NUMBER_PATTERN.findall(left), NUMBER_PATTERN.findall(right), strict=True))


def _close(left: str, right: str) -> bool:
    if "." not in left and "e" not in left:
        return left == right
    _, _, decimals = left.partition("e")[0].partition(".")
    unit = 10.0 ** -len(decimals)
    values = [float(number.replace(",", "")) for number in (left, right)]
    return math.isclose(
        *values, rel_tol=RELATIVE_TOLERANCE, abs_tol=1.01 * unit if len(decimals) < 4 else RELATIVE_TOLERANCE
    )


class _Words(HTMLParser):
    """Collects what a reader of a page sees as text."""

    BLOCKS = frozenset({"p", "tr", "li", "h1", "h2", "h3", "h4", "div", "dt", "dd", "summary", "figcaption", "section"})
    SILENT = frozenset({"style", "script", "svg"})

    def __init__(self) -> None:
        super().__init__()
        self.silent, self.parts = 0, [""]

    @property
    def lines(self) -> list[str]:
        return [line for part in self.parts if (line := " ".join(part.split()))]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.silent += tag in self.SILENT
        self.parts += [""] if tag in self.BLOCKS else []

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in self.SILENT
        self.parts += [""] if tag in self.BLOCKS else []
        if tag in ("td", "th"):
            self.parts[-1] += " "

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts[-1] += data
