"""Journal of clipped gradients, for logs and warnings: computed from the records, and private like them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

QUANTILES = (0.1, 0.5, 0.9)


class Journal:
    """Counts clipped gradients over a fit, and keeps the norms of the current step.

    Args:
        parameters: what is trained, before the first step.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.start = [parameter.detach().clone() for parameter in parameters]
        self.clipped, self.seen = 0, 0
        self._above: list[Tensor] = []
        self._norms: list[Tensor] = []

    def begin_step(self) -> None:
        """Forgets the norms of the step before."""
        self._above.clear()
        self._norms.clear()

    def note(self, norms: Float[Tensor, "*models batch"], above: Bool[Tensor, "*models batch"]) -> None:
        """Takes in the norms before clipping, and which are above their bound; padded rows have none."""
        self.clipped += int(above.sum())
        self.seen += int((norms > 0).sum())
        self._above.append(above)
        self._norms.append(norms)

    def metrics(self) -> dict[str, float]:
        """Clipped fraction and norm quantiles of this step; nothing for an empty batch."""
        norms = torch.cat([norms[norms > 0] for norms in self._norms]).double() if self._norms else torch.empty(0)
        if not len(norms):
            return {}
        found = norms.quantile(norms.new_tensor(QUANTILES)).tolist()
        quantiles = {f"gradient_norm_q{100 * q:.0f}": value for q, value in zip(QUANTILES, found, strict=True)}
        return {"clipped_fraction": float(sum(above.sum() for above in self._above)) / len(norms), **quantiles}

    def warnings(self) -> list[str]:
        """Warnings that the whole fit gives reason for."""
        found = []
        if self.seen and all(torch.equal(a, b) for a, b in zip(self.start, self.parameters, strict=True)):
            found.append("the weights did not move; check the learning rate and that the optimizer has the parameters")
        fraction = self.clipped / max(self.seen, 1)
        if self.seen and not 0.01 <= fraction <= 0.99:
            found.append(f"{fraction:.1%} of the gradients were clipped; choose max_grad_norm nearer to their median")
        return found
