"""Notices of libraries while models are trained: left out where nobody can act on them, else in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from palisade.targets import progress

NOTHING_TO_ACT_ON = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"GPU available but not used",  # fleets are trained on the CPU
    r"The '\w+' does not have many workers",  # records are in memory already
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # epochs are logged, not steps
)
"""Beginnings of messages that no user can act on, as regular expressions."""
LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning")


@contextmanager
def of_libraries(verbose: bool) -> Iterator[None]:
    """Leaves out what Lightning, Opacus and torch tell that no user can act on; with `verbose` all of it is told."""
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    with warnings.catch_warnings():
        if not verbose:
            for message in NOTHING_TO_ACT_ON:
                warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def in_one_line(also: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Warnings are told in one line of words, without the place in the code that they come from.

    Args:
        also: gets every line, such as the log of a run.
    """

    def tell(message: Warning | str, *place: object, **more: object) -> None:
        line = f"warning: {' '.join(str(message).split())}"
        progress.say(line)
        also(line)

    with warnings.catch_warnings():
        warnings.showwarning = tell
        yield
