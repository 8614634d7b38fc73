"""Defenses that DP-SGD can train: those that treat records one by one, before gradients are clipped."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.utilities.model_helpers import is_overridden

from palisade.defenses.augmentation import Augmentation
from palisade.defenses.ccl import ConvexConcave
from palisade.defenses.dp_sgd.rules import READS_GRADIENTS
from palisade.defenses.dropout import Dropout, DroppedOut
from palisade.defenses.hamp import HAMP
from palisade.defenses.label_smoothing import LabelSmoothing
from palisade.defenses.none import NoDefense
from palisade.targets.fleet import Defense
from palisade.targets.module import Target
from palisade.targets.networks import CNN, MLP
from palisade.targets.stacks import Folded, StackedConvolution, StackedEmbedding, StackedLinear, StackedNorm
from palisade.targets.transformer import Transformer

NETWORKS = (MLP, CNN, Transformer)
BASES = (NoDefense, LabelSmoothing, Dropout, Augmentation, HAMP, ConvexConcave)
LAYERS = (DroppedOut, Folded, StackedConvolution, StackedEmbedding, StackedLinear, StackedNorm)
"""Layers that leave records alone in every step, as this project's suite shows."""


def check_base(base: Defense) -> None:
    """Raises ValueError, naming the base, if clipping would bound nothing or ε would not cover what the base does."""
    if _named(base) == "defense.base=dp_sgd":
        raise ValueError("defense.base=dp_sgd is what it would be the base of; choose another base, or none")
    if not base.separable:
        raise ValueError(
            f"{_named(base)} mixes records in its loss, so clipping bounds nothing; choose a base that does not, or"
            " none"
        )
    if base.staged:
        raise ValueError(
            f"{_named(base)} trains in stages; let DP-SGD be the base of them: defense@defense.base=dp_sgd"
        )
    if base.roles:
        raise ValueError(
            f"{_named(base)} looks at {' and '.join(sorted(base.roles))} records, which ε would not cover; choose a"
            " base that does not, or none"
        )
    for hook in ("fit", "sampler", "units"):
        if getattr(type(base), hook) is not getattr(Defense, hook):
            raise ValueError(f"{_named(base)} has its own {hook}, which DP-SGD replaces; choose another base, or none")


def check_callbacks(base: Defense, callbacks: Sequence[Callback]) -> None:
    """Raises ValueError if one of the base's callbacks sees gradients before the noise is added."""
    for callback in callbacks:
        for hook in READS_GRADIENTS:
            if is_overridden(hook, callback, Callback):
                raise ValueError(
                    f"{_named(base)} changes gradients in {hook}, which clipping and noise are then not about; choose"
                    " another base, or none"
                )


def _named(base: Defense) -> str:
    path = type(base).__module__.removesuffix(".defense")  # a defense is one file of its name, or a package
    return f"defense.base={path.rpartition('.')[2]}"


def is_own(module: pl.LightningModule, base: Defense) -> bool:
    """Ownership of network and loss, to the type: no subclass, and no forward put on an instance."""
    if type(module) is not Target or type(base) not in BASES or type(module.network) not in NETWORKS:
        return False
    inner = list(module.network.modules())[1:]
    known = all(
        type(layer) in LAYERS or type(layer).__module__.startswith(("torch.nn.", "palisade.targets."))
        for layer in inner
    )
    return known and not any("forward" in vars(layer) for layer in module.modules())
