"""Membership inference attacks: pure array code that sees a `View` and nothing else.

The names below are loaded when they are first used: scikit-learn, which few attacks need, takes half a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palisade.attacks.alignment import Alignment
    from palisade.attacks.augmentation_agreement import AugmentationAgreement
    from palisade.attacks.base_difference import BaseDifference
    from palisade.attacks.base_ratio import BASE
    from palisade.attacks.boundary import Boundary
    from palisade.attacks.calibration import Calibration
    from palisade.attacks.cascading import Cascading
    from palisade.attacks.confidence import Confidence
    from palisade.attacks.correctness import Correctness
    from palisade.attacks.entropy import Entropy
    from palisade.attacks.error_zone import ErrorZone
    from palisade.attacks.filter_oracle import FilterOracle
    from palisade.attacks.gradient_norm import GradientNorm
    from palisade.attacks.joint_lira import JointLiRA
    from palisade.attacks.known_members import KnownMembers
    from palisade.attacks.lira import LiRA
    from palisade.attacks.loss import LossThreshold
    from palisade.attacks.min_k import MinK
    from palisade.attacks.min_k_plus import MinKPlus
    from palisade.attacks.modified_entropy import ModifiedEntropy
    from palisade.attacks.negated_classifier import NegatedClassifier
    from palisade.attacks.neighbors import Neighbors
    from palisade.attacks.noise_agreement import NoiseAgreement
    from palisade.attacks.parts.base import Attack
    from palisade.attacks.parts.threat import ThreatModel
    from palisade.attacks.parts.tokens import TokenAnswers
    from palisade.attacks.parts.view import View
    from palisade.attacks.population import Population
    from palisade.attacks.quantile import Quantile
    from palisade.attacks.reference import Reference
    from palisade.attacks.rmia import RMIA
    from palisade.attacks.shadow_classifier import ShadowClassifier
    from palisade.attacks.sharpness import Sharpness
    from palisade.attacks.token_rmia import TokenRMIA
    from palisade.attacks.trajectory import Trajectory
    from palisade.attacks.votes import Votes
    from palisade.attacks.white_box import WhiteBox
    from palisade.attacks.windows import Windows
    from palisade.attacks.zlib import ZlibRatio

MODULES_BY_NAME = {
    "Alignment": "palisade.attacks.alignment",
    "Attack": "palisade.attacks.parts.base",
    "AugmentationAgreement": "palisade.attacks.augmentation_agreement",
    "BASE": "palisade.attacks.base_ratio",
    "BaseDifference": "palisade.attacks.base_difference",
    "Boundary": "palisade.attacks.boundary",
    "Calibration": "palisade.attacks.calibration",
    "Cascading": "palisade.attacks.cascading",
    "Confidence": "palisade.attacks.confidence",
    "Correctness": "palisade.attacks.correctness",
    "Entropy": "palisade.attacks.entropy",
    "ErrorZone": "palisade.attacks.error_zone",
    "FilterOracle": "palisade.attacks.filter_oracle",
    "GradientNorm": "palisade.attacks.gradient_norm",
    "JointLiRA": "palisade.attacks.joint_lira",
    "KnownMembers": "palisade.attacks.known_members",
    "LiRA": "palisade.attacks.lira",
    "LossThreshold": "palisade.attacks.loss",
    "MinK": "palisade.attacks.min_k",
    "MinKPlus": "palisade.attacks.min_k_plus",
    "ModifiedEntropy": "palisade.attacks.modified_entropy",
    "NegatedClassifier": "palisade.attacks.negated_classifier",
    "Neighbors": "palisade.attacks.neighbors",
    "NoiseAgreement": "palisade.attacks.noise_agreement",
    "Population": "palisade.attacks.population",
    "Quantile": "palisade.attacks.quantile",
    "RMIA": "palisade.attacks.rmia",
    "Reference": "palisade.attacks.reference",
    "ShadowClassifier": "palisade.attacks.shadow_classifier",
    "Sharpness": "palisade.attacks.sharpness",
    "ThreatModel": "palisade.attacks.parts.threat",
    "TokenAnswers": "palisade.attacks.parts.tokens",
    "TokenRMIA": "palisade.attacks.token_rmia",
    "Trajectory": "palisade.attacks.trajectory",
    "View": "palisade.attacks.parts.view",
    "Votes": "palisade.attacks.votes",
    "WhiteBox": "palisade.attacks.white_box",
    "Windows": "palisade.attacks.windows",
    "ZlibRatio": "palisade.attacks.zlib",
}

__all__ = [
    "BASE",
    "RMIA",
    "Alignment",
    "Attack",
    "AugmentationAgreement",
    "BaseDifference",
    "Boundary",
    "Calibration",
    "Cascading",
    "Confidence",
    "Correctness",
    "Entropy",
    "ErrorZone",
    "FilterOracle",
    "GradientNorm",
    "JointLiRA",
    "KnownMembers",
    "LiRA",
    "LossThreshold",
    "MinK",
    "MinKPlus",
    "ModifiedEntropy",
    "NegatedClassifier",
    "Neighbors",
    "NoiseAgreement",
    "Population",
    "Quantile",
    "Reference",
    "ShadowClassifier",
    "Sharpness",
    "ThreatModel",
    "TokenAnswers",
    "TokenRMIA",
    "Trajectory",
    "View",
    "Votes",
    "WhiteBox",
    "Windows",
    "ZlibRatio",
]


def __getattr__(name: str) -> Any:
    if name not in MODULES_BY_NAME:
        raise AttributeError(f"module 'palisade.attacks' has no attribute {name!r}")
    return getattr(import_module(MODULES_BY_NAME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
