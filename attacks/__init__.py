"""Membership inference attacks: pure array code that sees a `View` and nothing else."""

from palisade.attacks.alignment import Alignment
from palisade.attacks.augmentation_agreement import AugmentationAgreement
from palisade.attacks.base_ratio import BASE
from palisade.attacks.boundary import Boundary
from palisade.attacks.calibration import Calibration
from palisade.attacks.cascading import Cascading
from palisade.attacks.confidence import Confidence
from palisade.attacks.correctness import Correctness
from palisade.attacks.entropy import Entropy
from palisade.attacks.gradient_norm import GradientNorm
from palisade.attacks.joint_lira import JointLiRA
from palisade.attacks.known_members import KnownMembers
from palisade.attacks.lira import LiRA
from palisade.attacks.loss import LossThreshold
from palisade.attacks.modified_entropy import ModifiedEntropy
from palisade.attacks.negated_classifier import NegatedClassifier
from palisade.attacks.noise_agreement import NoiseAgreement
from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.attacks.population import Population
from palisade.attacks.quantile import Quantile
from palisade.attacks.reference import Reference
from palisade.attacks.rmia import RMIA
from palisade.attacks.shadow_classifier import ShadowClassifier
from palisade.attacks.trajectory import Trajectory
from palisade.attacks.votes import Votes
from palisade.attacks.white_box import WhiteBox

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
