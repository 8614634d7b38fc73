"""Adaptive canaries: a defense must be tried on those that it protects least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from palisade.evaluation.flags.flag import Flag
from palisade.evaluation.result import Result

SAME = ("defense", "guard", "guard_strength", "seed")


def unadapted(result: Result, together: Sequence[Result]) -> Iterator[Flag]:
    """Canaries that a defense names are missing: no run of it, at this strength, was trained on them."""
    alike = [
        other
        for other in together
        if all(getattr(other, name) == getattr(result, name) for name in SAME)
        and other.config["defense"] == result.config["defense"]
    ]
    for kind in result.canaries:
        if kind not in {other.canary for other in alike}:
            yield Flag(
                "adaptive attack missing",
                f"{result.defense} protects {kind} canaries least, and none were tried: what attacks find here is what"
                " a defense that is not attacked adaptively shows. Add them to the command that trained this run:"
                f" python train.py … defense={result.config['names']['defense']} canary={kind}",
            )
