"""Faults that once shipped in published examples, planted one by one: the suite's checks must notice each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_alone import check_random_numbers_belong_to_a_record, check_state_is_put_back_between_records
from test_averaging import check_averaging
from test_callback import check_clipping, check_noise, check_poisson, check_resume
from test_checks import check_every_record, check_later_steps
from test_distributed import check_two_processes
from test_keys import check_other_noise, check_run_and_model_are_in_the_key
from test_physical import check_micro_batches
from test_state import check_state_is_watched
from test_step import check_noise_is_written_with_the_sum
from torch.optim.swa_utils import AveragedModel

from palisade.defenses.dp_sgd import checks, clipping, engine, noise, rehearsal, sampling, step, watch

pytestmark = pytest.mark.filterwarnings("ignore")
Patch = pytest.MonkeyPatch


def no_noise(patch: Patch) -> None:
    patch.setattr(noise.NoiseSource, "fill", lambda self, out, **_: out.fill(0))


def half_the_noise(patch: Patch) -> None:
    fill = noise.NoiseSource.fill
    patch.setattr(
        noise.NoiseSource, "fill", lambda self, out, *, scale, **rest: fill(self, out, scale=scale / 2, **rest)
    )


def the_same_noise_in_every_step(patch: Patch) -> None:
    fill = noise.NoiseSource.fill
    patch.setattr(noise.NoiseSource, "fill", lambda self, out, *, step, **rest: fill(self, out, step=0, **rest))


def the_same_noise_twice_in_a_step(patch: Patch) -> None:
    fill = noise.NoiseSource.fill

    def halved(self: Any, out: Any, **rest: Any) -> None:
        fill(self, out[: len(out) // 2], **rest)
        out[len(out) // 2 :] = out[: len(out) // 2]

    patch.setattr(noise.NoiseSource, "fill", halved)


def double_clipping_norm(patch: Patch) -> None:
    factors = clipping.Flat.factors
    patch.setattr(clipping.Flat, "factors", lambda self, norms, layers: factors(self, norms / 2, layers))


def no_clipping(patch: Patch) -> None:
    patch.setattr(clipping.Flat, "factors", lambda self, norms, layers: torch.ones_like(norms))


def clipping_after_averaging(patch: Patch) -> None:
    clip = engine.Engine.clip
    patch.setattr(engine.Engine, "clip", lambda self, records, scale: clip(self, records, 1.0))


def shuffling_for_poisson(patch: Patch) -> None:
    def shuffled(self: Any) -> Any:
        size = round(self.rate * len(self.units))
        return iter(torch.randperm(len(self.units)).view(-1, size).tolist())

    patch.setattr(sampling.PoissonSteps, "__iter__", shuffled)


def rate_from_the_wrong_size(patch: Patch) -> None:
    drawn = sampling.PoissonSteps.__init__

    def init(self: Any, *, rate: float, **rest: Any) -> None:
        drawn(self, rate=rate * 0.8, **rest)

    patch.setattr(sampling.PoissonSteps, "__init__", init)


def noise_per_part(patch: Patch) -> None:
    write = step.PrivateStep.write

    def written(self: Any) -> None:
        scale, parts = self.gradient_noise, len(self.clipping_stats._norms)
        self.gradient_noise = scale * max(parts, 1) ** 0.5
        write(self)
        self.gradient_noise = scale

    patch.setattr(step.PrivateStep, "write", written)


def accountant_not_restored(patch: Patch) -> None:
    patch.setattr(step.PrivateStep, "restore", lambda self, state, may_continue: None)


def averages_before_noise(patch: Patch) -> None:
    add, update, clean = step.PrivateStep._add_noise, AveragedModel.update_parameters, {}

    def add_noise(self: Any, sums: Any) -> None:
        pairs = zip(self.clipped.parameters, sums, strict=True)
        clean.update({p: p.detach() - total / self.mechanism.expected_batch_size for p, total in pairs})
        add(self, sums)

    def update_parameters(self: Any, module: Any) -> None:
        noised = [p.detach().clone() for p in module.parameters()]
        for p in module.parameters():
            p.data = clean[p]
        update(self, module)
        for p, value in zip(module.parameters(), noised, strict=True):
            p.data = value

    patch.setattr(step.PrivateStep, "_add_noise", add_noise)
    patch.setattr(AveragedModel, "update_parameters", update_parameters)


def check_switched_off(patch: Patch) -> None:
    patch.setattr(
        checks.Checks,
        "compare",
        lambda self, engine, step, columns, index=0: checks.ComparedGradients(True, (0.0, [0.0])),
    )


def only_record_0_compared(patch: Patch) -> None:
    compare = checks.Checks.compare
    patch.setattr(
        checks.Checks,
        "compare",
        lambda self, engine, step, columns, index=0: compare(self, engine, step, columns[:1], index=index),
    )


def only_the_first_step_looked_at(patch: Patch) -> None:
    patch.setattr(checks.Pace, "due", lambda self, step: False)
    patch.setattr(checks.Pace, "records", lambda self, epoch: 0)


def noise_after_the_step(patch: Patch) -> None:
    """As an optimizer does that wraps the user's: what stands in `p.grad` before is the bare sum."""
    patch.setattr(step.PrivateStep, "_add_noise", lambda self, sums: None)
    before = step.PrivateStep._check_step

    def check(self: Any) -> None:
        before(self)
        scale = self.gradient_noise * self.clipping.bounds[0] / self.mechanism.expected_batch_size
        drawn = self.noise.draw(self.sources[0], model=self.models[0], step=self.done, scale=scale)
        for parameter, value in zip(self.clipped.parameters, drawn, strict=True):
            parameter.grad += value

    patch.setattr(step.PrivateStep, "_check_step", check)


