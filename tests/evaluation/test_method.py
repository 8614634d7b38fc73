"""How runs are attacked: refused where the result would mean nothing."""

from __future__ import annotations

import pickle

import pytest

from attacks import LossThreshold
from evaluation.method import BLACK_BOX, Method

LOSS = {"loss": {"_target_": "attacks.LossThreshold"}}


def test_travels_to_other_processes_as_plain_settings():
    method = Method(attacks=LOSS)
    assert [type(attack) for attack in pickle.loads(pickle.dumps(method)).make_attacks()] == [LossThreshold]
    assert method.grant.access == "black_box" and method.audit.name == "loss"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": ["turned"]}, "queries=turned is unknown; choose of plain, mirrored"),
        ({"queries": []}, r"queries=\[\] is unknown; choose of plain"),
        ({"queries": ["up", "plain"]}, r"queries=\['up', 'plain'\] starts with a perturbed copy; put plain first"),
        (
            {"threat": {**BLACK_BOX, "guesses": 0.6}},
            "threat.guesses=0.6 is no share at either end; choose above 0, at most 0.5",
        ),
        (
            {"threat": {**BLACK_BOX, "audit": {"_target_": "attacks.KnownMembers"}}},
            "threat.audit=known_members knows some of the bits that it guesses; choose another",
        ),
    ],
)
def test_what_would_mean_nothing(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Method(attacks=LOSS, **settings)
