"""Signs in and beside numbers, and the settings that read them: only those under which all cells are one quantity."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from palisade.data.cells import PLAIN_READING, Reading

SPACED_GROUPS = "'’ \u00a0\u202f"
"""Signs between groups of digits that are neither point nor comma."""
NUMBER_WITH_SIGNS = re.compile(
    rf"(?P<before>[^\w\s.,+-]|[A-Z]{{3}})?\s*[+-]?(?:[0-9]{{1,3}}(?:[{SPACED_GROUPS}][0-9]{{3}})+|[0-9])[0-9.,]*"
    r"\s*(?P<after>[^\w\s.,+-]|[A-Za-z]{1,4})?"
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
    """True for a currency, a ratio, or an abbreviation such as kg; false for a letter such as K, and for brackets."""
    return symbol in RATIO_SIGNS or len(symbol) > 1 or unicodedata.category(symbol) == "Sc"


def _extends(reading: Reading, other: Reading) -> bool:
    """True if the other reading differs only in what the user has not said."""
    return reading.decimal in (other.decimal, PLAIN_READING.decimal) and reading.thousands in (other.thousands, None)


def _is_read(word: str, reading: Reading) -> bool:
    """True if the word is a number whose groups of digits do not begin with 0, as that of 0,125 would."""
    grouped = reading.thousands is not None and re.match(rf"[^0-9]*0{re.escape(reading.thousands)}", word)
    return not grouped and reading.number(word) is not None
