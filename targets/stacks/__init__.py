"""Networks with a leading model axis: K models of one architecture, trained at the same time."""

from palisade.targets.stacks.convolution import StackedConvolution, StackedStandardizedConvolution
from palisade.targets.stacks.dense import StackedLinear
from palisade.targets.stacks.embedding import StackedEmbedding
from palisade.targets.stacks.folded import Folded
from palisade.targets.stacks.normalization import StackedNorm
from palisade.targets.stacks.stacking import stack, transposed, unstack, unstackable

__all__ = [
    "Folded",
    "StackedConvolution",
    "StackedEmbedding",
    "StackedLinear",
    "StackedNorm",
    "StackedStandardizedConvolution",
    "stack",
    "transposed",
    "unstack",
    "unstackable",
]
