"""Observations during a fit: that records stay uncoupled, and that nothing is learned beside the noise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch

from palisade.data.placement import in_double
from palisade.defenses.dp_sgd.alone import Alone
from palisade.defenses.dp_sgd.checks import FEW_RECORDS_PER_LOOK, MAX_RECORDS_PER_LOOK, Pace, chosen
from palisade.defenses.dp_sgd.choice import NOT_COMPARED, RECORDS_COUPLED_OVER_STEPS, Chooser
from palisade.defenses.dp_sgd.engine import Engine, LayerError
from palisade.defenses.dp_sgd.gradients import ClippedSum
from palisade.defenses.dp_sgd.microbatches import leaves
from palisade.defenses.dp_sgd.records import FitRecords, digest
from palisade.defenses.dp_sgd.rehearsal import SHARED_SEED, Rehearsal, StepFailed, random_state, unchanged_random_state
from palisade.defenses.dp_sgd.state import ModuleState, attributes_sign, differing

GRADIENT_TOLERANCE = 1e-6
"""Relative difference of gradients that depend on nothing that differs."""
STATE_FOLLOWS_RECORDS = (
    "{what} the records without noise, and training_step reads it: records are coupled over the steps; remove it"
)
COUPLED_LATER = (
    "training_step couples records from some step on: a record's gradient changes with the others in its batch, so"
    " clipping bounds nothing; end that, or set per_record=alone"
)


DRAWS_IN_DATA = (
    "the data set draws random numbers for its records: where it takes other records as partners, ε does not hold, and"
    " nothing can find that"
)


MOVED_AT_THE_END = "trained weights changed after the last step; if that follows the records, ε does not cover it"


class StateWatch:
    """Finds values beside the trained weights that follow the records, and so reach the model without noise.

    Equal after two different batches of different sizes are counters and clocks; torchmetrics, the optimizer and
    Lightning are left alone. What differs is an error if it goes into `state_dict` or if gradients depend on it, and
    else a caution.

    Args:
        rehearsal: of the user's training_step.
        records: makes batches of some records.
        clipped: computes the gradients.
    """

    def __init__(self, rehearsal: Rehearsal, records: FitRecords, clipped: ClippedSum) -> None:
        self.rehearsal, self.records, self.clipped = rehearsal, records, clipped
        self.state: ModuleState = rehearsal.state
        self.settled: set[str] = set()
        """Names of what may change."""
        self.following: set[str] = set()
        """Names that follow the records, as long as no gradient depends on them."""
        self.hooks_move_weights = False
        """Hooks were seen to move trained weights, always alike, as clamping does."""
        self._first = self.state.save(weights=False)
        self._digests = self.state.digests()
        self._signs: dict[str, Any] = {}
        self._weights: tuple[Any, ...] = ()
        self._held: list[torch.Tensor] = []

    def look(self, step: Any, callbacks: Sequence[pl.Callback] = (), *, last: bool = False) -> list[str]:
        """Compares the state after two different batches; returns cautions.

        Args:
            step: of two units or more, which the batches are made of.
            callbacks: whose hooks take part.
            last: whether the hooks at the end of a training take part.

        Raises:
            ValueError: if something is learned without noise.
        """
        units = self.records.units(step)
        cut = max(1, units // 3)
        if units < 2:
            return []
        one, other = (self.records.some(step, range(*part)) for part in ((0, cut), (cut, units)))
        with self._aside():
            return self._look(one, other, callbacks, last)

    def _look(self, one: Any, other: Any, callbacks: Sequence[pl.Callback], last: bool) -> list[str]:
        with self.rehearsal.session(dropout=False):
            start, after, gradients = self.state.values(), [], []
            for step in (one, other):
                batch = functools.partial(self.records.batch, step)
                with self.rehearsal.accompanied(callbacks):
                    self.rehearsal.step(batch, seed=SHARED_SEED, last=last)
                    after.append(self.state.values())
                    gradients.append(self._gradient(other))
            changed = set(differing(start, after[0])) & set(differing(start, after[1]))
            self.settled |= changed - {name for name, _ in self.state.weights}
            follows = differing(*after)
            if lasting := [name for name in follows if self.state.lasting(name)]:
                raise ValueError(
                    f"{lasting[0]} is set from the records without noise and goes into state_dict; ε does not cover it,"
                    " remove it or keep it fixed"
                )
            if not _equal(*gradients):
                raise ValueError(STATE_FOLLOWS_RECORDS.format(what=_named(follows)))
            self.settled |= set(follows)
            self.following |= set(follows)
        caution = (
            "of the module follows the records, and ε does not cover it: it is not read in training; do not release it"
        )
        return [f"{name} {caution}" for name in follows]

    def unread(self, step: Any) -> None:
        """Checks that what follows the records still moves no gradient.

        Args:
            step: of a few units.

        Raises:
            ValueError: if it does.
        """
        if not self.following:
            return
        with self._aside(), self.rehearsal.session(dropout=False, weights=False):
            now = self._gradient(step)
            self.rehearsal.put_back()
            self.rehearsal.reset(self.following, to=self._first)
            if not _equal(now, self._gradient(step)):
                raise ValueError(STATE_FOLLOWS_RECORDS.format(what=_named(sorted(self.following))))

    def _aside(self) -> AbstractContextManager[None]:
        """Context in which plain autograd computes gradients."""
        return self.clipped.aside(recording=False) if isinstance(self.clipped, Engine) else nullcontext()

    def moved_by_optimizer(self) -> None:
        """Notes the present weights as those that the optimizer left."""
        self._weights = self.state.weights_sign()

    def rebase(self) -> None:
        """Makes the present state the reference of later comparisons: looks leave other marks on the same values."""
        self._weights, self._signs = self.state.weights_sign(), self.state.sign(self.settled)

    def moved(self) -> list[str]:
        """Names of the trained weights, if anything but the optimizer moved them."""
        moved = bool(self._weights) and self.state.weights_sign() != self._weights
        return [name for name, _ in self.state.weights] if moved else []

    def begin(self, *, thorough: bool) -> list[str]:
        """Begins a batch; returns names that changed since the last one's gradient was written."""
        changed = self._changed() + ([] if self.hooks_move_weights else self.moved())
        self._weights = self.state.weights_sign()
        self._held = [p.detach().clone() for p in self.clipped.parameters] if thorough else []
        return changed

    def written(self) -> list[str]:
        """Names of state that changed since the batch began, read when the gradient is written.

        Raises:
            ValueError: if trained weights changed, which only the optimizer may change, from the noised gradient.
        """
        moved = self.state.weights_sign() != self._weights
        if not moved and self._held:
            moved = any(not torch.equal(a, b) for a, b in zip(self._held, self.clipped.parameters, strict=True))
        if moved:
            raise ValueError(
                "training_step changes trained weights by itself, without noise; leave them to the optimizer"
            )
        return self._changed()

    def unseen(self) -> str | None:
        """A frozen parameter or buffer that was changed through `.data`, where only its values show it."""
        changed = [name for name, value in self.state.digests().items() if self._digests.get(name) != value]
        return next((name for name in changed if name not in self.settled), None)

    def settle(self, names: Sequence[str]) -> list[str]:
        """Names that no rehearsal explains: errors if they last, else cautions.

        Raises:
            ValueError: if one goes into `state_dict`.
        """
        for name in names:
            if self.state.lasting(name):
                raise ValueError(
                    f"{name} changed, although noised gradients alone may change the module; ε does not cover it, keep"
                    " it fixed"
                )
        self.settled |= set(names)
        return [
            f"{name} of the module changed during training; if it follows the records, ε does not cover it"
            for name in names
        ]

    def _changed(self) -> list[str]:
        signs, before = self.state.sign(self.settled), self._signs
        self._signs = signs
        if signs == before or not before:
            return []
        names = dict.fromkeys([*before, *signs])
        return [name for name in names if before.get(name) != signs.get(name) and name not in self.settled]

    def _gradient(self, step: Any) -> list[torch.Tensor]:
        """Gradient of a batch, from the present state."""
        of_loss: list[Any] = []
        parameters = self.clipped.parameters
        self.rehearsal.loss(
            lambda: self.records.batch(step),
            seed=SHARED_SEED,
            backward=lambda loss: of_loss.append(torch.autograd.grad(loss, parameters, allow_unused=True)),
            fresh=False,
        )
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, of_loss[0], strict=True)]


