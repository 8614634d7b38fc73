"""The attacker that a model is trained against: it infers membership from the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from palisade.data.placement import sent
from palisade.data.secret import Secret
from palisade.targets.stacks import stack


class Shown(NamedTuple):
    """Records that the attackers of several models see: as many for each, of which some are padding."""

    records: Int64[np.ndarray, "models records"]
    member: Bool[Tensor, "models records"]
    real: Bool[Tensor, "models records"]

    @classmethod
    def of(cls, members: Sequence[Int64[np.ndarray, "_"]], others: Sequence[Int64[np.ndarray, "_"]]) -> Shown:
        """Members and others of each model."""
        together = [np.concatenate(pair) for pair in zip(members, others, strict=True)]
        longest = max(map(len, together))
        records = np.stack([np.pad(records, (0, longest - len(records))) for records in together])
        place = torch.arange(longest)
        member, real = (torch.stack([place < len(part) for part in parts]) for parts in (members, together))
        return cls(records, member, real)

    def to(self, device: torch.device) -> Shown:
        """These with the marks on a device."""
        return self._replace(member=sent(self.member, device), real=sent(self.real, device))


class InferenceAttacker(nn.Module):
    """h(f(x), y): how much a prediction about a record of class y looks like one about a member, as a logit.

    Two branches, for prediction and class, that are then joined (Nasr et al. 2018, section 4). The prediction is given
    as the probability of the true class and then, sorted, those of the others: the same as f(x) but for the names of
    the wrong classes, and learnt from far fewer records.

    Args:
        classes: number of f's classes.
        secret: fixes its initial weights.
        model: whom it attacks, a number in the fleet.
    """

    def __init__(self, classes: int, secret: Secret, model: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(secret.torch("attacker weights", model).get_state())
            self.prediction = nn.Sequential(nn.Linear(classes, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
            self.label = nn.Sequential(nn.Linear(classes, 64), nn.ReLU())
            self.joined = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    @classmethod
    def side_by_side(cls, classes: int, secret: Secret, models: Sequence[int]) -> InferenceAttacker:
        """The attackers of several models as one, with a leading model axis."""
        return cast("InferenceAttacker", stack([cls(classes, secret, model) for model in models]))

    def forward(
        self, logits: Float[Tensor, "*models batch classes"], y: Int64[Tensor, "*models batch"]
    ) -> Float[Tensor, "*models batch"]:
        """Log-odds of membership; probabilities enter as that of the class y, then the others in falling order."""
        classes = logits.shape[-1]
        label, p = F.one_hot(y, classes), logits.softmax(dim=-1)
        true = p.gather(-1, y.unsqueeze(-1))
        others = p.masked_fill(label.bool(), -1).sort(dim=-1, descending=True).values[..., : classes - 1]
        branches = [self.prediction(torch.cat([true, others], dim=-1)), self.label(label.to(p.dtype))]
        joined: Tensor = self.joined(torch.cat(branches, dim=-1))
        return joined.squeeze(-1)

    def belief(
        self, logits: Float[Tensor, "*models batch classes"], y: Int64[Tensor, "*models batch"]
    ) -> Float[Tensor, "*models batch"]:
        """The probability that it gives to membership."""
        return self(logits, y).sigmoid()

    def loss(
        self, logits: Float[Tensor, "models batch classes"], y: Int64[Tensor, "models batch"], shown: Shown
    ) -> Float[Tensor, ""]:
        """Cross-entropy between membership and belief: its mean over the records of a model, summed over models."""
        losses = F.binary_cross_entropy_with_logits(self(logits, y), shown.member.float(), reduction="none")
        return (losses.where(shown.real, 0).sum(dim=-1) / shown.real.sum(dim=-1).clamp(min=1)).sum()

    def aucs(
        self, logits: Float[Tensor, "models batch classes"], y: Int64[Tensor, "models batch"], shown: Shown
    ) -> Float[Tensor, " models"]:
        """AUC of each attacker: the probability that a member gets the larger belief."""
        with torch.no_grad():
            signals = self(logits, y)
        ahead = [
            of_one[member].unsqueeze(1) - of_one[real & ~member]
            for of_one, member, real in zip(signals, shown.member, shown.real, strict=True)
        ]
        return torch.stack([(by > 0).float().mean() + (by == 0).float().mean() / 2 for by in ahead])

    def sensitivity(
        self, logits: Float[Tensor, "models batch classes"], y: Int64[Tensor, "models batch"]
    ) -> Float[Tensor, " models"]:
        """The largest derivative of a belief by a logit of f; where it is 0, f learns nothing from this attacker."""
        logits = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.belief(logits, y).sum(), logits)
        return gradient.abs().amax(dim=(1, 2))
