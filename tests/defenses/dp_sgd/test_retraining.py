"""An attack by retraining, with and without a rare record, against a loss that weighs classes over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from test_callback import trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.checks import Checks, ComparedGradients
from palisade.evaluation.statistics.epsilon import clopper_pearson

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FLEET_RECORDS, FLEET_MODELS, TEST_DELTA = 64, 60, 1e-3


class Weighted(pl.LightningModule):
    """Its loss is divided by the weights of the classes in the batch: a rare record scales down all others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.layer(batch[0]), batch[1], weight=torch.tensor([1.0, 50.0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.005)


def records() -> TensorDataset:
    """Record 0 alone is of class 1."""
    x = 0.1 * torch.randn(FLEET_RECORDS, 6, generator=torch.Generator().manual_seed(0))
    x[:, 0] += 1
    return TensorDataset(x, (torch.arange(FLEET_RECORDS) == 0).long())


def score(with_it: bool, per_record: str, model: int = 0) -> float:
    """Distance by which a training, with noise of its own, moves the usual records to their class."""
    secret = Secret.from_text(f"{model} {'with' if with_it else 'without'} it")
    torch.manual_seed(1)
    module = Weighted()
    data = records() if with_it else Subset(records(), range(1, FLEET_RECORDS))
    callback = DPSGD(epsilon=1, delta=TEST_DELTA, public_size=FLEET_RECORDS, per_record=per_record, secret=secret)
    trainer(callback, max_epochs=2).fit(module, DataLoader(data, batch_size=FLEET_RECORDS))
    assert callback.statement.epsilon <= 1
    logits = module.layer(records().tensors[0][1:]).detach()
    return float((logits[:, 0] - logits[:, 1]).mean())


def proven(per_record: str) -> float:
    """ε that the attack proves at 95 %, with a threshold from other models."""
    first, second = (
        [[score(there, per_record, model) for model in models] for there in (True, False)]
        for models in (range(10), range(10, 10 + FLEET_MODELS))
    )
    sign = 1 if np.mean(first[0]) > np.mean(first[1]) else -1
    threshold = sign * (np.mean(first[0]) + np.mean(first[1])) / 2
    called = [int(sum(sign * value > threshold for value in values)) for values in second]
    assert all(len(set(values)) == FLEET_MODELS for values in second)  # noise of their own
    return clopper_pearson(called[0], FLEET_MODELS, called[1], FLEET_MODELS, TEST_DELTA)


def test_what_the_attack_breaks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training_step couples records.*per_record=alone"):
        score(True, "auto")


def test_the_attack_breaks_it_where_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """So what it finds below is what is there to find."""
    monkeypatch.setattr(Checks, "compare", lambda self, engine, step, columns, index=0: ComparedGradients(True))
    monkeypatch.setattr(Checks, "step_alike", lambda *_, **__: True)
    assert proven("fast") > 2


def test_the_attack_proves_no_more_than_is_claimed_where_every_record_is_alone() -> None:
    assert proven("alone") <= 1
