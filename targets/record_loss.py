"""Loss of a record: cross-entropy of its class, or the mean over the tokens of a document."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from palisade.data.loaders import Batch
from palisade.data.placement import in_double
from palisade.data.sequences import NO_TOKEN, TOKEN_COLUMNS, TOKEN_ROW


def record_losses(
    logits: Float[Tensor, "*models batch *positions classes"], batch: Batch
) -> Float[Tensor, "*models batch"]:
    """Cross-entropy of every record with its class, or with its soft labels if given.

    Of a document it is the mean over its own tokens. The mean over a batch's tokens, which libraries take, would let
    the length of one document decide how much another one weighs: records were no longer apart.
    """
    y, targets = batch.y.flatten(), None if batch.targets is None else batch.targets.flatten(end_dim=-2)
    losses = F.cross_entropy(
        logits.flatten(end_dim=-2), y if targets is None else targets, reduction="none", ignore_index=NO_TOKEN
    ).view(batch.y.shape)
    return means_over_tokens(losses, batch) if batch.positional else losses


def means_over_tokens(values: Float[Tensor, "*models batch positions"], batch: Batch) -> Float[Tensor, "*models batch"]:
    """Mean of values over the tokens of each document; 0 of one without any."""
    is_token = batch.y != NO_TOKEN
    return values.where(is_token, 0).sum(dim=-1) / is_token.sum(dim=-1).clamp(min=1)


def token_rows(
    logits: Float[Tensor, "documents positions classes"], y: Int64[Tensor, "documents positions"]
) -> Shaped[np.ndarray, "documents positions"]:
    """Rows about the tokens of documents, of `TOKEN_ROW`: all that is kept of an answer, never the logits.

    Args:
        logits: of the next token at every position; everything is computed in float64.
        y: the tokens, −1 behind the last one, where log p is NaN and all else 0.
    """
    logits = in_double(logits)
    logs, y = logits.log_softmax(dim=-1), y.to(logits.device)
    probabilities = logs.exp()
    mean = (probabilities * logs).sum(dim=-1)
    variance = (probabilities * (logs - mean.unsqueeze(-1)).square()).sum(dim=-1)
    own, is_token = _of_tokens(logs, y), y != NO_TOKEN
    rows = np.zeros(y.shape, TOKEN_ROW)
    for name, values in zip(TOKEN_COLUMNS, (own, mean, variance), strict=True):
        rows[name] = values.where(is_token, torch.nan if name == TOKEN_COLUMNS[0] else 0).cpu().numpy()
    rows["greedy"] = ((logits.argmax(dim=-1) == y) & is_token).cpu().numpy()
    return rows


def own_log_probabilities(
    logits: Float[Tensor, "documents positions classes"], y: Int64[Tensor, "documents positions"]
) -> Float64[Tensor, "documents positions"]:
    """log p of the tokens of documents, NaN behind the last one.

    Args:
        logits: of the next token at every position, −inf of those that a guard refuses.
        y: the tokens, −1 behind the last one.
    """
    own = _of_tokens(logits.double().log_softmax(dim=-1), y)
    refused = _of_tokens(logits, y).isneginf()  # where all are, there is no softmax
    return own.masked_fill(refused, -torch.inf).masked_fill(y == NO_TOKEN, torch.nan)


def _of_tokens(
    values: Float[Tensor, "documents positions classes"], y: Int64[Tensor, "documents positions"]
) -> Float[Tensor, "documents positions"]:
    """Values of the token at each position; of the first class behind the last one."""
    return values.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
