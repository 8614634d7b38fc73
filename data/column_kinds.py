"""Kinds of columns, inferred from their cells: numbers, words or dates; and columns that no model may be trained on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from palisade.data.cells import PLAIN_READING, TRUTH_VALUES, Reading, numbered_cells, quoted
from palisade.data.dates import day_of, format_of, is_date
from palisade.fields import MAX_VALUE_LETTERS

if TYPE_CHECKING:
    import pandas as pd

DIGIT_CODE = re.compile(r"0[0-9]+")
"""Whole numbers that are none: a code, such as 007."""
LETTER_CODE = re.compile(r"[A-Za-z]+[0-9]")
"""The beginning of a code such as V57, which may stand beside numbers."""
IDENTIFIER_SHARE = 0.9
"""Share of distinct words from which on a column identifies persons."""
DISTINCT_SHARE = 0.99
"""Share of distinct whole numbers, and of numbers in use between the least and the largest, from which on they do."""
IDENTIFIER_WORDS = {"id", "identifier", "number", "code", "nr", "nbr", "ssn", "mrn", "номер", "код"}
LAST_IDENTIFIER_WORDS = {"no", "num", "nos"}
"""Words that mean numbers at the end of a name alone: `account_no`, but not `no_of_visits`."""
IDENTIFIER_ENDINGS = ("id", "number", "code", "nr", "nbr", "nummer", "numero", "codigo", "identifiant", "kennung")
IDENTIFIED_THINGS = (
    *("patient", "account", "customer", "client", "order", "invoice", "member", "case", "policy", "ticket", "serial"),
    *("record", "person", "employee", "user", "phone", "card", "file", "sample", "subject"),
)
"""Words that a name of numbers for them begins with, such as `patientno`."""
WORDS_ON_ID = {
    *("acid", "aid", "amid", "android", "arid", "avoid", "bid", "candid", "carotid", "covid", "did", "druid", "fluid"),
    *("grid", "hid", "humid", "hybrid", "invalid", "kid", "laid", "lid", "lipid", "liquid", "maid", "mid", "opioid"),
    *("paid", "placid", "prepaid", "raid", "rapid", "rigid", "said", "solid", "squid", "steroid", "thyroid", "typhoid"),
    *("unpaid", "valid", "vivid", "void"),
}
"""Words that end in id and mean none."""
NUMBERS_SHARE, MIN_NUMBERS = 0.8, 10
"""Share and count of numbers among the distinct words of a column from which it is one of numbers."""
NUMBER_ROWS_SHARE, CODE_ROWS_SHARE = 0.9, 0.01
"""Share of rows from which numbers make a column one of numbers, and codes beside them one of codes."""
MIN_WHOLE_NUMBERS = 10
"""Rows below which whole numbers are consecutive or sorted by chance."""
MAX_SHOWN, MAX_MARKS = 3, 10
"""Columns and rows that an error names, and words for no value."""


@dataclass(frozen=True, kw_only=True)
class ColumnKinds:
    """The kind of each column of a table.

    Args:
        rows: cells of `Reading.cells`, of private records alone.
        persons: the person of each row; None: each row is another one's.
        reading: how the table writes its values.
        categorical: columns that are words, whatever they look like.
        numeric: columns that are numbers, whatever they look like.
        dates: columns that are dates.
        dropped: columns that were left out, for the remedy of an error.
    """

    rows: pd.DataFrame
    persons: Int64[np.ndarray, " records"] | None = None
    reading: Reading = PLAIN_READING
    categorical: Sequence[str] = ()
    numeric: Sequence[str] = ()
    dates: Sequence[str] = ()
    dropped: Sequence[str] = ()
    _distinct: dict[str, list[Any]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Columns of which every cell is a number and none a code such as 007, and those that are called numeric."""
        other, called = {*self.categorical, *self.dates}, set(self.numeric)
        inferred = zip(map(str, self.rows), self._looks.numeric.tolist(), strict=True)
        return tuple(name for name, is_numeric in inferred if name not in other and (is_numeric or name in called))

    @cached_property
    def formats(self) -> Mapping[str, str]:
        """The format of each column of dates.

        Raises:
            ValueError: if a cell of one is no date.
        """
        return {name: self._format(name) for name in self.dates}

    @property
    def words(self) -> tuple[str, ...]:
        """All other columns."""
        other = {*self.numbers, *self.dates}
        return tuple(name for name in map(str, self.rows) if name not in other)

    def check(self) -> None:
        """Raises ValueError for a column of dates, of numbers that are taken for words, or one that names persons."""
        named: dict[str, str] = {}
        dated = {str(name) for name in self.rows.columns[self._looks.dated]}
        for name in self.words:
            if name not in self.categorical and len(self.rows) > 1:
                if name in dated:
                    self._check_dates(name)
                naming = self._naming_words(name)
                if not (naming and _are_codes(self._words_of(name))):
                    self._check_numbers(name)
                named |= naming
        for name in self.numbers:
            if name in dated and name not in self.numeric:
                self._check_dates(name)
        for name in self._whole_and_distinct():
            named |= self._naming_numbers(name)
        if named:
            what = "; ".join(f"{name} has {reason}" for name, reason in list(named.items())[:MAX_SHOWN])
            more = f"; and {len(named) - MAX_SHOWN} more" if len(named) > MAX_SHOWN else ""
            raise ValueError(
                f"{setting('drop', self.dropped)}: expected all columns that identify persons: {what}{more};"
                f" set {setting('drop', [*self.dropped, *named])}, or keep one by data.categorical or data.numeric"
            )

    def _words_of(self, name: str) -> list[Any]:
        if name not in self._distinct:
            self._distinct[name] = self.rows[name].dropna().unique().tolist()
        return self._distinct[name]

    @cached_property
    def _looks(self) -> _Looks:
        looks = _Looks(np.ones(self.rows.shape[1], dtype=bool), np.zeros(self.rows.shape[1], dtype=bool))
        for places, codes, words in numbered_cells(self.rows):
            plain = [self.reading.number(word) is not None and not _is_digit_code(word) for word in words]
            looks.numeric[places] = np.array([*plain, True])[codes].all(axis=0)
            looks.dated[places] = np.array([*map(is_date, words), False])[codes].any(axis=0)
        return looks

    def _whole_and_distinct(self) -> list[str]:
        """Columns of whole numbers that may identify persons; a column called numeric does not."""
        called = set(self.numeric)
        names = [name for name in self.numbers if name not in called]
        numbers = np.sort(self.reading.numbers(self.rows[names]), axis=0)
        present = ~np.isnan(numbers)
        whole = ((numbers % 1 == 0) | ~present).all(axis=0)
        if self.persons is None:
            distinct = present[:1].sum(axis=0) + (numbers[1:] > numbers[:-1]).sum(axis=0)
            units = present.sum(axis=0)
            whole &= distinct >= np.minimum(units - 1, DISTINCT_SHARE * units)
        return [name for name, is_whole in zip(names, whole.tolist(), strict=True) if is_whole]

    def _format(self, name: str) -> str:
        words = self._words_of(name)
        if not words:
            raise ValueError(
                f"{setting('dates', self.dates)}: expected a date in column {name}; leave it out with data.drop"
            )
        try:
            form = format_of(words)
        except ValueError as error:
            raise ValueError(
                f"{setting('dates', self.dates)}: expected one reading of column {name}, {error}"
            ) from None
        if form is None:
            first = format_of(words[:1]) or ""
            odd = next((word for word in words if day_of(word, first) is None), words[0])
            where = f"column {name} has {quoted(odd)} in row {self._rows_of(name, [odd])}"
            raise ValueError(
                f"{setting('dates', self.dates)}: expected dates of one format, {where}; write all as 2020-04-30"
            )
        return form

    def _rows_of(self, name: str, words: Sequence[Any]) -> str:
        rows = (np.flatnonzero(self.rows[name].isin(words)) + 1).tolist()
        return ", ".join(map(str, rows[:MAX_SHOWN])) + (", …" if len(rows) > MAX_SHOWN else "")

    def _check_dates(self, name: str) -> None:
        """Raises ValueError if nearly all words are dates."""
        words = self._words_of(name)
        days = [word for word in words if is_date(word)]
        if words and len(days) >= IDENTIFIER_SHARE * len(words):
            reads = f"read them with {setting('dates', [*self.dates, name])}"
            writes = "write them as 2020-04-30, since they may be read in several ways or in none"
            raise ValueError(
                f"{setting('dates', self.dates)}: expected column {name} too, which holds dates such as"
                f" {quoted(days[0])}; {reads if _are_read(days) else writes}, or leave them out with"
                f" {setting('drop', [*self.dropped, name])}"
            )

    def _check_numbers(self, name: str) -> None:
        """Raises ValueError if the column is one of numbers but for some cells, or but for how they are written."""
        cells = self.rows[name].dropna()
        words = self._words_of(name)
        plain = [word for word in words if self._is_plain_number(word)]
        odd = [word for word in words if not self._is_plain_number(word)]
        signed = [word for word in odd if self.reading.number(word) is None and is_with_signs(word)]
        if len({symbol for word in signed for symbol in _symbols(word) if symbol.isalpha()}) > 1:
            signed = []  # 12A and 12B, 1st and 2nd: no units
        codes = [word for word in odd if LETTER_CODE.match(word) or _is_digit_code(word)]
        is_code = len(codes) > len(odd) / 2 or any(map(_is_digit_code, odd))
        if cells.isin(plain).mean() >= NUMBER_ROWS_SHARE:  # a few codes are mistakes
            is_code &= len(codes) > MAX_SHOWN and cells.isin(codes).mean() >= CODE_ROWS_SHARE
            many = True
        else:
            many = len(plain) + len(signed) >= max(MIN_NUMBERS, NUMBERS_SHARE * len(words))
        if is_code or not many:
            return
        reading = reading_of(signed, plain, self.reading)
        shown = odd if reading is None else signed
        ways = self._ways_to_read(name, odd, reading)
        where = f"such as {quoted(shown[0])}, in rows {self._rows_of(name, shown)}"
        raise ValueError(
            f"column {name} holds numbers but for {len(odd)} of {len(words)} different values, {where};"
            f" {''.join(f'set {way}, ' for way in ways)}correct them, or keep words with"
            f" {setting('categorical', [*self.categorical, name])}"
        )

    def _is_plain_number(self, word: Any) -> bool:
        is_truth = isinstance(word, str) and word.lower() in TRUTH_VALUES
        return not is_truth and self.reading.number(word) is not None and not _is_digit_code(word)

    def _ways_to_read(self, name: str, odd: Sequence[str], reading: Reading | None) -> list[str]:
        """Settings under which the odd cells are numbers, or no values."""
        if reading is not None:
            own = asdict(self.reading)
            changed = [setting(key, value) for key, value in asdict(reading).items() if value != own[key]]
            return [" ".join(changed)]
        if all(self.reading.number(word) is not None for word in odd):  # 08
            return [setting("numeric", [*self.numeric, name])]
        marks = [word for word in odd if len(word) <= MAX_VALUE_LETTERS and not re.search("[0-9]", word)][:MAX_MARKS]
        both = setting("missing_words", [*self.reading.missing_words, *marks])
        return [f"{both} if they mean no value"] if marks else []

    def _naming_words(self, name: str) -> dict[str, str]:
        distinct, units, noun = self._count(name)
        if units > 1 and distinct > IDENTIFIER_SHARE * units:
            return {name: f"{distinct:,} different words of {units:,} {noun}"}
        return {}

    def _naming_numbers(self, name: str) -> dict[str, str]:
        """Whole numbers, nearly all distinct, that are consecutive, sorted, or called so."""
        distinct, units, noun = self._count(name)
        if distinct < min(units - 1, DISTINCT_SHARE * units) or units < MIN_WHOLE_NUMBERS:
            return {}
        values = self.reading.numbers(self.rows[[name]])[:, 0]
        values = values[~np.isnan(values)]
        unique, places = np.unique(values, return_index=True)
        steps = np.diff(values[np.sort(places)])
        if DISTINCT_SHARE * (np.ptp(unique) + 1) <= len(unique):
            return {name: f"consecutive numbers of {units:,} {noun}"}
        if (steps > 0).all() or (steps < 0).all():
            return {name: f"sorted different numbers of {units:,} {noun}"}
        return {name: f"different numbers of {units:,} {noun}"} if _is_identifier_name(name) else {}

    def _count(self, name: str) -> tuple[int, int, str]:
        """Distinct values and how many could be: one for each row, or each person where persons keep theirs."""
        cells, distinct = self.rows[name].dropna(), len(self._words_of(name))
        if self.persons is not None and len(cells):
            persons = self.persons[~self.rows[name].isna().to_numpy()]
            many = int(np.count_nonzero(np.bincount(persons)))
            if many < len(cells) and distinct > IDENTIFIER_SHARE * many:
                own = cells.groupby(persons).nunique()
                if (own == 1).mean() > IDENTIFIER_SHARE:
                    return distinct, many, "persons"
        return distinct, len(cells), "rows"


