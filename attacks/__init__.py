"""Membership inference attacks: pure array code that sees a `View` and nothing else."""

from attacks.alignment import Alignment
from attacks.augmentation_agreement import AugmentationAgreement
from attacks.base import Attack
from attacks.base_ratio import BASE
from attacks.boundary import Boundary
from attacks.calibration import Calibration
from attacks.cascading import Cascading
from attacks.confidence import Confidence
from attacks.correctness import Correctness
from attacks.entropy import Entropy
from attacks.gradient_norm import GradientNorm
from attacks.joint_lira import JointLiRA
from attacks.known_members import KnownMembers
from attacks.lira import LiRA
from attacks.loss import LossThreshold
from attacks.modified_entropy import ModifiedEntropy
from attacks.negated_classifier import NegatedClassifier
from attacks.noise_agreement import NoiseAgreement
from attacks.population import Population
from attacks.quantile import Quantile
from attacks.reference import Reference
from attacks.rmia import RMIA
from attacks.shadow_classifier import ShadowClassifier
from attacks.threat import ThreatModel
from attacks.trajectory import Trajectory
from attacks.view import View
from attacks.votes import Votes
from attacks.white_box import WhiteBox

__all__ = [
    "BASE",
    "RMIA",
    "Alignment",
    "Attack",
    "AugmentationAgreement",
    "Boundary",
    "Calibration",
    "Cascading",
    "Confidence",
    "Correctness",
    "Entropy",
    "GradientNorm",
    "JointLiRA",
    "KnownMembers",
    "LiRA",
    "LossThreshold",
    "ModifiedEntropy",
    "NegatedClassifier",
    "NoiseAgreement",
    "Population",
    "Quantile",
    "Reference",
    "ShadowClassifier",
    "ThreatModel",
    "Trajectory",
    "View",
    "Votes",
    "WhiteBox",
]