class Watch:
    """All checks of a fit after its first.

    Args:
        chooser: chose the way.
        clipped: computes the gradients.
        pace: when.
        exempt: whether module, loss and loader are this project's own, of which the first check says all.
        hooked: callbacks that see a batch before training_step does, and may change it.
    """

    def __init__(
        self,
        chooser: Chooser,
        clipped: ClippedSum,
        pace: Pace,
        *,
        exempt: bool,
        hooked: Sequence[pl.Callback],
    ) -> None:
        self.chooser, self.clipped, self.pace, self.exempt = chooser, clipped, pace, exempt
        self.checks, self.records, self.rehearsal = chooser.checks, chooser.records, chooser.rehearsal
        self.state = StateWatch(self.rehearsal, self.records, clipped)
        self.hooked = hooked
        self._seal: tuple[list[Any], int | None] | None = None
        self._open = False
        self._callbacks: dict[pl.Callback, Any] = {}
        self._remembering: list[pl.Callback] = []

    def follow(self, records: FitRecords) -> None:
        """Switches to another loader's records."""
        for user in (self, self.chooser, self.checks, self.state, self.clipped):
            if hasattr(user, "records"):
                user.records = records

    def arrived(self, batch: Any, done: int) -> None:
        """Notes a batch before hooks that callbacks have on it."""
        self._seal = None if self.exempt else self._sealed(batch, thorough=done == 0)

    def reached(self, batch: Any) -> None:
        """Notice of the batch that training_step gets: callbacks that changed it take part in all checks, made anew."""
        if self._seal is None or self._seal == self._sealed(batch, thorough=self._seal[1] is not None):
            return
        if self.hooked and not self.rehearsal.callbacks:
            self.rehearsal.callbacks = self.hooked
            if isinstance(self.clipped, Engine):
                step = self.chooser.company()
                self._compare(step, range(min(MAX_RECORDS_PER_LOOK, self.records.units(step))), 0)

    @staticmethod
    def _sealed(batch: Any, *, thorough: bool) -> tuple[list[Any], int | None]:
        versions = [(id(leaf), leaf._version) for leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]
        return versions, digest(batch) if thorough else None

    def start(self) -> list[str]:
        """The first look at the state, and at the data set; returns cautions."""
        cautions, step = self._look(self.chooser.company()), self.chooser.company()
        with unchanged_random_state():
            before = random_state()
            self.records.collated(step)
            if random_state() != before:
                cautions.append(DRAWS_IN_DATA)
        return cautions

    def begin(self, done: int, index: int) -> list[str]:
        """Begins a batch; returns cautions."""
        if self.exempt:
            return []
        if self._open:
            raise ValueError(
                "a batch was begun and left out (on_train_batch_start returned -1?); whether a step is taken may not"
                " follow the records, run one backward pass for every batch"
            )
        self._open = True
        epoch, within = divmod(done, self.pace.steps_per_epoch)
        thorough = within == 0 and epoch & (epoch - 1) == 0
        names = self.state.begin(thorough=thorough) + self._callbacks_changed()
        cautions = self._explain(names, done)
        if self.pace.due(done) and self.records.step is not None and self.records.units(self.records.step) > 0:
            self._look_alone(done)
        if within == 0 and epoch > 0:
            self._before_epoch(epoch, index)
        if names or within == 0 or self.pace.due(done):
            self.state.rebase()
        return cautions

    def gradient_ready(self, done: int, index: int, rows: int, whole: int) -> None:
        """Checks one record of the batch alone, after the backward pass and before the sum is written.

        Args:
            done: steps before this one.
            index: of the batch.
            rows: of the part whose backward pass it was.
            whole: rows of the batch.
        """
        if self.exempt or not self.pace.due(done) or not isinstance(self.clipped, Engine) or self.records.step is None:
            return
        units, per_unit = rows // self.records.rows_per_unit, self.records.rows_per_unit
        if units == 0:
            return
        place = chosen(self.chooser.secrets[0], done, units)
        column, step = (whole - rows) // per_unit + place, self.records.step
        if self.chooser.draws:
            return self._compare(step, [column], index)
        engine = self.clipped
        company = engine.notes((self.checks.models, units) if self.checks.models > 1 else (units,)).some([place])
        self._judge(
            lambda: self.checks.step_alike(engine, step, company, column, units=units, index=index),
            step,
            [column],
            index,
        )

    def written(self, done: int) -> list[str]:
        """Cautions at the moment when the gradient is written."""
        self._open = False
        return [] if self.exempt else self._explain(self.state.written(), done)

    def after_step(self) -> None:
        """Notice that the optimizer has moved the weights."""
        if not self.exempt:
            self.state.moved_by_optimizer()

    def batch_done(self, done: int) -> list[str]:
        """Checks after the optimizer's step, before the module's hook at the batch's end; returns cautions."""
        return [] if self.exempt else self.state.settle(self.state.moved())

    def end(self) -> list[str]:
        """Checks at the end of the fit, after all hooks; returns cautions.

        Raises:
            ValueError: if something was learned without noise.
        """
        if self.exempt:
            return []
        if self._open:
            raise ValueError("the last batch was begun and left out; run one backward pass for every batch")
        if (name := self.state.unseen()) is not None:
            self.state.settle([name])
        if not self.state.moved():
            return []
        few = self.chooser.company(self.pace.steps, FEW_RECORDS_PER_LOOK)
        return [*self._look(few, self.hooked, last=True), MOVED_AT_THE_END]

    def _look_alone(self, done: int) -> None:
        """Checks a record of the step by itself: no state that follows the records and no earlier record moves it."""
        step, clipped = self.records.step, self.clipped
        units = self.records.units(step)
        place = chosen(self.chooser.secrets[0], done, units)
        try:
            self.state.unread(self.records.some(step, [place]))
            if isinstance(clipped, Alone) and units > 1:
                pair = self.records.some(step, [place, (place + 1) % units])
                if not clipped.by_itself(pair, number=done):
                    raise ValueError(RECORDS_COUPLED_OVER_STEPS)
        except StepFailed as error:
            if not self.chooser.unchecked:
                raise ValueError(NOT_COMPARED.format(kind=type(error.__cause__).__name__)) from error.__cause__

    def _callbacks_changed(self) -> list[str]:
        """Names of callbacks whose attributes changed since the last batch; their hooks then take part in the looks."""
        signs = {callback: attributes_sign(callback) for callback in self.hooked}
        changed = [callback for callback, sign in signs.items() if self._callbacks.get(callback, sign) != sign]
        new = [callback for callback in changed if callback not in self._remembering]
        self._callbacks = signs
        self._remembering += new
        return [type(callback).__name__ for callback in new]

    def _before_epoch(self, epoch: int, index: int) -> None:
        count = max(self.pace.records(epoch), 2)
        step = self.chooser.company(epoch, count)
        if epoch & (epoch - 1) == 0 and epoch.bit_length() % 2:  # 1, 4, 16, …: it takes several passes
            if (name := self.state.unseen()) is not None:
                self.state.settle([name])
            self._look(step)
        if isinstance(self.clipped, Engine) and count > 2:
            self._compare(step, range(min(count, self.records.units(step))), index)

    def _compare(self, step: Any, columns: Sequence[int], index: int) -> None:
        engine = self.clipped
        assert isinstance(engine, Engine)
        self._judge(lambda: self.checks.compare(engine, step, columns, index=index).alike, step, columns, index)

    def _judge(self, alike: Callable[[], bool], step: Any, columns: Sequence[int], index: int) -> None:
        """Raises ValueError where records turn out to be coupled, or nothing can be compared."""
        try:
            if alike() or self.checks.agree_in_double(step, columns, index=index):
                return
        except LayerError as error:
            raise ValueError(f"{error}; or set per_record=alone") from error
        except StepFailed as error:
            if self.chooser.unchecked:
                return
            raise ValueError(NOT_COMPARED.format(kind=type(error.__cause__).__name__)) from error.__cause__
        raise ValueError(COUPLED_LATER)

    def _look(self, step: Any, callbacks: Sequence[pl.Callback] = (), *, last: bool = False) -> list[str]:
        try:
            return self.state.look(step, callbacks, last=last)
        except StepFailed as error:
            if self.chooser.unchecked:
                return []
            raise ValueError(NOT_COMPARED.format(kind=type(error.__cause__).__name__)) from error.__cause__

    def _explain(self, names: list[str], done: int) -> list[str]:
        """Cautions about changed state, compared after two batches as at the start, and on what that leaves open."""
        if not names:
            return []
        weights = {name for name, _ in self.state.state.weights}
        if weights & set(names):  # by hooks, which a look repeats; it raises where that follows the records
            cautions = self._look(self.chooser.company(done, FEW_RECORDS_PER_LOOK), self.hooked)
            self.state.hooks_move_weights = True
            return cautions + self._explain([name for name in names if name not in weights], done)
        callbacks = [each for each in self.hooked if type(each).__name__ in names]
        cautions = self._look(self.chooser.company(done, FEW_RECORDS_PER_LOOK), callbacks)
        if unexplained := [name for name in names if name not in self.state.settled]:
            cautions += self._look(self.chooser.company(done, FEW_RECORDS_PER_LOOK), self.hooked)
            known = {*self.state.settled, *(type(callback).__name__ for callback in callbacks)}
            cautions += self.state.settle([name for name in unexplained if name not in known])
        return cautions


def _named(names: Sequence[str]) -> str:
    if not names:
        return "something outside the module, such as a global or a class attribute, follows"
    return f"{' or '.join(names)} of the module follows"


def _equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Agreement of two gradients to rounding."""
    pairs = list(zip(one, other, strict=True))
    off = sum(float(in_double(a - b).square().sum()) for a, b in pairs)
    return not off > GRADIENT_TOLERANCE**2 * sum(float(in_double(a).square().sum()) for a, _ in pairs)