class _Looks(NamedTuple):
    """Columns of which every cell is a number, and columns of which one is a date."""

    numeric: Bool[np.ndarray, " columns"]
    dated: Bool[np.ndarray, " columns"]


def _is_digit_code(word: Any) -> bool:
    return isinstance(word, str) and DIGIT_CODE.fullmatch(word) is not None


def setting(key: str, value: str | Sequence[str]) -> str:
    """A setting as a command line takes it, in quotes where it needs them."""
    words = [_plain_or_quoted(text) for text in ([value] if isinstance(value, str) else value)]
    written = f"data.{key}={words[0]}" if isinstance(value, str) else f"data.{key}=[{','.join(words)}]"
    return f'"{written}"' if "'" in written else written


def _plain_or_quoted(text: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _are_read(words: Sequence[str]) -> bool:
    try:
        return format_of(words) is not None
    except ValueError:  # of two months
        return False


def _is_identifier_name(name: str) -> bool:
    """True for such as patientIDs, passengerid, patient_nbr, Kundennr, account_no."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    words = [word.lower() for word in re.findall(r"[A-Z]+s?(?![a-z])|[A-Z]?[^\W\d_A-Z]+", plain)]
    singular = [word.removesuffix("s") for word in words]
    return (
        not IDENTIFIER_WORDS.isdisjoint(singular)
        or any(word.endswith(IDENTIFIER_ENDINGS) and word not in WORDS_ON_ID for word in singular)
        or singular[-1:] in ([word] for word in LAST_IDENTIFIER_WORDS)
        or any(word == thing + last for word in singular for thing in IDENTIFIED_THINGS for last in ("no", "num"))
    )


SPACED_GROUPS = "'’ \u00a0\u202f"
"""Signs between groups of digits that are neither point nor comma."""
CURRENCY_CODES = (
    *("USD", "EUR", "GBP", "CHF", "JPY", "CNY", "INR", "AUD", "CAD", "NZD", "SGD", "HKD", "KRW", "ZAR", "TRY", "SEK"),
    *("NOK", "DKK", "PLN", "CZK", "HUF", "RON", "BRL", "MXN", "RUB", "UAH", "ILS", "AED", "SAR", "THB"),
)
ORDINAL_ENDINGS = ("st", "nd", "rd", "th")
CODE_WITH_NUMBER = re.compile(r"[A-Za-z]+[ #/_-]?[0-9]+|[0-9]+[A-Za-z]+")
"""Such as INV-723091, KLM 4711 and 4711AB."""
NUMBER_WITH_SIGNS = re.compile(
    rf"[+-]?(?P<before>[A-Z]{{0,2}}[$€£¥]|[^\w\s.,+-]|{'|'.join(CURRENCY_CODES)})?\s*[+-]?(?:[0-9]{{1,3}}(?:[{SPACED_GROUPS}][0-9]{{3}})+|[0-9])[0-9.,]*"
    r"\s*(?P<after>[^\w\s.,+-]|°[CFK]|[^\W\d_]{1,12}(?:/[^\W\d_]{1,6})?)?"
)
SIGN_PAIRS = (
    (".", None),
    (".", ","),
    (",", None),
    (",", "."),
    *((point, sign) for sign in SPACED_GROUPS for point in ".,"),
)
"""Signs before a fraction and between groups of digits, in the order in which they are tried."""
RATIO_SIGNS = "%‰°"


def is_with_signs(word: str) -> bool:
    """True for a number with signs, such as $1,234.50 or (12)."""
    return NUMBER_WITH_SIGNS.fullmatch(word) is not None


def reading_of(signed: Sequence[str], plain: Sequence[str], reading: Reading) -> Reading | None:
    """The reading under which all of these words are numbers of one unit; None if there is none.

    No sign is left out that may change a number: a minus, a bracket, <, K or M, or a unit that only some words have.

    Args:
        signed: numbers with signs that `reading` does not read.
        plain: numbers that it reads.
        reading: how the table writes its values, as far as the user has said.
    """
    symbols = {symbol for word in signed for symbol in _symbols(word)}
    shared = not plain and len(symbols) == 1 and all(map(_symbols, signed)) and all(map(_is_unit, symbols))
    if not signed or (symbols and not shared):
        return None
    for decimal, thousands in SIGN_PAIRS:
        other = replace(reading, decimal=decimal, thousands=thousands, symbols=(*reading.symbols, *symbols))
        if _extends(reading, other) and all(_is_read(word, other) for word in (*signed, *plain)):
            return other
    return None


def _symbols(word: str) -> set[str]:
    match = NUMBER_WITH_SIGNS.fullmatch(word)
    return {symbol for symbol in (match.groups() if match else ()) if symbol}


def _is_unit(symbol: str) -> bool:
    """True for a currency, a ratio, or a unit such as kg; false for a letter such as K, for brackets and for `th`."""
    if len(symbol) > 1:
        return symbol not in ORDINAL_ENDINGS
    return symbol in RATIO_SIGNS or unicodedata.category(symbol) == "Sc"


def _are_codes(words: Sequence[str]) -> bool:
    """True if most of the words are codes such as INV-723091, and no amounts of money."""
    codes = [word for word in words if CODE_WITH_NUMBER.fullmatch(word) and not word.startswith(CURRENCY_CODES)]
    return len(codes) > len(words) / 2


def _extends(reading: Reading, other: Reading) -> bool:
    """True if the other reading differs only in what the user has not said."""
    return reading.decimal in (other.decimal, PLAIN_READING.decimal) and reading.thousands in (other.thousands, None)


def _is_read(word: str, reading: Reading) -> bool:
    """True if the word is a number whose groups of digits do not begin with 0, as that of 0,125 would."""
    grouped = reading.thousands is not None and re.match(rf"[^0-9]*0{re.escape(reading.thousands)}", word)
    return not grouped and reading.number(word) is not None
