"""Composition of a defense with the one it builds on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

from jaxtyping import Bool
from numpy import ndarray
from torch import nn

from palisade.data.split import Split
from palisade.defenses.dp_sgd.accounting import Phase, accounted
from palisade.fields import remedy
from palisade.targets.fleet import Defense, Fitter
from palisade.targets.statement import Statement


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Trainings of one kind that a record takes part in.

    Args:
        what: is trained.
        runs: how many of these trainings see a record.
        statement: the claim of one of them.
    """

    what: str
    runs: int
    statement: Statement

    @property
    def phase(self) -> Phase | None:
        """The steps of all of them, or None if they are not DP-SGD."""
        claim = self.statement
        if claim.noise_multiplier is None or claim.sampling_rate is None or claim.steps_planned is None:
            return None
        return Phase(claim.noise_multiplier, claim.sampling_rate, self.runs * claim.steps_planned)

    @property
    def text(self) -> str:
        """Their number and kind with σ, q and T of each, for a statement."""
        claim = self.statement
        return (
            f"{self.runs} × {self.what} (σ = {claim.noise_multiplier:.3g}, q = {claim.sampling_rate:.3g},"
            f" T = {claim.steps_planned})"
        )


def composed(trainings: Sequence[Trainings]) -> Statement:
    """The claim of several trainings, each of which may use what those before it gave (adaptive composition).

    Args:
        trainings: the last of them trains what is released; its δ is that of the claim.

    Returns:
        The claim, or no guarantee if one of the trainings proves nothing.
    """
    last = trainings[-1].statement
    history = tuple(phase for kind in trainings if (phase := kind.phase) is not None)
    if len(history) < len(trainings) or last.delta is None:
        return Statement.none()
    together = accounted(history, last.delta)
    cautions = [f"{kind.what}: {warning}" for kind in trainings for warning in kind.statement.warnings]
    alike = {kind.statement.noise_multiplier for kind in trainings}
    return replace(
        last,
        guarantee=math.isfinite(together.epsilon),
        epsilon=together.epsilon,
        accountant=together.accountant,
        epsilon_rdp=together.epsilon_rdp,
        epsilon_spent=None,
        mechanism=" and ".join(kind.text for kind in trainings),
        noise_multiplier=alike.pop() if len(alike) == 1 else None,
        sampling_rate=None,
        steps_planned=None,
        steps_done=None,
        privacy_curve=(),
        warnings=tuple(cautions),
    )


@dataclass(frozen=True, kw_only=True)
class Composed(Defense):
    """Trains its first stage under another defense, and whatever follows from there.

    Args:
        base: the other defense; `NoDefense` for none. What it needs and how it is attacked, this one inherits.

    Raises:
        ValueError: if the base is no defense.
    """

    staged = True
    base: Annotated[Defense, remedy("choose one with defense@defense.base=<name>")]

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
        """Attacks that know how to get around the base."""
        return self.base.attacks

    @property
    def canaries(self) -> tuple[str, ...]:
        """Canaries that the base protects least."""
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
            f"trainer.epochs={own}: expected the {base} of defense.base, which trains the released model; set it to"
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
        raise ValueError(
            f"batch_size={batch_size}: expected at most {size}, the records of {of}; choose fewer, {remedy}"
        )
