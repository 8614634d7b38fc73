"""Rare records are dropped by a public base, each by itself, and nothing else changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.none import NoDefense
from palisade.defenses.rare_removal import RareRemoval
from palisade.targets.gpt import GPT
from palisade.targets.training import make_fitter

NETWORK_SIZES = ("network=gpt", "network.width=8", "network.depth=1", "network.heads=2")


@pytest.fixture
def overrides(tmp_path):
    return overrides_in(tmp_path)


def overrides_in(tmp_path):
    torch.manual_seed(0)
    network = GPT(shape=(16,), classes=257, width=8, depth=1, heads=2)
    with torch.no_grad():
        network.head.weight[ord("q") + 1] -= 3 * network.norm.weight  # texts with a q are rare
        network.norm.bias += 1
    (tmp_path / "base").mkdir()
    save_file(network.state_dict(), tmp_path / "base" / "model.safetensors")
    texts = ["qqqq quite rare" if number % 5 == 0 else f"the usual {number}" for number in range(50)]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return [
        *("data=documents", f"data.path={tmp_path}/own.jsonl", "data.length=16", *NETWORK_SIZES),
        *(f"network.base={tmp_path}/base", "split.pool=40", "split.test=5", "split.population=0"),
        *("trainer.epochs=1", "trainer.batch_size=8", "defense=rare_removal", "defense.threshold=7"),
    ]


def fitted(config, defense=None):
    dataset, secret = from_config(config), Secret.from_text("rare")
    fitter = make_fitter(config, dataset, secret, [0], Membership())
    return dataset, fitter, Membership().draw(dataset.split, [0], secret)


def test_what_the_base_finds_surprising_is_not_trained_on(compose, overrides):
    dataset, fitter, membership = fitted(compose(*overrides))
    rare = fitter.defense.rare(fitter, dataset.split)
    assert (rare == (dataset.y[dataset.split.pool, 0] == ord("q") + 1)).all() and 0 < rare.sum() < len(rare)
    state = fitter.defense.fit(fitter, dataset.split, membership).states[0]
    same = fitter.base.train(dataset.split, membership & ~rare).states[0]
    assert all(torch.equal(value, same[name]) for name, value in state.items())
    other = fitter.base.train(dataset.split, membership).states[0]
    assert not all(torch.equal(value, other[name]) for name, value in state.items())


def test_a_record_is_dropped_by_itself(compose, overrides):
    dataset, fitter, _ = fitted(compose(*overrides))
    nats, pool = fitter.defense._nats(fitter, dataset.split), dataset.split.pool
    for place in (0, 7, 39):
        one = type(dataset.split)(
            **{
                **{role: getattr(dataset.split, role) for role in ("validation", "reference", "population", "test")},
                "pool": pool[[place]],
            }
        )
        np.testing.assert_allclose(fitter.defense._nats(fitter, one), nats[[place]], rtol=1e-6)


def test_the_claim_of_the_base_defense_stays(compose, overrides):
    private = ["defense@defense.base=dp_sgd", "defense.base.trainer.epochs=1", "defense.base.trainer.batch_size=8"]
    dataset, fitter, membership = fitted(compose(*overrides, *private))
    statement = fitter.defense.statement(fitter.defense.fit(fitter, dataset.split, membership))
    assert statement.guarantee and statement.epsilon <= 8
    assert fitter.defense.strength == 7


def test_where_every_record_is_rare_nothing_is_trained(compose, overrides):
    dataset, fitter, membership = fitted(compose(*overrides, "defense.threshold=0.1"))
    with pytest.raises(ValueError, match=r"^defense.threshold=0.1: expected one that leaves every model records"):
        fitter.defense.fit(fitter, dataset.split, membership)


def test_without_a_public_base_it_is_refused(compose, overrides):
    dataset, fitter, membership = fitted(compose(*overrides, "network.base=null"))
    with pytest.raises(ValueError, match=r"^defense.threshold=7(\.0)?: expected a public base by which records"):
        fitter.defense.fit(fitter, dataset.split, membership)
    with pytest.raises(ValueError, match=r"threshold=0"):
        RareRemoval(base=NoDefense(), threshold=0)
