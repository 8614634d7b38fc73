"""The claim of several private trainings on the same records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from palisade.defenses.dp_sgd.accounting import Phase, accounted
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
