"""Membership inference attacks: pure array code that sees a `View` and nothing else."""

from attacks.base import Attack, ThreatModel, View
from attacks.correctness import Correctness
from attacks.lira import LiRA
from attacks.loss import LossThreshold

__all__ = ["Attack", "Correctness", "LiRA", "LossThreshold", "ThreatModel", "View"]
