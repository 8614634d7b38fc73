"""Defenses that stand on another one, their base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from jaxtyping import Bool
from numpy import ndarray
from torch import nn

from palisade.data.split import Split
from palisade.defenses.parts.base import Defense
from palisade.targets.fleet import Fitter


@dataclass(frozen=True, kw_only=True)
class Composed(Defense):
    """Trains its first stage under another defense, and whatever follows from there.

    Args:
        base: the other defense; `NoDefense` for none. What it needs and how it is attacked, this one inherits.

    Raises:
        ValueError: if the base is no defense.
    """

    staged = True
    base: Defense

    def __post_init__(self) -> None:
        if not isinstance(self.base, Defense):
            raise ValueError(f"defense.base={self.base} is no defense; choose one with defense@defense.base=<name>")

    @property
    def stackable(self) -> bool:
        """Stacks only where the base allows them."""
        return self.base.stackable

    @property
    def cost(self) -> float:
        """The base's cost."""
        return self.base.cost

    @property
    def roles(self) -> frozenset[str]:
        """The base's roles."""
        return self.base.roles

    @property
    def attacks(self) -> tuple[str, ...]:
        """Those that know how to get around the base."""
        return self.base.attacks

    @property
    def canaries(self) -> tuple[str, ...]:
        """Those that the base protects least."""
        return self.base.canaries

    def units(self, split: Split) -> int:
        """Number of units by the base, whose claim it is."""
        return self.base.units(split)

    def settle(self, fitter: Fitter, split: Split, membership: Bool[ndarray, "models pool"]) -> Mapping[str, str]:
        """The base's decisions, by its own recipe."""
        return self.base.settle(fitter.base, split, membership)

    def slowdown(self, network: nn.Module, settled: Mapping[str, str]) -> float:
        """The base's factor over its cost."""
        return self.base.slowdown(network, settled)

    def for_release(self) -> Self:
        """This defense on a base with what a release needs besides."""
        return replace(self, base=self.base.for_release())


def check_epochs(fitter: Fitter) -> None:
    """Raises ValueError if checkpoints are wanted, and the base that trains the last stage has other epochs."""
    own, base = fitter.recipe.epochs, fitter.base.recipe.epochs
    if fitter.keep_checkpoints and own != base:
        raise ValueError(
            f"trainer.epochs={own} differs from the {base} of defense.base, which trains what is released; set it to"
            f" {base} to keep checkpoints"
        )


def check_batch(fitter: Fitter, *, of: str, remedy: str) -> None:
    """Raises ValueError if a stage has fewer records than a batch.

    Args:
        fitter: of the stage.
        of: whose records these are.
        remedy: what gives them more.
    """
    batch_size, size = fitter.recipe.batch_size, fitter.size
    if batch_size > size:
        raise ValueError(f"batch_size={batch_size} exceeds the {size} records of {of}; choose at most {size}, {remedy}")
