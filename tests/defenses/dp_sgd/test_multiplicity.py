"""Several copies of a record in a step, and the average of the weights, in fleets: against autograd by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.errors import InstantiationException

from palisade.data.dataset import from_config
from palisade.data.loaders import Poisson
from palisade.data.schedule import TrainingSchedule
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.fleet import Fleet
from palisade.targets.statement import Statement
from palisade.targets.training import make_defense, make_fitter

COPIES_PER_RECORD, CLIP_NORM, NOISE_SCALE = 3, 1.8, 0.3
TEST_SECRET = Secret.from_text("copies")
SMALL_SETTINGS = (
    *("data=digits", "split.pool=60", "network.hidden=[8]", "defense=dp_sgd", "defense@defense.base=augmentation"),
    *("defense.epsilon=inf", f"defense.max_grad_norm={CLIP_NORM}", f"defense.base.amount={NOISE_SCALE}"),
    *("defense.trainer.batch_size=30", "defense.trainer.epochs=1"),  # N = 30: every member in every step
    *("defense.trainer.optimizer.lr=1", "defense.trainer.optimizer.momentum=0"),
)


def fit(settings: dict[str, Any], *, models: tuple[int, ...] = (0,)) -> tuple[Fleet, Statement]:
    dataset, membership = from_config(settings), Membership()
    fitter = make_fitter(
        {**settings, "fleet": {"at_once": len(models)}}, dataset, TEST_SECRET, list(models), membership
    )
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, list(models), TEST_SECRET))
    return fleet, fitter.defense.statement(fleet)


def by_hand(settings: dict[str, Any], model: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after a step on every member, and the norms of the records' averaged gradients."""
    dataset, membership = from_config(settings), Membership()
    fitter = make_fitter({**settings, "fleet": {"at_once": 1}}, dataset, TEST_SECRET, [model], membership)
    members = dataset.split.pool[membership.draw(dataset.split, [model], TEST_SECRET)[0]]
    shape = (len(members) * COPIES_PER_RECORD, *dataset.shape)
    noise = TEST_SECRET.numpy("augmentation", model, 0).standard_normal(shape, dtype=np.float32)
    network = fitter.initial_network(model)
    total, norms = [torch.zeros_like(parameter) for parameter in network.parameters()], []
    for place, record in enumerate(members):
        own = noise[place * COPIES_PER_RECORD : (place + 1) * COPIES_PER_RECORD]
        copies = torch.from_numpy(dataset.x[record] + np.float32(NOISE_SCALE) * own)
        loss = F.cross_entropy(
            network(copies), torch.tensor([dataset.y[record]] * COPIES_PER_RECORD)
        )  # the copies' mean
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        norm = float(sum(g.double().square().sum() for g in gradients) ** 0.5)
        norms.append(norm)
        for sums, gradient in zip(total, gradients, strict=True):
            sums += gradient * min(1.0, CLIP_NORM / norm)
    named = zip(network.named_parameters(), total, strict=True)
    return {name: parameter.detach() - sums / 30 for (name, parameter), sums in named}, norms


@pytest.mark.parametrize("models", [(0,), (0, 1)], ids=["alone", "stacked"])
def test_copies_are_averaged_before_clipping(compose: Any, models: tuple[int, ...]) -> None:
    settings = compose(*SMALL_SETTINGS, f"+defense.augmentations={COPIES_PER_RECORD}")
    fleet, statement = fit(settings, models=models)
    for k, state in zip(models, fleet.states, strict=True):
        expected, norms = by_hand(settings, k)
        assert min(norms) < CLIP_NORM < max(norms)
        torch.testing.assert_close(dict(state), expected, atol=1e-6, rtol=1e-4)
    assert (statement.augmentations, statement.records_per_unit, statement.unit) == (COPIES_PER_RECORD, 1, "record")


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_parts_of_a_batch_add_up_to_it(compose: Any, rows: int) -> None:
    """A part holds whole records: 1 row at most means the copies of one record."""
    copies = (*SMALL_SETTINGS, f"+defense.augmentations={COPIES_PER_RECORD}")
    whole, _ = fit(compose(*copies))
    parts, _ = fit(compose(*copies, f"+defense.max_physical_batch={rows}"))
    torch.testing.assert_close(dict(parts.states[0]), dict(whole.states[0]), atol=1e-6, rtol=1e-5)


def test_copies_cost_no_privacy(compose: Any) -> None:
    private = (*SMALL_SETTINGS, "defense.epsilon=8", "defense.trainer.batch_size=10")
    claims = [fit(compose(*private, f"+defense.augmentations={copies}"))[1] for copies in (1, COPIES_PER_RECORD)]
    assert claims[0].epsilon == claims[1].epsilon <= 8
    assert claims[0].noise_multiplier == claims[1].noise_multiplier > 0


@pytest.mark.parametrize("persons", [None, np.repeat(np.arange(25), 2)], ids=["records", "persons"])
def test_a_record_is_drawn_once_with_all_its_copies(persons: np.ndarray | None) -> None:
    members = [np.arange(0, 50, 2), np.arange(1, 40, 2)]
    schedule = TrainingSchedule(size=25, batch_size=8, epochs=2)
    once, several = (
        Poisson(members, [0, 1], schedule, TEST_SECRET, persons=persons, augmentations=copies)
        for copies in (1, COPIES_PER_RECORD)
    )
    assert several.rows_per_unit == COPIES_PER_RECORD * once.rows_per_unit
    for (index, mask), (indices, masks) in zip(once, several, strict=True):
        np.testing.assert_array_equal(indices, np.repeat(index, COPIES_PER_RECORD, axis=1))
        np.testing.assert_array_equal(masks, np.repeat(mask, COPIES_PER_RECORD, axis=1))


@pytest.mark.parametrize("models", [(0,), (0, 1)], ids=["alone", "stacked"])
def test_the_average_of_the_weights_is_released(compose: Any, models: tuple[int, ...]) -> None:
    first, second = (fit(compose(*SMALL_SETTINGS, f"defense.trainer.epochs={n}"), models=models)[0] for n in (1, 2))
    averaged, _ = fit(
        compose(*SMALL_SETTINGS, "defense.trainer.epochs=2", "defense.weight_averaging=true"), models=models
    )
    for one, two, average in zip(first.states, second.states, averaged.states, strict=True):
        for name, value in average.items():  # the first weights, then decay (1 + 1)/(10 + 1)
            torch.testing.assert_close(value, (2 * one[name] + 9 * two[name]) / 11, atol=1e-6, rtol=1e-5)
            assert not torch.allclose(value, two[name], atol=1e-4) or name.endswith("bias")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("+defense.augmentations=0",), "augmentations=0: expected an integer >= 1"),
        (("+defense.augmentations=4", "defense@defense.base=none"), "augmentations=4: expected 1 unless a base makes"),
        (("+defense.max_physical_batch=0",), "max_physical_batch=0: expected"),
    ],
)
def test_refusals_name_value_rule_and_remedy(compose: Any, changes: tuple[str, ...], message: str) -> None:
    small = ("data=digits", "defense=dp_sgd", "defense@defense.base=augmentation")
    with pytest.raises((ValueError, InstantiationException)) as error:
        make_defense(compose(*small, *changes)["defense"])
    text = str(error.value.__cause__ or error.value)
    assert message in text and "\n" not in text
