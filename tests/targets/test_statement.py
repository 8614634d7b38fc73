"""The privacy claim survives JSON and says what it is."""

from __future__ import annotations

import json
import math

import pytest

from palisade.targets.statement import Statement

DP_CLAIM = Statement(
    guarantee=True,
    epsilon=7.9691,
    delta=2.1e-4,
    accountant="PRV",
    sampling="Poisson",
    noise_multiplier=1.1,
    randomness="operating system",
    privacy_curve=((0.0, 0.5), (1.0, 0.25)),
    not_covered=("tuning",),
    warnings=("q is large",),
)


def test_round_trip_through_strict_json() -> None:
    for statement in (DP_CLAIM, Statement.none(), Statement(guarantee=False, epsilon=math.inf, epsilon_rdp=math.inf)):
        text = json.dumps(statement.to_json(), allow_nan=False)
        content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert Statement.from_json(content) == statement


def test_sentence_rounds_epsilon_up() -> None:
    assert DP_CLAIM.sentence() == (
        "(ε = 7.97, δ = 0.00021)-differential privacy per record (add/remove one record), PRV accountant,"
        " Poisson sampling, randomness from the operating system"
    )
    for epsilon in (0.12345, 3.0, 7.961, 99.91, 511.2, 1234.5):
        shown = Statement(guarantee=True, epsilon=epsilon, delta=1e-5).sentence().split(" = ")[1].split(",")[0]
        assert epsilon <= float(shown) <= 1.01 * epsilon


def test_sentence_without_a_guarantee() -> None:
    assert Statement.none().sentence() == "no formal guarantee"
    clipped = Statement(guarantee=False, epsilon=math.inf, noise_multiplier=0.0)
    assert clipped.sentence() == "no formal guarantee; gradients were clipped, without noise"


@pytest.mark.parametrize("epsilon", [None, math.inf])
def test_refuses_a_guarantee_of_nothing(epsilon: float | None) -> None:
    with pytest.raises(ValueError, match=r"^epsilon=.*: expected finite numbers .*; give both, or guarantee=False"):
        Statement(guarantee=True, epsilon=epsilon, delta=1e-5)


def test_refuses_unknown_fields() -> None:
    with pytest.raises(ValueError, match=r"statement.zeta is unknown; it was written by another version, use that one"):
        Statement.from_json({"guarantee": False, "zeta": 1})


def test_sentence_names_the_mechanism_where_it_is_not_one_training() -> None:
    votes = Statement(
        guarantee=True,
        epsilon=5.378,
        delta=1e-5,
        accountant="RDP",
        mechanism="1000 noisy votes with σ = 40 of 250 teachers",
        randomness="operating system",
    )
    assert votes.sentence() == (
        "(ε = 5.38, δ = 1e-05)-differential privacy per record (add/remove one record), RDP accountant,"
        " 1000 noisy votes with σ = 40 of 250 teachers, randomness from the operating system"
    )
    assert Statement.from_json(votes.to_json()) == votes
