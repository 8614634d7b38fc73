"""DP-SGD: the callback for any LightningModule, the defense of this project's fleets, and their parts."""

from defenses.dp_sgd.callback import DPSGD
from defenses.dp_sgd.defense import DPSGDDefense

__all__ = ["DPSGD", "DPSGDDefense"]
