"""Natural frequencies: a TPR at an FPR as counts of people, which laymen read more rightly than percentages.

Gigerenzer & Hoffrage 1995, "How to Improve Bayesian Reasoning Without Instruction: Frequency Formats".
"""

from __future__ import annotations

import math

MIN_CROWD_SIZE = 1000
"""People of whom a sentence tells, or more where the FPR is less than one of so many."""
PEOPLE_WORD, TEXTS_WORD = "people", "texts"


def frequencies(
    tpr: float, fpr: float, *, ends: tuple[float, float] | None = None, who: str = PEOPLE_WORD, most: bool = False
) -> str:
    """A TPR at an FPR as counts of those who were in, and of those who were not.

    >>> frequencies(0.0764, 0.01)
    'of 1,000 people who were in, 76 are found while 10 of 1,000 who were not are accused'
    >>> frequencies(0.0764, 0.001, ends=(0.06, 0.09), who="records")
    'of 1,000 records that were in, 76 (60 to 90) are found while 1 of 1,000 that were not is accused'

    Args:
        tpr: share of the members that are found.
        fpr: share of the non-members that are accused, above 0.
        ends: of the interval of the TPR.
        who: were in or not, such as `people` or `records`.
        most: whether the TPR is the most that is allowed.
    """
    size, pronoun = crowd(fpr), "who" if who == PEOPLE_WORD else "that"
    between = "" if ends is None else f" ({' to '.join(count(end, size) for end in ends)})"
    accused = count(fpr, size)
    return (
        f"of {size:,} {who} {pronoun} were in, {'at most ' * most}{count(tpr, size)}{between} {_is(count(tpr, size))}"
        f" found while {accused} of {size:,} {pronoun} were not {_is(accused)} accused"
    )


def crowd(fpr: float) -> int:
    """The number of people of whom at least one is accused: 1,000, or 10, 100, … times as many at a small FPR."""
    return max(MIN_CROWD_SIZE, 10 ** math.ceil(-math.log10(fpr) - 1e-9))


def count(rate: float, size: int) -> str:
    """A share of so many people as a whole number; not `0` of what is more than nothing.

    >>> count(0.0764, 1000), count(0.0002, 1000), count(0.0, 1000)
    ('76', 'fewer than 1', '0')
    """
    whole = math.floor(rate * size + 0.5)
    return "fewer than 1" if whole == 0 and rate > 0 else f"{whole:,}"


def _is(counted: str) -> str:
    return "is" if counted in ("1", "fewer than 1") else "are"
