"""Keys of a fit: its own randomness under a secret that may serve several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from palisade.data.secret import BYTES, Secret
from palisade.defenses.dp_sgd.mechanism import Mechanism


def identities(
    module: nn.Module,
    optimizer: Optimizer,
    mechanism: Mechanism,
    *,
    purpose: str,
    models: Sequence[int],
    transposed: Collection[Tensor] = (),
) -> list[str]:
    """Identity of a fit among others under one secret, one text for every model; nothing in it is private.

    Two fits with one noise stream would let whoever holds both models take the noise off. The number of steps is left
    out, so that a fit can be continued, and so are the records, since the streams of neighboring data sets must be
    equal for tests: two data sets under one given secret are named in the statement instead.

    Args:
        module: before its first step.
        optimizer: the user's.
        mechanism: has σ, C, q, N and the kind of clipping.
        purpose: "fit", or the run or release that the models belong to.
        models: their numbers; several are a stack.
        transposed: parameters of a stack with their last two axes the other way round than in a single model.
    """
    settings = sorted((name, repr(value)) for name, value in optimizer.defaults.items())
    numbers = [mechanism.noise_multiplier, mechanism.max_grad_norm, mechanism.sampling_rate, mechanism.public_size]
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    texts = []
    for position, model in enumerate(models):
        weights = hashlib.sha256()
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            value = parameter.detach()
            if len(models) > 1:
                value = value[position].mT if parameter in transposed else value[position]
            weights.update(name.encode())
            weights.update(value.double().cpu().contiguous().numpy().tobytes())
        texts.append(
            json.dumps(
                [
                    kind,
                    type(optimizer).__qualname__,
                    settings,
                    *numbers,
                    mechanism.clipping,
                    purpose,
                    model,
                    weights.hexdigest(),
                ]
            )
        )
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def fit_secret(secret: Secret, identity: str) -> Secret:
    """The secret of one model's fit, by HMAC of what tells it from others."""
    return Secret(bytes.fromhex(secret.seal(identity.encode()))[:BYTES], given=secret.given)
