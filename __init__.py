"""Palisade: train under a privacy defense, attack what was released, show what the protection costs.

The names below are loaded when they are first used, so that attacks on arrays import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palisade.api import TrainedFleet, ship_release, train_fleet, write_report
    from palisade.attacks import BASE, RMIA, Attack, LiRA, View
    from palisade.defenses.dp_sgd import DPSGD
    from palisade.evaluation import audit_scores
    from palisade.evaluation.statistics.metrics import roc_auc, tpr_at_fpr
    from palisade.targets.fleet import Defense
    from palisade.targets.release import Release

MODULES_BY_NAME = {
    **dict.fromkeys(("TrainedFleet", "ship_release", "train_fleet", "write_report"), "palisade.api"),
    **dict.fromkeys(("BASE", "RMIA", "Attack", "LiRA", "View"), "palisade.attacks"),
    "Defense": "palisade.targets.fleet",
    "DPSGD": "palisade.defenses.dp_sgd",
    "audit_scores": "palisade.evaluation",
    **dict.fromkeys(("roc_auc", "tpr_at_fpr"), "palisade.evaluation.statistics.metrics"),
    "Release": "palisade.targets.release",
}

__all__ = [
    "BASE",
    "DPSGD",
    "RMIA",
    "Attack",
    "Defense",
    "LiRA",
    "Release",
    "TrainedFleet",
    "View",
    "audit_scores",
    "roc_auc",
    "ship_release",
    "tpr_at_fpr",
    "train_fleet",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in MODULES_BY_NAME:
        raise AttributeError(f"module 'palisade' has no attribute {name!r}")
    return getattr(import_module(MODULES_BY_NAME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
