"""Clipping: per-record gradients are scaled down, so that no record moves the sum by more than C."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palisade.data.placement import in_double

NORM_SMOOTHING = 0.01
TARGET_QUANTILE = 0.5
LEARNING_RATE = 0.2
COUNT_NOISE = 1 / 20


class Flat:
    """min(1, C/‖g‖) over all layers together (Abadi et al. 2016, section 3.1).

    Args:
        max_grad_norm: C > 0.
        models: how many models are trained at once.
    """

    def __init__(self, max_grad_norm: float, *, models: int = 1) -> None:
        self.bounds = [float(max_grad_norm)] * models
        """The most that a record can move the sum by in this step, one number per model."""

    def factors(
        self, norms: Float[Tensor, "*models batch"], layers: Float[Tensor, "layers *models batch"]
    ) -> Float[Tensor, "*#layers *models batch"]:
        """Factors that the records' gradients are multiplied by.

        Args:
            norms: of the whole gradients.
            layers: squared norms of the layers' parts.
        """
        # min(1, C/‖g‖) without 0/0 for records that have no gradient.
        bound = self.bound(norms)
        return bound / norms.clamp(min=bound)

    def gradient_noise(self, noise_multiplier: float, expected_batch_size: float) -> float:
        """The σ for the gradients that spends what is reported to the accountant."""
        return noise_multiplier

    def observe(self, norms: Float[Tensor, "*models batch"]) -> None:
        """Takes in the norms before clipping, one physical batch at a time."""

    def adapt(self, normals: Callable[[], Float[Tensor, " models"]], reduce: Callable[[Tensor], object] | None) -> None:
        """Adapts the bound once a step, after the noise was added.

        Args:
            normals: returns a standard normal number of this step for each model.
            reduce: sums a tensor over processes, in place.
        """

    def bound(self, norms: Float[Tensor, "*models batch"]) -> float | Tensor:
        """`bounds` in a form that compares with norms of this shape."""
        return self.bounds[0]

    def noise_scales(self, gradient_noise: float) -> tuple[list[float], Float[Tensor, " models"] | None]:
        """Standard deviation of the noise that is drawn for each model, and what it is then multiplied by, if at all.

        Args:
            gradient_noise: the σ for the gradients.
        """
        return [gradient_noise * bound for bound in self.bounds], None


class PerLayer(Flat):
    """Every one of L layers is clipped to C/√L by itself, so that together they stay within C.

    One large layer then does not silence the others (McMahan et al. 2018, "Learning Differentially Private Recurrent
    Language Models", section 3.3).
    """

    def factors(self, norms: Tensor, layers: Tensor) -> Tensor:
        """min(1, C/(√L·‖g_l‖)) for every layer l and record."""
        bound = self.bounds[0] / math.sqrt(len(layers))
        return bound / layers.sqrt().clamp(min=bound)


class Automatic(Flat):
    """C/(‖g‖ + 0.01): every gradient is normalized, and C becomes part of the learning rate.

    Bu et al. 2023, "Automatic Clipping: Differentially Private Deep Learning Made Easier and Stronger", section 3.
    """

    def factors(self, norms: Tensor, layers: Tensor) -> Tensor:
        """C/(‖g‖ + 0.01) for every record, which enlarges small gradients."""
        return self.bounds[0] / (norms + NORM_SMOOTHING)


class Adaptive(Flat):
    """C follows the median of the norms, estimated from a noisy count in every step.

    Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping", algorithm 1, with its constants:
    geometric updates at rate 0.2, count noise of a twentieth of the expected batch. The count is paid for by more
    noise on the gradients (theorem 1); the claim stays that of σ.

    Args:
        max_grad_norm: C of the first step.
        models: how many models are trained at once.
    """

    def __init__(self, max_grad_norm: float, *, models: int = 1) -> None:
        self.bounds = [max_grad_norm] * models
        self.count_noise, self.expected = 0.0, 1.0
        self._count = torch.zeros(models)

    @property
    def bounds(self) -> list[float]:
        """The C of every model in this step, which the host waits for."""
        bounds: list[float] = self._bounds.tolist()
        return bounds

    @bounds.setter
    def bounds(self, bounds: Sequence[float]) -> None:
        self._bounds = torch.tensor(bounds, dtype=torch.float32)

    def gradient_noise(self, noise_multiplier: float, expected_batch_size: float) -> float:
        """A larger σ for the gradients: they and the noisy count together spend what σ alone would; 0 stays 0."""
        self.expected = expected_batch_size
        if noise_multiplier == 0:
            return 0.0
        # At least σ, or the count alone would spend more than the claim allows.
        self.count_noise = max(COUNT_NOISE * expected_batch_size, noise_multiplier)
        return float((noise_multiplier**-2 - (2 * self.count_noise) ** -2) ** -0.5)

    def observe(self, norms: Tensor) -> None:
        """Counts each model's records below its C, half a record each way."""
        # ½ for a record below C and −½ for one above: sensitivity ½. Padded rows have no gradient and count nothing.
        signs = torch.where(norms <= self.bound(norms), 0.5, -0.5).where(norms > 0, 0.0)
        self._count += signs.sum(-1).view(-1)

    def adapt(self, normals: Callable[[], Float[Tensor, " models"]], reduce: Callable[[Tensor], object] | None) -> None:
        """Moves each model's C towards the median of its norms, by the noisy count of the step."""
        if reduce is not None:
            reduce(self._count)
        below = 0.5 + (self._count + self.count_noise * normals()) / self.expected
        self._bounds *= (-LEARNING_RATE * (below - TARGET_QUANTILE)).exp()
        self._count.zero_()

    def bound(self, norms: Tensor) -> Tensor:
        """Each model's C, where the norms are: it stays there, and no step waits for it."""
        self._bounds, self._count = self._bounds.to(norms.device), self._count.to(norms.device)
        return self._bounds.view(*norms.shape[:-1], 1)

    def noise_scales(self, gradient_noise: float) -> tuple[list[float], Tensor]:
        """σ for every model, times its C where that is."""
        return [gradient_noise] * len(self._bounds), self._bounds


CLIPPING_CLASSES: dict[str, type[Flat]] = {
    "flat": Flat,
    "per_layer": PerLayer,
    "automatic": Automatic,
    "adaptive": Adaptive,
}


LOGGED_QUANTILES = (0.1, 0.5, 0.9)


class ClippingStats:
    """Counts clipped gradients over a fit, and keeps the norms of the current step.

    Args:
        parameters: what is trained, before the first step.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.start = [parameter.detach().clone() for parameter in parameters]
        self.counts = torch.zeros(2, dtype=torch.int64, device=self.start[0].device)
        """Gradients that were clipped, and all; on the device, where reading them would make every step wait."""
        self._above: list[Tensor] = []
        self._norms: list[Tensor] = []

    def begin_step(self) -> None:
        """Forgets the norms of the step before."""
        self._above.clear()
        self._norms.clear()

    def note(self, norms: Float[Tensor, "*models batch"], above: Bool[Tensor, "*models batch"]) -> None:
        """Takes in the norms before clipping, and which are above their bound; padded rows have none."""
        self.counts += torch.stack([above.sum(), (norms > 0).sum()])
        self._above.append(above)
        self._norms.append(norms)

    def metrics(self) -> dict[str, float]:
        """Clipped fraction and norm quantiles of this step; nothing for an empty batch."""
        norms = in_double(torch.cat([norms[norms > 0] for norms in self._norms])) if self._norms else torch.empty(0)
        if not len(norms):
            return {}
        norm_quantiles = norms.quantile(norms.new_tensor(LOGGED_QUANTILES)).tolist()
        quantiles = {
            f"gradient_norm_q{100 * q:.0f}": value for q, value in zip(LOGGED_QUANTILES, norm_quantiles, strict=True)
        }
        return {"clipped_fraction": float(sum(above.sum() for above in self._above)) / len(norms), **quantiles}

    def warnings(self) -> list[str]:
        """Warnings that the whole fit gives reason for."""
        texts = []
        clipped, seen = self.counts.tolist()
        if seen and all(torch.equal(a, b) for a, b in zip(self.start, self.parameters, strict=True)):
            texts.append("the weights did not move; check the learning rate and that the optimizer has the parameters")
        fraction = clipped / max(seen, 1)
        if seen and not 0.01 <= fraction <= 0.99:
            texts.append(f"{fraction:.1%} of the gradients were clipped; choose max_grad_norm nearer to their median")
        return texts
