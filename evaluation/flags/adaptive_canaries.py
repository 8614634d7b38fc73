"""Adaptive canaries: a defense must be tried on those that it protects least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from palisade.evaluation.findings import Findings
from palisade.evaluation.flags.flag import Flag

SAME = ("defense", "guard", "guard_strength", "seed")


def unadapted(found: Findings, together: Sequence[Findings]) -> Iterator[Flag]:
    """Canaries that a defense names are missing: no run of it, at this strength, was trained on them."""
    alike = [
        other
        for other in together
        if all(getattr(other, name) == getattr(found, name) for name in SAME)
        and other.config["defense"] == found.config["defense"]
    ]
    for kind in found.canaries:
        if kind not in {other.canary for other in alike}:
            yield Flag(
                "adaptive attack missing",
                f"{found.defense} protects {kind} canaries least, and none were tried: what attacks find here is what a"
                " defense that is not attacked adaptively shows. Add them to the command that trained this run:"
                f" python train.py … defense={found.config['names']['defense']} canary={kind}",
            )
