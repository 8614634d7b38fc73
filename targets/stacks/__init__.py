"""Networks with a leading model axis: K models of one architecture, trained at the same time."""

from targets.stacks.convolution import StackedConvolution
from targets.stacks.dense import StackedLinear
from targets.stacks.embedding import StackedEmbedding
from targets.stacks.folded import Folded
from targets.stacks.normalization import StackedNorm
from targets.stacks.stacking import stack, transposed, unstack, unstackable

__all__ = [
    "Folded",
    "StackedConvolution",
    "StackedEmbedding",
    "StackedLinear",
    "StackedNorm",
    "stack",
    "transposed",
    "unstack",
    "unstackable",
]
