"""Guards: what happens to answers at inference time. A closed list, since a guard is part of what is released."""

from palisade.targets.guards.aggregate import Aggregate
from palisade.targets.guards.guard import Guard, Level, NoGuard, Query
from palisade.targets.guards.hamp_output import HAMPOutput
from palisade.targets.guards.label_only import LabelOnly
from palisade.targets.guards.memfree import MemFree
from palisade.targets.guards.memguard import MemGuard
from palisade.targets.guards.registry import GUARDS_BY_NAME
from palisade.targets.guards.rounding import Rounding
from palisade.targets.guards.temperature import Temperature
from palisade.targets.guards.top_k import TopK

__all__ = [
    "GUARDS_BY_NAME",
    "Aggregate",
    "Guard",
    "HAMPOutput",
    "LabelOnly",
    "Level",
    "MemFree",
    "MemGuard",
    "NoGuard",
    "Query",
    "Rounding",
    "Temperature",
    "TopK",
]
