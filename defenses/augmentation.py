"""Augmentation: training on changed copies of the records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.fields import Positive, remedy
from palisade.targets.fleet import Defense

Kind = Literal["bits", "gaussian", "crop_flip"]


@dataclass(frozen=True, kw_only=True)
class Augmentation(Defense):
    """Changes every record a little, anew in every step, so that none is seen twice (Shorten & Khoshgoftaar 2019).

    It narrows the gap to unseen records, but who asks with augmented copies meets what was memorized (Choquette-Choo
    et al. 2021, section 4.2). Outputs of the trained model are those for the records as they are.

    Args:
        kind: `bits`: every feature of a record of zeros and ones is flipped with probability `amount`.
            `gaussian`: noise of standard deviation `amount` is added to every feature.
            `crop_flip`: images are shifted by up to `amount` pixels in both directions, zeros moving in, and mirrored
            with probability ½.
        amount: see `kind`.

    Raises:
        ValueError: if a value is out of range, or the records are not of the kind.
    """

    not_on_documents = "tokens are no numbers that could be changed a little"
    not_on_documents = "tokens are no numbers that could be changed a little"
    kind: Kind
    amount: Annotated[Positive, remedy("choose e.g. 0.1, or defense=none for 0")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "bits" and self.amount > 0.5:
            raise ValueError(f"amount={self.amount}: expected a probability <= 0.5 of kind=bits; choose e.g. 0.1")
        if self.kind == "crop_flip" and self.amount % 1:
            raise ValueError(f"amount={self.amount}: expected whole pixels >= 1 of kind=crop_flip; choose e.g. 1")

    @property
    def attacks(self) -> tuple[str, ...]:
        """Labels alone, over copies like those that were trained on; shifted ones need `queries=[plain,mirrored,…]`."""
        return ("noise_agreement", "votes", *(["augmentation_agreement"] if self.kind == "crop_flip" else []))

    @property
    def strength(self) -> float:
        """The amount by which records are changed."""
        return self.amount

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        """The batch with every record changed anew; labels stay.

        Raises:
            ValueError: if records are texts.
        """
        if not batch.x.is_floating_point():
            raise ValueError(
                "defense=augmentation: expected inputs of numbers, not of words; choose another defense for texts"
            )
        change: Callable[[Tensor, Draws, int], Tensor] = getattr(self, f"_{self.kind}")
        return batch._replace(x=change(batch.x, draws, batch.mask.ndim))

    def _bits(self, x: Float[Tensor, "*models batch ..."], draws: Draws, leading: int) -> Float[Tensor, "..."]:
        if not ((x == 0) | (x == 1)).all():
            raise ValueError("defense.kind=bits: expected inputs of zeros and ones; choose defense.kind=gaussian")
        rows = x.shape[leading - 1 :]
        flipped = draws("augmentation", lambda rng: rng.random(rows, dtype=np.float32) < self.amount)
        return torch.where(flipped, 1 - x, x)

    def _gaussian(self, x: Float[Tensor, "*models batch ..."], draws: Draws, leading: int) -> Float[Tensor, "..."]:
        rows = x.shape[leading - 1 :]
        noise = draws("augmentation", lambda rng: rng.standard_normal(rows, dtype=np.float32))
        return x + self.amount * noise

    def _crop_flip(self, x: Float[Tensor, "*models batch ..."], draws: Draws, leading: int) -> Float[Tensor, "..."]:
        shape, most = tuple(x.shape[leading:]), int(self.amount)
        if len(shape) != 3:
            raise ValueError(
                f"defense.kind=crop_flip: expected images (channels, height, width), not records of shape {shape};"
                " choose gaussian, or bits for zeros and ones"
            )
        _, height, width = shape
        if most >= min(height, width):
            least = min(height, width) - 1
            raise ValueError(
                f"defense.amount={most}: expected at most {least} pixels for {height}×{width} images; choose fewer"
            )
        uniform = draws("augmentation", lambda rng: rng.random((x.shape[leading - 1], 3))).flatten(end_dim=-2)
        start = (uniform[:, :2] * (2 * most + 1)).long()
        rows = torch.arange(height, device=x.device) + start[:, :1]
        columns = torch.arange(width, device=x.device) + start[:, 1:]
        columns = columns.where(uniform[:, 2:] < 0.5, columns.flip(-1))
        padded = F.pad(x.flatten(end_dim=leading - 1), (most, most, most, most))
        return _cut(padded, rows, columns).view(x.shape)


def _cut(
    images: Float[Tensor, "images channels _ _"], rows: Tensor, columns: Tensor
) -> Float[Tensor, "images channels height width"]:
    """Some rows and columns of every image, its own, in the order given."""
    image, channel = (torch.arange(count, device=images.device) for count in images.shape[:2])
    return images[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
