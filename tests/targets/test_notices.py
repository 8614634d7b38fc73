"""Messages of libraries are hidden, or shown in one line."""

from __future__ import annotations

import logging
import warnings

import pytest

from palisade.targets import progress

LIBRARY_MESSAGES = (
    "GPU available but not used. You can set it by doing `Trainer(accelerator='gpu')`.",
    "The 'train_dataloader' does not have many workers which may be a bottleneck.",
    "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)` instead.",
    "The number of training batches (5) is smaller than the logging interval Trainer(log_every_n_steps=50).",
)


@pytest.mark.parametrize("message", LIBRARY_MESSAGES)
def test_what_nobody_can_act_on_is_left_out_unless_asked_for(message, capfd):
    for verbose in (False, True):
        with progress.one_line_warnings(), progress.quiet_libraries(verbose):
            warnings.warn(message, UserWarning, stacklevel=1)
    assert capfd.readouterr().err == f"warning: {message}\n"
    assert logging.getLogger("pytorch_lightning").level == logging.INFO
    with progress.quiet_libraries(verbose=False):
        assert logging.getLogger("pytorch_lightning").level == logging.ERROR


def test_the_rest_is_one_line_of_words(capfd):
    lines: list[str] = []
    with progress.one_line_warnings(also=lines.append):
        warnings.warn("noise is\n  too small", RuntimeWarning, stacklevel=1)
    assert capfd.readouterr().err == "warning: noise is too small\n"
    assert lines == ["warning: noise is too small"]
