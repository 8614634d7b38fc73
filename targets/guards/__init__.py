"""Guards: what happens to answers at inference time. A closed list, since a guard is part of what is released."""

from targets.guards.aggregate import Aggregate
from targets.guards.guard import Guard, Level, NoGuard, Query
from targets.guards.hamp_output import HAMPOutput
from targets.guards.label_only import LabelOnly
from targets.guards.memguard import MemGuard
from targets.guards.registry import GUARDS
from targets.guards.rounding import Rounding
from targets.guards.temperature import Temperature
from targets.guards.top_k import TopK

__all__ = [
    "GUARDS",
    "Aggregate",
    "Guard",
    "HAMPOutput",
    "LabelOnly",
    "Level",
    "MemGuard",
    "NoGuard",
    "Query",
    "Rounding",
    "Temperature",
    "TopK",
]