def key_without_the_run(patch: Patch) -> None:
    dumps = noise.json.dumps
    patch.setattr(noise.json, "dumps", lambda parts: dumps([part for part in parts if part not in ("run", "release")]))


def key_without_the_fit(patch: Patch) -> None:
    from palisade.defenses.dp_sgd import callback

    patch.setattr(callback, "fit_secret", lambda secret, identity: secret)


def state_check_off(patch: Patch) -> None:
    patch.setattr(watch.StateWatch, "_changed", lambda self: [])
    patch.setattr(watch.StateWatch, "unseen", lambda self: None)


def state_not_put_back_between_records(patch: Patch) -> None:
    patch.setattr(rehearsal.Rehearsal, "restore", lambda self: None)


def random_numbers_of_the_running_stream(patch: Patch) -> None:
    patch.setattr(rehearsal, "seed_all", lambda seed: None)


def noise_in_every_process() -> None:
    original = step.PrivateStep.__init__
    step.PrivateStep.__init__ = lambda self, *positional, adds_noise, **named: original(
        self, *positional, adds_noise=True, **named
    )


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (no_noise, check_noise),
        (half_the_noise, check_noise),
        (the_same_noise_in_every_step, check_noise),
        (the_same_noise_twice_in_a_step, check_noise),
        (double_clipping_norm, check_clipping),
        (no_clipping, check_clipping),
        (clipping_after_averaging, check_clipping),
        (shuffling_for_poisson, check_poisson),
        (rate_from_the_wrong_size, check_poisson),
        (noise_per_part, check_micro_batches),
        (averages_before_noise, check_averaging),
        (check_switched_off, lambda: check_every_record(5)),
        (only_record_0_compared, lambda: check_every_record(5)),
        (only_the_first_step_looked_at, check_later_steps),
        (noise_after_the_step, check_noise_is_written_with_the_sum),
        (key_without_the_run, check_run_and_model_are_in_the_key),
        (key_without_the_fit, lambda: check_other_noise(max_grad_norm=2.0)),
        (state_check_off, check_state_is_watched),
        (state_not_put_back_between_records, check_state_is_put_back_between_records),
        (random_numbers_of_the_running_stream, check_random_numbers_belong_to_a_record),
    ],
)
def test_planted_fault_is_noticed(
    plant: Callable[[Patch], None], check: Callable[[], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def test_forgotten_accountant_is_noticed(monkeypatch: Patch, tmp_path: Path) -> None:
    accountant_not_restored(monkeypatch)
    with pytest.raises(AssertionError):
        check_resume(tmp_path)


def test_noise_in_every_process_is_noticed(tmp_path: Path) -> None:
    with pytest.raises((AssertionError, RuntimeError)):  # other weights, or a fit that ends with an error
        check_two_processes(tmp_path, planted=noise_in_every_process)
