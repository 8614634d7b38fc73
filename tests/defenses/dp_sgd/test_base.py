"""Another defense's inputs, loss and network under DP-SGD; what ε would not hold for is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from torch import nn

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.dp_sgd import DPSGDDefense
from palisade.defenses.none import NoDefense
from palisade.targets.fleet import Defense, Fleet
from palisade.targets.statement import Statement
from palisade.targets.training import make_defense, make_fitter

SMALL_SETTINGS = ["data=digits", "network.hidden=[16]", "defense=dp_sgd", "defense.trainer.epochs=2"]
REFUSED_BASES = {
    "mixup": "expected a defense whose loss keeps records apart",
    "relaxloss": "expected a defense whose loss keeps records apart",
    "adversarial_regularization": "expected a defense whose loss keeps records apart",
    "l1": "expected a defense that leaves gradients alone, but on_before_optimizer_step changes them",
    "l2": "expected a defense that leaves gradients alone, but on_before_optimizer_step changes them",
    "early_stopping": "expected a defense that uses the pool alone, but it uses the validation records",
    "dp_sgd": "expected another defense than dp_sgd itself",
    "selena": "expected a defense of one stage; make DP-SGD the base of its stages: defense@defense.base=dp_sgd",
}


@dataclass(frozen=True, kw_only=True)
class Halved(Defense):
    """Halves inputs, doubles the loss, and puts an activation before the network."""

    def network(self, network):
        return nn.Sequential(nn.Tanh(), network)

    def inputs(self, batch, draws):
        noise = draws("halved", lambda rng: rng.normal(size=(*batch.mask.shape[-1:], 1, 8, 8)).astype(np.float32))
        return batch._replace(x=batch.x / 2 + 0.01 * noise)

    def loss(self, logits, batch, epoch):
        return 2 * Defense.loss(self, logits, batch, epoch)


def fit(settings, *, defense: Defense | None = None, models=(0,), at_once=1) -> tuple[Fleet, Statement]:
    dataset, secret, membership = from_config(settings), Secret.from_text("base"), Membership()
    fitter = make_fitter({**settings, "fleet": {"at_once": at_once}}, dataset, secret, list(models), membership)
    if defense is not None:
        fitter = type(fitter)(**{**vars(fitter), "defense": defense})
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, list(models), secret))
    return fleet, fitter.defense.statement(fleet)


def same(one: Fleet, other: Fleet) -> bool:
    pairs = zip(one.states[0].items(), other.states[0].items(), strict=True)
    return all(name == again and torch.equal(value, also) for (name, value), (again, also) in pairs)


def test_none_is_the_base_unless_another_is_chosen(compose):
    assert make_defense(compose(*SMALL_SETTINGS)["defense"]) == DPSGDDefense(epsilon=8)
    assert DPSGDDefense(epsilon=8).base == NoDefense()


def test_hooks_are_those_of_the_base(compose):
    settings = compose(*SMALL_SETTINGS)
    plain, claim = fit(settings)
    halved, same_claim = fit(settings, defense=DPSGDDefense(epsilon=8, base=Halved()))
    assert claim == replace(same_claim, not_covered=claim.not_covered) and not same(plain, halved)
    assert not any("seldom" in line for line in claim.not_covered)  # all of it is this project's own
    assert any("seldom" in line for line in same_claim.not_covered)
    assert next(iter(halved.states[0])) == "1.0.weight"
    smoothed, same_claim = fit(compose(*SMALL_SETTINGS, "defense@defense.base=label_smoothing"))
    assert claim == same_claim and not same(plain, smoothed)


@pytest.mark.parametrize("hook", ["network", "inputs", "loss"])
def test_no_hook_of_the_base_is_left_out(compose, hook):
    base = dataclass(frozen=True, kw_only=True)(type("One", (Defense,), {hook: getattr(Halved, hook)}))()
    settings, free = (
        compose(*SMALL_SETTINGS, "defense.trainer.epochs=1"),
        {"epsilon": float("inf"), "max_grad_norm": 1e3},
    )
    plain, changed = (fit(settings, defense=DPSGDDefense(**free, base=one))[0] for one in (NoDefense(), base))
    one, other = (next(iter(fleet.states[0].values())) for fleet in (plain, changed))
    assert not torch.allclose(one, other, atol=1e-4)


def test_clipping_and_noise_are_on_top_of_the_base(compose):
    """A loss that is twice as steep moves clipped weights no further."""
    settings = compose(*SMALL_SETTINGS)

    @dataclass(frozen=True, kw_only=True)
    class Steep(Defense):
        def loss(self, logits, batch, epoch):
            return 2 * super().loss(logits, batch, epoch)

    tiny = {"epsilon": 8, "max_grad_norm": 1e-3}
    fleets = [fit(settings, defense=DPSGDDefense(**tiny, base=base))[0] for base in (NoDefense(), Steep())]
    for value, other in zip(fleets[0].states[0].values(), fleets[1].states[0].values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-5)


def test_stack_is_as_alone(compose):
    settings, defense = compose(*SMALL_SETTINGS), DPSGDDefense(epsilon=8, base=Halved())
    stacked, _ = fit(settings, defense=defense, models=[0, 1], at_once=2)
    alone, _ = fit(settings, defense=defense, models=[1])
    for name, value in alone.states[0].items():
        torch.testing.assert_close(value, stacked.states[1][name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("base", ["none", "label_smoothing", "dropout", "augmentation", "hamp", "ccl"])
def test_bases_that_leave_records_alone_train(compose, base):
    settings = compose(*SMALL_SETTINGS, f"defense@defense.base={base}", "defense.trainer.epochs=1")
    _, statement = fit(settings, models=[0, 1], at_once=2)
    assert statement.guarantee


@pytest.mark.parametrize("base", REFUSED_BASES)
def test_other_bases_are_refused_in_one_line(compose, base):
    with pytest.raises((ValueError, InstantiationException)) as error:
        fit(compose(*SMALL_SETTINGS, "split.pool=0.4", "split.validation=0.1", f"defense@defense.base={base}"))
    message = str(error.value.__cause__ or error.value)
    assert message.startswith(f"defense.base={base}: {REFUSED_BASES[base]}") and "\n" not in message


@pytest.mark.parametrize("hook", ["fit", "sampler", "units"])
def test_a_base_may_not_have_hooks_that_are_dp_sgds_own(hook):
    base = dataclass(frozen=True, kw_only=True)(type("Other", (Defense,), {hook: lambda self, *_: None}))()
    with pytest.raises(
        ValueError, match=rf"expected a defense without {hook}, which DP-SGD replaces; choose another base, or none"
    ):
        DPSGDDefense(epsilon=8, base=base)
