"""Attack protocols: refused where the result would mean nothing."""

from __future__ import annotations

import pickle

import pytest

from palisade.attacks import LossThreshold
from palisade.evaluation.protocol import BLACK_BOX, AttackProtocol

LOSS_NODES = {"loss": {"_target_": "palisade.attacks.LossThreshold"}}


def test_travels_to_other_processes_as_plain_settings():
    protocol = AttackProtocol(attacks=LOSS_NODES)
    assert [type(attack) for attack in pickle.loads(pickle.dumps(protocol)).make_attacks()] == [LossThreshold]
    assert protocol.grant.access == "black_box" and protocol.audit.name == "loss"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": ["turned"]}, "queries=turned: expected ways of plain, mirrored, "),
        ({"queries": []}, r"queries=\[\]: expected a list of different ways; "),
        ({"queries": "plain"}, r"queries=plain: expected a list"),
        ({"queries": ["plain", "plain"]}, r"queries=\['plain', 'plain'\]: expected a list of different"),
        (
            {"attacks": {"lira": {"_target_": "palisade.attacks.LiRA", "variance": "none"}}},
            "attack.lira.variance=none: expected one of shrunk, fixed, per_record; ",
        ),
        (
            {"attacks": {"mine": {"_target_": "palisade.attacks.Nonsense"}}},
            "attack.mine._target_=palisade.attacks.Nonsense: cannot be imported",
        ),
        (
            {"threat": {**BLACK_BOX, "audit": "lira"}},
            "threat.audit=lira: expected an attack; ",
        ),
        ({"queries": ["up", "plain"]}, r"queries=\['up', 'plain'\]: expected plain first"),
        (
            {"threat": {**BLACK_BOX, "guesses": 0.6}},
            "threat.guesses=0.6: expected a number > 0 and <= 0.5; ",
        ),
        (
            {"threat": {**BLACK_BOX, "audit": {"_target_": "palisade.attacks.KnownMembers"}}},
            "threat.audit=known_members: expected an attack that knows no bit",
        ),
    ],
)
def test_what_would_mean_nothing(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        AttackProtocol(**{"attacks": LOSS_NODES, **settings})
