"""Dates of a table as a network's inputs: year, month, weekday, and days since 1970."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import permutations
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import Field

from palisade.data.cells import text_of
from palisade.fields import CheckedFields, Positive, as_written

if TYPE_CHECKING:
    import pandas as pd

Finite = Annotated[float, Field(allow_inf_nan=False)]
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
DAYS_PER_YEAR = 365.2425
DAY_FORMATS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y%m%d"),
    *(
        form
        for month in ("%b", "%B")
        for form in (f"%d {month} %Y", f"%d-{month}-%Y", f"{month} %d, %Y", f"{month} %d %Y")
    ),
)
TIME_FORMATS = tuple(f"%H:%M{rest}{zone}" for rest in ("", ":%S", ":%S.%f") for zone in ("", "%z"))
DATE_FORMATS = (
    *DAY_FORMATS,
    *(f"{day}{sep}{time}" for day in DAY_FORMATS for sep in (" ", "T") for time in TIME_FORMATS),
    *(f"{day} {time}" for day in DAY_FORMATS for time in ("%I:%M %p", "%I:%M:%S %p", "%I:%M%p", "%I:%M:%S%p")),
)
"""Formats that a column of dates may have; the time of day is read and left out, and so is its zone."""
FRAME_FORMATS = (
    "%Y-%m-%d",
    *(f"%Y-%m-%d %H:%M:%S{rest}{zone}" for rest in ("", ".%f") for zone in ("", "%z")),
)
MONTH_NAME = re.compile(
    "(jan|feb|f[eé]v|mar|mär|mrz|mrt|mae|mai|maj|may|mei|mag|a[pvb]r|jun|jui|jul|giu|lug|aug|ago|ao[uû]|sep|o[ck]t|ott|nov"
    r"|de[cz]|d[ié]c)\w*"
)
"""Months in languages of Europe, by their first three letters."""
DATE_WORD = re.compile("t|z|utc|gmt|[ap]m?|m|st|nd|rd|th|de|of|(mon|tue|wed|thu|fri|sat|sun)[a-z]*")
"""Words beside the numbers of a date."""
DATE_OF_NUMBERS = re.compile(
    r"(?:([0-9]{4})([-/. ])([0-9]{1,2})\2([0-9]{1,2})|([0-9]{1,2})([-/. ])([0-9]{1,2})\6([0-9]{4}|[0-9]{2})"
    r"|((?:19|20)[0-9]{2})([0-9]{2})([0-9]{2}))(?![0-9])"
)
TIME_OF_DAY = re.compile(
    r"(?:[T, ]+[0-9]{1,2}(?::[0-9]{2}){1,2}(?:[.,][0-9]+)?\s*(?:[ap]\.?m\.?)?\s*(?:Z|UTC|GMT|[+-][0-9:]{2,6})?)?", re.I
)
MAX_DATE_LETTERS = 50
MONTHS_PER_YEAR, DAYS_PER_WEEK = 12, 7


@dataclass(frozen=True, kw_only=True)
class Dates(CheckedFields):
    """Year and days since 1970, both standardized, and one input for each month and weekday.

    Args:
        date: the format of a date, one of `DATE_FORMATS`.
        center: days since 1970 that count as 0.
        scale: days that count as 1.
        fill: days since 1970 of a missing date; None refuses it.
    """

    date: str
    center: Finite = 0.0
    scale: Positive = DAYS_PER_YEAR
    fill: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.date not in DATE_FORMATS:
            raise ValueError(
                f"date={self.date}: expected one of {', '.join(DAY_FORMATS)}; choose e.g. {DAY_FORMATS[0]}"
            )
        if self.fill is not None and not date.min.toordinal() <= self.fill + EPOCH_ORDINAL <= date.max.toordinal():
            raise ValueError(
                f"fill={self.fill}: expected days from 1970 to a day of the years 1 to 9999; choose e.g. 0"
            )

    @classmethod
    def fit(cls, name: str, cells: pd.Series, form: str, missing: str) -> Dates:
        """Mean and standard deviation of the days."""
        days = cls(date=form, fill=0.0).days(name, cells.dropna())
        center = float(np.round(days.mean()))
        return cls(
            date=form, center=center, scale=float(days.std()) or 1.0, fill=center if missing == "impute" else None
        )

    @property
    def width(self) -> int:
        """Number of inputs of the column: two numbers, the months and the weekdays."""
        return 2 + MONTHS_PER_YEAR + DAYS_PER_WEEK

    @property
    def fills(self) -> bool:
        """True if a missing value counts as something."""
        return self.fill is not None

    def encode(self, name: str, cells: pd.Series) -> Float32[np.ndarray, "records 21"]:
        """A column's cells: year and days since 1970 in units of the scale, one-hot months, one-hot weekdays.

        Args:
            name: of the column, for errors.
            cells: of `Reading.cells`.

        Raises:
            ValueError: if a cell is no date of the format.
        """
        days = self.days(name, cells)
        known = [date.fromordinal(int(day) + EPOCH_ORDINAL) for day in days]
        years = np.array([day.year + 0.5 for day in known], dtype=np.float64)
        months = np.array([day.month - 1 for day in known], dtype=np.int64)
        weekdays = np.array([day.weekday() for day in known], dtype=np.int64)
        middle = 1970 + self.center / DAYS_PER_YEAR
        numbers = np.stack([(years - middle) * DAYS_PER_YEAR, days - self.center], axis=1) / self.scale
        parts = [numbers, months[:, None] == np.arange(MONTHS_PER_YEAR), weekdays[:, None] == np.arange(DAYS_PER_WEEK)]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def days(self, name: str, cells: pd.Series) -> Int64[np.ndarray, " records"]:
        """Days since 1970.

        Raises:
            ValueError: if a cell is no date of the format.
        """
        import pandas as pd

        places, distinct = pd.factorize(cells.astype(object))
        known = [day_of(cell, self.date) for cell in distinct]
        if None in known:
            row = int((places == known.index(None)).argmax()) + 1
            odd = distinct[known.index(None)]
            raise ValueError(f"column {name} has {as_written(odd)!r} among its dates, in row {row}; write {self.date}")
        return np.array([*known, round(self.fill or 0.0)], dtype=np.int64)[places]


def day_of(cell: Any, form: str) -> int | None:
    """Days from 1970 to a date in this format, or as frames write their own dates; None if it is none."""
    return next((day for each in (form, *FRAME_FORMATS) if (day := _read(cell, each)) is not None), None)


def format_of(words: Sequence[str]) -> str | None:
    """The format that reads all of these words; None if none does.

    Raises:
        ValueError: if several do, and read other days, as of 03/04/2020.
    """
    days = {form: [_read(word, form) for word in words] for form in DATE_FORMATS if _read(words[0], form) is not None}
    able = {form: tuple(read) for form, read in days.items() if None not in read}
    if len(set(able.values())) > 1:
        raise ValueError(f"{words[0]} may be a day of two months; write it as 2020-04-30")
    return next(iter(able), None)


def is_date(cell: Any) -> bool:
    """True for whatever people mean by a day, be it in a format that is read or in another one."""
    if not isinstance(cell, str) or not 6 <= len(cell) <= MAX_DATE_LETTERS:
        return False
    if match := DATE_OF_NUMBERS.match(cell):
        parts = [part for part in match.groups() if part and part.isdigit()]
        small = [int(part) for part in parts if len(part) <= 2]
        days = any(first <= 12 and second <= 31 for first, second in permutations(small, 2) if min(first, second) > 0)
        return days and TIME_OF_DAY.fullmatch(cell, match.end()) is not None
    tokens = [token.casefold() for token in re.findall(r"[^\W\d_]+|[0-9]+", cell)]
    numbers = [token for token in tokens if token.isdigit()]
    months = [token for token in tokens if MONTH_NAME.fullmatch(token)]
    others = [token for token in tokens if not (token.isdigit() or token in months or DATE_WORD.fullmatch(token))]
    return len(months) == 1 and len(numbers) >= 2 and max(map(len, numbers)) > 1 and not others


def _read(cell: Any, form: str) -> int | None:
    if isinstance(cell, int | float | np.number) and form == "%Y%m%d":
        cell = text_of(cell)  # of frames
    if not isinstance(cell, str) or (form.startswith("%Y%m%d") and not re.match("[0-9]{8}(?![0-9])", cell)):
        return None
    try:
        return datetime.strptime(cell, form).toordinal() - EPOCH_ORDINAL
    except ValueError:
        return None
