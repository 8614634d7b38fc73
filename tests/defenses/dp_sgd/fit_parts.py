"""The parts of a fit with DP-SGD, put together without a trainer."""

from __future__ import annotations

from collections import deque
from typing import Any

from torch.utils.data import default_collate
from user_modules import TEST_SECRET, blobs

from palisade.defenses.dp_sgd.checks import Checks
from palisade.defenses.dp_sgd.choice import Chooser
from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.mechanism import Mechanism
from palisade.defenses.dp_sgd.records import FitRecords
from palisade.defenses.dp_sgd.rehearsal import Rehearsal


class Parts:
    """Parts that a fit puts together before its first step, for a module and its records.

    Args:
        module: a user's.
        data: records; every step holds all of them.
        settings: per_record, unchecked, and C.
    """

    def __init__(
        self, module: Any, data: Any = None, *, per_record: str = "auto", unchecked: bool = False, clip: float = 1.0
    ):
        data = blobs() if data is None else data
        self.module, self.step = module, list(range(len(data)))
        self.rehearsal = Rehearsal(module, module.training_step)
        self.records = FitRecords(
            lambda step: default_collate([data[i] for i in step]),
            transfer=lambda batch: batch,
            rows_per_unit=1,
            waiting=deque(),
            first=lambda units, number: self.step[:units],
        )
        self.clipping = Flat(clip)
        self.mechanism = Mechanism(
            noise_multiplier=1.0, max_grad_norm=clip, clipping="flat", sampling_rate=1.0, public_size=len(data),
            unit="record", rows_per_unit=1, augmentations=1, steps=10, delta=1e-4,
        )  # fmt: skip
        self.checks = Checks(
            self.rehearsal,
            self.records,
            self.mechanism,
            bounds=lambda: self.clipping.bounds,
            divisor=getattr(module, "loss_divisor", None),
        )
        self.chooser = Chooser(
            module,
            per_record,
            rehearsal=self.rehearsal,
            records=self.records,
            checks=self.checks,
            clipping=self.clipping,
            secrets=[TEST_SECRET],
            models=(0,),
            unchecked=unchecked,
        )

    def alike(self, columns: Any = None) -> bool:
        """Agreement of every record's gradient by the check, in the precision of the module."""
        engine = self.chooser.make("fast")
        engine.attach()
        try:
            return self.checks.compare(engine, self.step, self.step if columns is None else columns).alike
        finally:
            engine.detach()
