from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from palisade.commandline import is_bad_input, one_line
from palisade.data.settings import check_numbers, instantiated, place, validated
from palisade.fields import CheckedFields, Fraction, Positive
from palisade.targets.recipe import FleetSettings


@dataclass(frozen=True, kw_only=True)
class Pair(CheckedFields):
    first: Annotated[int, Field(ge=1, le=9)] | Literal["auto"]
    second: Fraction = 0.5
    listed: Sequence[Positive] = ()
    word: Literal["near", "far"] = "near"
    switch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.switch and self.word == "far":
            raise ValueError("word=far: expected near with switch=true; choose near")


@dataclass(frozen=True, kw_only=True)
class Outer(CheckedFields):
    inner: Pair
    amount: Positive | None = None


class Plain:
    """No dataclass: its signature alone is checked."""

    def __init__(self, value: object, *, rate: float = 0.1, depth: int) -> None:
        if depth == 13:
            raise KeyError("depth")
        self.value, self.rate, self.depth = value, rate, depth


@dataclass(frozen=True)
class Stranger:
    """A plug-in from outside: a plain dataclass, whose types are checked where a configuration names it."""

    sizes: tuple[int, ...] = (1,)
    unknown: TypeNowhere = None

    strength: float = 0.5


PAIR_NODE = {"_target_": f"{__name__}.Pair", "first": 1}
WRONG_SETTINGS = {
    "no group": (None, "pair=null: expected a group of settings; "),
    "a value": (5, "pair=5: expected a group of settings; "),
    "unknown": ({"first": 1, "secnd": 3}, "pair.secnd=3: no such setting, expected one of first, second, "),
    "unknown first": ({"frist": 1}, "pair.frist=1: no such setting, "),
    "missing": ({"second": 0.5}, "pair.first: not given, expected an integer >= 1 and <= 9, or auto; add pair.first="),
    "asked for": ({"first": "???"}, "pair.first: not given, "),
    "a switch for a count": ({"first": True}, "pair.first=true: expected an integer >= 1 and <= 9, or auto; "),
    "a switch for a number": ({"first": 1, "second": True}, "pair.second=true: expected a number > 0 and < 1; "),
    "below": ({"first": 0}, "pair.first=0: expected an integer >= 1 and <= 9, or auto; "),
    "a text": ({"first": "1"}, "pair.first=1: expected an integer >= 1 and <= 9, or auto; "),
    "a fraction": ({"first": 1.5}, "pair.first=1.5: expected an integer >= 1 and <= 9, or auto; "),
    "not a number": (
        {"first": 1, "second": math.nan},
        "pair.second=nan: expected a number > 0 and < 1; choose e.g. 0.5",
    ),
    "infinite": ({"first": 1, "listed": [math.inf]}, "pair.listed=[inf]: expected a list, each a finite number > 0; "),
    "inside a list": ({"first": 1, "listed": [1, 0]}, "pair.listed=[1, 0]: expected a list, each a number > 0; "),
    "no list": ({"first": 1, "listed": "abc"}, "pair.listed=abc: expected a list, "),
    "a word": ({"first": 1, "word": "fra"}, "pair.word=fra: expected one of near, far; choose e.g. near"),
    "a number for a switch": ({"first": 1, "switch": 1}, "pair.switch=1: expected true or false; choose e.g. false"),
    "two fields": ({"first": 1, "switch": True, "word": "far"}, "pair.word=far: expected near with switch=true; "),
}


def refused(command: Callable[[], object]) -> str:
    """The one line that a command is refused with, as rule and remedy."""
    with pytest.raises(ValueError) as caught:
        command()
    line = str(caught.value)
    assert "\n" not in line and "; " in line and is_bad_input(caught.value)
    return line


def test_a_group_becomes_its_dataclass():
    assert validated(Pair, "pair", {"first": 1}) == Pair(first=1)
    pair = validated(Pair, "pair", {"first": "auto", "listed": [2]})
    assert pair.listed == [2] and isinstance(pair.listed[0], int), "values stay as they were given"


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_wrong_settings_are_refused_by_key_and_value(case):
    wrong, line = WRONG_SETTINGS[case]
    assert refused(lambda: validated(Pair, "pair", wrong)).startswith(line)
    if isinstance(wrong, dict):
        assert refused(lambda: instantiated("pair", {**PAIR_NODE, "first": "???", **wrong}, Pair)).startswith(line)


@pytest.mark.parametrize("case", [case for case, (wrong, line) in WRONG_SETTINGS.items() if ": expected" in line])
def test_a_value_from_python_is_refused_likewise(case):
    wrong, line = WRONG_SETTINGS[case]
    if isinstance(wrong, dict):
        assert refused(lambda: Pair(**wrong)).startswith(line.removeprefix("pair."))


