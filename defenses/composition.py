"""The claim of several private trainings on the same records."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant

from targets.statement import Statement

PRV_LIMIT = 100.0
"""Above this Rényi ε, RDP alone: numerical composition would take minutes, for a claim that says nothing."""
Step = tuple[float, float, int]
"""σ, q and T of a training, as Opacus's accountants have them."""


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
    def step(self) -> Step | None:
        """None if it is not DP-SGD."""
        claim = self.statement
        if claim.noise_multiplier is None or claim.sampling_rate is None or claim.steps_planned is None:
            return None
        return claim.noise_multiplier, claim.sampling_rate, self.runs * claim.steps_planned

    @property
    def text(self) -> str:
        claim = self.statement
        return (
            f"{self.runs} × {self.what} (σ = {claim.noise_multiplier:.3g}, q = {claim.sampling_rate:.3g},"
            f" T = {claim.steps_planned})"
        )


def composed(trainings: Sequence[Trainings]) -> Statement:
    """What several trainings prove together, each of which may use what those before it gave (adaptive composition).

    Args:
        trainings: the last of them trains what is released; its δ is that of the claim.

    Returns:
        The claim, or no guarantee if one of the trainings proves nothing.
    """
    last = trainings[-1].statement
    history = [kind.step for kind in trainings]
    if None in history or last.delta is None:
        return Statement.none()
    epsilon, accountant, rdp = composed_epsilon([step for step in history if step is not None], last.delta)
    cautions = [f"{kind.what}: {warning}" for kind in trainings for warning in kind.statement.warnings]
    alike = {kind.statement.noise_multiplier for kind in trainings}
    return replace(
        last,
        guarantee=math.isfinite(epsilon),
        epsilon=epsilon,
        accountant=accountant,
        epsilon_rdp=rdp,
        epsilon_spent=None,
        mechanism=" and ".join(kind.text for kind in trainings),
        noise_multiplier=alike.pop() if len(alike) == 1 else None,
        sampling_rate=None,
        steps_planned=None,
        steps_done=None,
        privacy_curve=(),
        warnings=tuple(cautions),
    )


def composed_epsilon(history: Sequence[Step], delta: float) -> tuple[float, str, float]:
    """The ε of all steps at δ, whose accountant it is, and the ε of Rényi accounting.

    Both accountants give upper bounds, so the smaller one is one.
    """
    rdp = rdp_epsilon(history, delta)
    if rdp > PRV_LIMIT:
        return rdp, "RDP", rdp
    accountant = PRVAccountant()
    accountant.history = list(history)
    try:
        with _quiet():
            prv = float(accountant.get_epsilon(delta, eps_error=max(0.01, 0.002 * rdp)))
    except (RuntimeError, ValueError):  # it could not discretize: the Rényi bound stands alone
        return rdp, "RDP", rdp
    return (prv, "PRV", rdp) if 0 <= prv <= rdp else (rdp, "RDP", rdp)


def rdp_epsilon(history: Sequence[Step], delta: float) -> float:
    """The ε of all steps at δ by Rényi accounting (Mironov 2017); inf if one of them has no noise."""
    accountant = RDPAccountant()
    accountant.history = list(history)
    with _quiet():
        return float(accountant.get_epsilon(delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Opacus's warnings on the range of orders and on overflow: the bounds hold all the same."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
