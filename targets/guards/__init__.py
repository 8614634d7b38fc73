"""Guards: what happens to answers at inference time. A closed list, since a guard is part of what is released."""

from targets.guards.guard import Guard, Level, NoGuard, Query
from targets.guards.registry import GUARDS

__all__ = ["GUARDS", "Guard", "Level", "NoGuard", "Query"]
