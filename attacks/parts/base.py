"""The base of all attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.granted import Granted
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import CheckedFields


class Scored(NamedTuple):
    """An attack's scores and what they cost.

    Args:
        scores: higher = more likely a member; NaN where no score exists.
        queries: queries a record that the attack made, on average over all models, shadows included.
    """

    scores: Float[np.ndarray, "models records"]
    queries: float


class Attack(CheckedFields, ABC):
    """A membership inference attack: scores every record for every model, higher = more likely a member.

    An attack file holds only its own: a `name`, its `idea` in a layman's words, a `threat` and `_score`. All models are
    targets at once; a target's own membership never enters its scores, except for what `threat.known_members` declares.
    One that is costly may attack a sample of the models only: a row that is NaN throughout says that this model was no
    target.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Its key in tables and errors, which differs between variants such as online and offline."""

    @property
    def idea(self) -> str:
        """Its way in a layman's words, one sentence that reports show where its name first stands; may be empty."""
        return ""

    @property
    @abstractmethod
    def threat(self) -> ThreatModel:
        """Its needs: it is skipped on a view that grants less."""

    @abstractmethod
    def _score(self, view: View) -> Float[np.ndarray, "models records"]: ...

    def suited(self, view: View) -> Self:
        """The attack in the form that the data call for, such as texts; usually as it is."""
        return self

    def missing(self, view: View) -> str | None:
        """The reason why this attack is skipped on this view, None if it can run."""
        return self.suited(view).threat.missing(view)

    def score(self, view: View) -> Float[np.ndarray, "models records"]:
        """Scores in float64, NaN where no score exists.

        Raises:
            ValueError: if the view grants less than the attack needs (see `missing`), or if the attack breaks
                its contract: by reading what it did not declare, or by another shape than (models, records).
        """
        return self.run(view).scores

    def run(self, view: View) -> Scored:
        """The scores, with the number of queries that they took."""
        if (reason := self.missing(view)) is not None:
            raise ValueError(f"attack={self.name}: expected a view that meets its needs, but it {reason}")
        suited = self.suited(view)
        granted = Granted(view, suited.threat)
        scores = np.asarray(suited._score(granted), dtype=np.float64)
        if scores.shape != view.membership.shape:
            raise ValueError(
                f"attack={self.name}: expected scores of shape {view.membership.shape}, not {scores.shape}; return one"
                " per model and record"
            )
        return Scored(scores, granted.meter.queries)
