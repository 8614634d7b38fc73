from __future__ import annotations

from dataclasses import dataclass

import pytest

from palisade.commandline import is_bad_input, one_line
from palisade.data.settings import check_numbers, made, place
from palisade.targets.recipe import FleetSettings


@dataclass(frozen=True, kw_only=True)
class Pair:
    first: int
    second: int = 2


def test_a_group_becomes_its_dataclass():
    assert made(Pair, "pair", {"first": 1}) == Pair(first=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"^pair=None is no group of settings; leave it out, or set its keys$"),
        (5, r"^pair=5 is no group of settings"),
        ({"first": 1, "third": 3}, r"^pair\.third is no setting; remove it, or choose one of first, second$"),
        ({"second": 1}, r"^pair\.first is not given; add pair\.first=<value>$"),
        ({"first": True}, r"^pair\.first=True is no number; give one$"),
    ],
)
def test_what_is_no_group_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        made(Pair, "pair", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": {"b": float("nan")}}, r"^a\.b=nan is not a number; give one$"),
        ({"a": [1, 10**30]}, r"^a=1e\+30 is too large for any use; choose at most 9\.22e\+18$"),
        ({"a": -1e300}, r"^a=-1e\+300 is too large for any use; choose at most 3\.4e\+38$"),
    ],
)
def test_numbers_beyond_arithmetic_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        check_numbers(given)
    check_numbers({"epsilon": float("inf"), "seed": 2**63 - 1, "flag": True, "text": "nan"})


def test_places():
    assert place("data.path", "a/b.npz").name == "b.npz"
    for value in (5, None, ["a"], "a\0b"):
        with pytest.raises(ValueError, match=r"^data\.path=.* is no path; give the name of a file or folder$"):
            place("data.path", value)
    with pytest.raises(ValueError, match=r"lies in the home of nobody here; write the path in full$"):
        place("data.path", "~nobody-at-all/x")


@pytest.mark.parametrize("name", ["models", "workers", "at_once"])
def test_fleets_beyond_any_machine_are_refused(name):
    with pytest.raises(
        ValueError, match=rf"^fleet\.{name}=1000000 cannot be used; choose a whole number from 1 to \d+"
    ):
        FleetSettings(**({"models": 1, "workers": 1, "at_once": 1} | {name: 10**6}))


@pytest.mark.parametrize("error", [MemoryError("array"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_told_in_one_line(error):
    assert is_bad_input(error)
    assert one_line(error).endswith("; choose a smaller network, batch or data set")
    assert not is_bad_input(RuntimeError("a fault of ours"))