def test_a_plain_dataclass_from_outside_is_checked_by_its_types():
    node = {"_target_": f"{__name__}.Stranger"}
    assert instantiated("own", {**node, "sizes": [3, 4], "strength": 1, "unknown": {}}, Stranger).sizes == [3, 4]
    assert refused(lambda: instantiated("own", {**node, "strength": math.nan}, Stranger)).startswith(
        "own.strength=nan:"
    )
    assert refused(lambda: instantiated("own", {**node, "strength": 10**40}, Stranger)).startswith(
        "own.strength=1e+40:"
    )
    assert refused(lambda: instantiated("own", {**node, "strength": True}, Stranger)).startswith("own.strength=true: ")
    assert refused(lambda: instantiated("own", {**node, "sizes": [0.5]}, Stranger)).startswith("own.sizes=[0.5]: ")
    assert refused(lambda: instantiated("own", {**node, "strenth": 1}, Stranger)).endswith("; choose own.strength")


def test_settings_that_stand_elsewhere_are_named_there():
    line = refused(lambda: validated(Pair, "pair", {"first": 1, "second": 2}, homes={"second": "other.pair"}))
    assert line.startswith("other.pair.second=2: ")
    line = refused(lambda: validated(Pair, "pair", {"first": 0, "second": 2}, homes={"second": "other.pair"}))
    assert line.startswith("pair.first=0: ")


def test_nodes_inside_nodes_come_first_and_are_named_in_full():
    node = {"_target_": f"{__name__}.Outer", "inner": PAIR_NODE, "amount": 2}
    assert instantiated("outer", node, Outer) == Outer(inner=Pair(first=1), amount=2)
    line = refused(lambda: instantiated("outer", {**node, "inner": {**PAIR_NODE, "second": 1}}, Outer))
    assert line.startswith("outer.inner.second=1: expected a number > 0 and < 1; ")
    line = refused(lambda: instantiated("outer", {**node, "inner": 3}, Outer))
    assert line.startswith("outer.inner=3: expected a Pair; ")


PLAIN_NODE = {"_target_": f"{__name__}.Plain", "depth": 2}


def test_a_class_that_is_no_dataclass_is_checked_by_its_signature():
    instance = instantiated("plain", {**PLAIN_NODE, "rate": "any", "_partial_": True}, Plain, 7)
    assert (instance.value, instance.rate, instance.depth) == (7, "any", 2)
    assert instantiated("plain", {"_target_": f"{__name__}.Plain", "rate": 1}, Plain, 7, depth=3).depth == 3
    for changed, line in (
        ({"depht": 1}, "plain.depht=1: no such setting, expected one of rate, depth; choose plain.depth"),
        ({"depth": "???"}, "plain.depth: not given, "),
        ({"depth": 13}, f"plain._target_={__name__}.Plain: cannot be made with depth=13 (KeyError: 'depth'); "),
    ):
        assert refused(lambda changed=changed: instantiated("plain", {**PLAIN_NODE, **changed}, Plain, 7)).startswith(
            line
        )


@pytest.mark.parametrize("target", [None, 3, "nowhere.Net", "builtins.print", "builtins.__name__"])
def test_what_makes_something_else_is_refused(target):
    line = refused(lambda: instantiated("pair", {"_target_": target}, Pair))
    assert line.startswith(f"pair._target_={'null' if target is None else target}: ")


def test_what_makes_something_else_is_not_even_called():
    node = {"_target_": f"{__name__}.Plain", "depth": 13, "value": 1}  # would raise a KeyError
    line = refused(lambda: instantiated("pair", node, Pair))
    assert line.startswith(f"pair._target_={__name__}.Plain: expected a class of {__name__}.Pair; ")


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"a": {"b": math.nan}}, "a.b=nan: expected a number; "),
        ({"a": [1, 10**30]}, "a=1e+30: expected a number of at most 9.22e+18; "),
        ({"a": -1e300}, "a=-1e+300: expected a number of at most 3.4e+38; "),
    ],
)
def test_numbers_beyond_arithmetic_are_refused(wrong, line):
    assert refused(lambda: check_numbers(wrong)).startswith(line)
    check_numbers({"epsilon": math.inf, "seed": 2**63 - 1, "flag": True, "text": "nan"})


def test_places():
    assert place("data.path", "a/b.npz").name == "b.npz"
    for value in (5, None, ["a"], "a\0b"):
        with pytest.raises(ValueError, match=r"^data\.path=.*: expected a path; give the name of a file or folder$"):
            place("data.path", value)
    with pytest.raises(ValueError, match=r"^data\.path=~nobody.*; write the path in full$"):
        place("data.path", "~nobody-at-all/x")


@pytest.mark.parametrize("name", ["models", "workers", "at_once"])
def test_fleets_beyond_any_machine_are_refused(name):
    wrong = {"models": 1, "workers": 1, "at_once": 1} | {name: 10**6}
    line = refused(lambda: validated(FleetSettings, "fleet", wrong))
    assert line.startswith(f"fleet.{name}=1000000: expected an integer >= 1 and <= 10")


@pytest.mark.parametrize("error", [MemoryError("array"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_one_line(error):
    assert is_bad_input(error)
    assert one_line(error).endswith("; choose a smaller network, batch or data set")
    assert not is_bad_input(RuntimeError("a fault of ours"))
