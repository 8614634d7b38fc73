"""The attacker that a model is trained against: it tells members by what the model says about them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from datamodules.secret import Secret

LEARNING_RATE = 1e-3


class InferenceAttacker(nn.Module):
    """h(f(x), y): how much a prediction about a record of class y looks like one about a member, as a logit.

    Two branches, for prediction and class, that are then joined (Nasr et al. 2018, section 4). The prediction is given
    as the probability of the true class and then, sorted, those of the others: the same as f(x) but for the names of
    the wrong classes, and learnt from far fewer records.

    Args:
        classes: how many f tells apart.
        secret: fixes its initial weights.
        model: whom it attacks, a number in the fleet.
    """

    def __init__(self, classes: int, secret: Secret, model: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.set_rng_state(secret.torch("attacker weights", model).get_state())
            self.prediction = nn.Sequential(nn.Linear(classes, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
            self.label = nn.Sequential(nn.Linear(classes, 64), nn.ReLU())
            self.joined = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)

    def forward(self, logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        classes = logits.shape[-1]
        label, p = F.one_hot(y, classes), logits.softmax(dim=-1)
        true = p.gather(-1, y.unsqueeze(-1))
        others = p.masked_fill(label.bool(), -1).sort(dim=-1, descending=True).values[:, : classes - 1]
        branches = [self.prediction(torch.cat([true, others], dim=-1)), self.label(label.to(p.dtype))]
        joined: Tensor = self.joined(torch.cat(branches, dim=-1))
        return joined.squeeze(-1)

    def belief(self, logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The probability that it gives to membership."""
        return self(logits, y).sigmoid()

    def learn(
        self, logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"], member: Bool[Tensor, " batch"]
    ) -> None:
        """One step of Adam on the cross-entropy between membership and belief."""
        self.optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(self(logits, y), member.float()).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def auc(
        self, logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"], member: Bool[Tensor, " batch"]
    ) -> float:
        """How well it tells members from others: the probability that a member gets the larger belief."""
        with torch.no_grad():
            signals = self(logits, y)
        ahead = signals[member].unsqueeze(1) - signals[~member]
        return float((ahead > 0).float().mean() + (ahead == 0).float().mean() / 2)

    def sensitivity(self, logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> float:
        """The largest derivative of a belief by a logit of f; where it is 0, f learns nothing from this attacker."""
        logits = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.belief(logits, y).sum(), logits)
        return float(gradient.abs().max())
