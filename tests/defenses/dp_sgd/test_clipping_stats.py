"""Statistics of clipping: logged during a fit, and printed at its end."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from test_callback import TEST_SECRET, Module, blobs, trainer
from torch.utils.data import DataLoader

from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.clipping import ClippingStats

pytestmark = pytest.mark.filterwarnings("ignore")


def test_logs_epsilon_clipped_fraction_and_quantiles(tmp_path: Path) -> None:
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    trainer(callback, logger=CSVLogger(tmp_path), log_every_n_steps=5).fit(Module(), DataLoader(blobs(), 24))
    rows = list(csv.DictReader((tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open()))
    epsilon = [float(row["epsilon"]) for row in rows if row["epsilon"]]
    assert len(epsilon) == 6 and epsilon == sorted(epsilon) and epsilon[-1] == pytest.approx(callback.epsilon())
    last = next(row for row in reversed(rows) if row["epsilon"])
    quantiles = [float(last[f"gradient_norm_q{q}"]) for q in (10, 50, 90)]
    assert 0 < quantiles[0] < quantiles[1] < quantiles[2] and 0 <= float(last["clipped_fraction"]) <= 1


def test_metrics_of_a_step_in_parts() -> None:
    stats = ClippingStats([torch.zeros(1)])
    stats.note(norms := torch.tensor([9.0]), norms > 1)
    stats.begin_step()
    assert stats.metrics() == {}
    stats.note(norms := torch.tensor([0.5, 2.0]), norms > 1)
    stats.note(norms := torch.tensor([3.0, 0.0]), norms > 1)  # a padded row has no gradient
    metrics = stats.metrics()
    assert metrics["clipped_fraction"] == pytest.approx(2 / 3)
    assert metrics["gradient_norm_q10"] == pytest.approx(np.quantile([0.5, 2.0, 3.0], 0.1))


def test_statement_is_printed_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)
    with caplog.at_level(logging.INFO):
        trainer(DPSGD(epsilon=8), max_epochs=1).fit(Module(), DataLoader(blobs(), 24))
    assert any("differential privacy per record (add/remove one record), PRV" in text for text in caplog.messages)


@pytest.mark.parametrize("how", ["should_stop", "exception", "max_time"])
def test_early_end_says_what_was_spent_and_that_it_is_no_guarantee(how: str, caplog: pytest.LogCaptureFixture) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step >= 12:
                if how == "exception":
                    raise KeyboardInterrupt
                trainer.should_stop = True

    callback = DPSGD(epsilon=8)
    settings: Any = {"max_time": {"seconds": 0}} if how == "max_time" else {"min_epochs": 0}
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)
    with caplog.at_level(logging.INFO):
        try:
            trainer(callback, Stop(), **settings).fit(Module(), DataLoader(blobs(), batch_size=24))
        except SystemExit:  # how Lightning ends after Ctrl-C
            assert how == "exception"
    statement = callback.statement
    assert statement.steps_done < statement.steps_planned == 30 and 0.99 * 8 <= statement.epsilon <= 8
    assert statement.epsilon_spent == callback.epsilon() < statement.epsilon
    said = f"stopped after {statement.steps_done} of 30 steps"
    assert any(said in text and "which is not a guarantee" in text for text in caplog.messages)


def test_a_stop_fixed_beforehand_is_the_plan() -> None:
    callback = DPSGD(noise_multiplier=1.0)
    trainer(callback, max_steps=12, max_epochs=None).fit(Module(), DataLoader(blobs(), batch_size=24))
    assert callback.statement.steps_planned == callback.statement.steps_done == 12
    assert "stopped" not in callback.statement.sentence()


def test_tuning_runs_are_composed() -> None:
    callback = DPSGD(epsilon=2, delta=1e-4, tuning_runs=1)
    trainer(callback, max_epochs=1).fit(Module(), DataLoader(blobs(), batch_size=24))
    assert callback.statement.tuning_runs == 1
    assert (
        "2 trainings on the same records, tuning included, cost ε = 3.99, δ = 0.0002 by adding up"
        in callback.statement.sentence()
    )
