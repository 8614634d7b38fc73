"""Precision under a claim: single precision at least, in full, whatever the user allows elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

HALF_TYPES = (torch.float16, torch.bfloat16)
"""Kinds of numbers whose rounding lets a record move what others add to the sum.

Products of batches of other sizes are summed in another order; in 16 bits that shows in the third digit.
"""
_backends: Any = torch.backends
REDUCIBLE_PRODUCTS: tuple[Any, ...] = (
    *(_backends.cuda.matmul, _backends.cudnn.conv),
    *(_backends.mkldnn.matmul, _backends.mkldnn.conv),
)
"""Kinds of products whose precision PyTorch can lower; that of cuDNN's convolutions it lowers (TF32) by itself."""
FULL_PRECISIONS = ("none", "ieee")
AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def full_precision() -> Iterator[None]:
    """Context without TF32, reduced products of float32 and autocasting; afterwards they are as they were."""
    before = [products.fp32_precision for products in REDUCIBLE_PRODUCTS]
    with ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        for products, precision in zip(REDUCIBLE_PRODUCTS, before, strict=True):
            if precision not in FULL_PRECISIONS:
                products.fp32_precision = "ieee"
                stack.callback(setattr, products, "fp32_precision", precision)
        yield


def check_precision(module: nn.Module) -> None:
    """Raises ValueError for a trained parameter of less than single precision, whose norms would be rounded."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"parameter {name} is trained in {kind}, which rounds the norms that clipping relies on; call"
                " module.float()"
            )
