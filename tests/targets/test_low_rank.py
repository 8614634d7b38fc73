"""Bases and low-rank adaptation: what begins as the base, what learns, and what DP-SGD clips."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from palisade.data.dataset import from_config
from palisade.data.loaders import Batch
from palisade.data.secret import Secret
from palisade.data.sequences import inputs_of
from palisade.data.split import Membership
from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.engine import Engine
from palisade.targets.base_model import check_tokens
from palisade.targets.gpt import GPT
from palisade.targets.low_rank import LowRank, adapt
from palisade.targets.network_maker import NetworkMaker
from palisade.targets.record_loss import record_losses
from palisade.targets.run import Run
from palisade.targets.stacks import stack
from palisade.targets.training import BASE_NOT_COVERED, check_moved, complete_statement, make_fitter

TEXT_LENGTH, TOKEN_COUNT = 6, 11
NETWORK_SIZES = ("network.width=8", "network.depth=1", "network.heads=2")


def adapted() -> nn.Module:
    network = adapt(GPT(shape=(TEXT_LENGTH,), classes=TOKEN_COUNT, width=8, depth=2, heads=2).double(), rank=3).double()
    for layer in network.modules():
        if isinstance(layer, LowRank):
            nn.init.normal_(layer.up.weight, std=0.1)  # as after some steps: at first A has no gradient
    return network


def test_it_begins_as_the_network_was_and_only_products_learn():
    torch.manual_seed(0)
    network = GPT(shape=(TEXT_LENGTH,), classes=TOKEN_COUNT, width=8, depth=2, heads=2)
    x = torch.randint(TOKEN_COUNT, (3, TEXT_LENGTH))
    before = network(x)
    adapt(network, rank=3)
    assert torch.equal(network(x), before)
    learned = {name.split(".")[-2] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learned == {"down", "up"} and isinstance(network.head, nn.Linear)
    with pytest.raises(ValueError, match=r"^network.lora.rank=2: expected a network with dense layers inside; "):
        adapt(nn.Sequential(nn.Flatten()), rank=2)


@pytest.mark.parametrize("stacked", [False, True])
def test_dp_sgd_clips_every_document(stacked):
    torch.manual_seed(0)
    networks, y = [adapted(), adapted()], torch.randint(1, TOKEN_COUNT, (2, 4, TEXT_LENGTH))
    y[:, 0, 3:] = -1
    norms = []
    for network, tokens in zip(networks, y, strict=True):
        for record in tokens:
            own = record[record >= 0][None]
            logits = copy.deepcopy(network)
            nn.functional.cross_entropy(logits(torch.from_numpy(inputs_of(own.numpy())))[0], own[0]).backward()
            norms.append(torch.cat([p.grad.flatten() for p in logits.parameters() if p.grad is not None]).norm())
    every, x = torch.ones(2, 4, dtype=torch.bool), torch.from_numpy(inputs_of(y.numpy()))
    network, chosen = (stack(networks), slice(None)) if stacked else (networks[0], 0)
    engine = Engine(network, clipping=Flat(0.5), stacked=stacked)
    engine.attach()
    record_losses(network(x[chosen]), Batch(x[chosen], y[chosen], every[chosen], every[chosen])).sum().backward()
    measured = engine.clip(every[chosen].shape, scale=1)
    torch.testing.assert_close(measured.flatten(), torch.stack(norms)[: measured.numel()], rtol=1e-4, atol=0)


@pytest.fixture
def written(tmp_path):
    return written_to(tmp_path)


def written_to(tmp_path):
    """A base, the settings that name it, and the folder where it lies."""
    lines = (json.dumps({"text": f"document {number} of {number % 3} kinds"}) for number in range(60))
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    network = GPT(shape=(16,), classes=257, width=8, depth=1, heads=2)
    (tmp_path / "base").mkdir()
    save_file(network.state_dict(), tmp_path / "base" / "model.safetensors")
    overrides = ["data=documents", f"data.path={tmp_path}/own.jsonl", "data.length=16", "network=gpt", *NETWORK_SIZES]
    overrides += [f"network.base={tmp_path}/base", "split.pool=30", "split.test=20", "trainer.epochs=1"]
    return network, overrides, tmp_path


@pytest.mark.parametrize("defense", ["none", "dp_sgd"])
@pytest.mark.parametrize("rank", ["null", 2])
def test_training_begins_with_the_base(compose, written, rank, defense):
    network, overrides, _ = written
    few = ["defense.trainer.epochs=1", "defense.trainer.batch_size=8"] if defense == "dp_sgd" else []
    config = compose(*overrides, f"network.lora.rank={rank}", f"defense={defense}", *few, "trainer.batch_size=8")
    dataset, secret, membership = from_config(config), Secret.from_text("base"), Membership()
    fitter = make_fitter(config, dataset, secret, [0, 1], membership)
    x = torch.from_numpy(dataset.x[:4])
    assert all(torch.equal(fitter.initial_network(k)(x), network(x)) for k in (0, 1))
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, [0, 1], secret))
    check_moved(fitter, fleet)
    state = fleet.states[0]
    moved = [
        name for name, value in network.state_dict().items() if name in state and not torch.equal(state[name], value)
    ]
    assert bool(moved) == (rank == "null")
    assert BASE_NOT_COVERED in complete_statement(fitter, fleet).not_covered
    bare = {**config["network"], "base": None}
    assert (
        BASE_NOT_COVERED not in complete_statement(replace(fitter, make_network=NetworkMaker(bare)), fleet).not_covered
    )


def test_a_fit_that_moved_nothing_fails(compose, written):
    _, overrides, _ = written
    config = compose(*overrides, "network.lora.rank=2", "trainer.optimizer.lr=1e-30", "trainer.batch_size=8")
    dataset, secret, membership = from_config(config), Secret.from_text("base"), Membership()
    fitter = make_fitter(config, dataset, secret, [0], membership)
    fleet = replace(fitter, steps=0).train(dataset.split, membership.draw(dataset.split, [0], secret))
    with pytest.raises(ValueError, match=r"^model 0: training moved none of its low-rank weights; "):
        check_moved(fitter, fleet)


def test_the_content_of_a_base_decides_and_not_its_place(compose, written):
    network, overrides, folder = written
    config = compose(*overrides)
    dataset = from_config(config)
    name = Run.of(config, dataset).name
    (folder / "base").rename(folder / "elsewhere")
    moved = {**config, "network": {**config["network"], "base": str(folder / "elsewhere")}}
    assert Run.of(moved, dataset).name == name
    nn.init.zeros_(network.head.weight)
    save_file(network.state_dict(), folder / "elsewhere" / "model.safetensors")
    assert Run.of(moved, dataset).name != name


def test_a_base_of_other_tokens_is_refused_and_its_own_can_be_taken(compose, written):
    """As many tokens need not be the same ones: fitted to other texts, a number means another word."""
    pytest.importorskip("tokenizers")
    _, overrides, folder = written
    config = compose(*overrides, "network.base=null", "data.tokens=bpe", "data.vocabulary=300")
    dataset = from_config(config)
    base = Run.of(config, dataset)
    base.create(config, "base", dataset)
    (folder / "other.jsonl").write_text("\n".join(json.dumps({"text": f"zz yy xx {n % 3}"}) for n in range(60)))
    others = [*overrides, f"data.path={folder}/other.jsonl", f"network.base={base.folder}", "trainer.batch_size=8"]
    for tokens in ("bpe", "bytes"):
        config = compose(*others, f"data.tokens={tokens}", "data.vocabulary=300")
        with pytest.raises(
            ValueError, match=r"^network.base=.*: expected a model that cuts texts into the tokens of the"
        ):
            check_tokens(config["network"], from_config(config).preprocessing)
    config = compose(*others, f"data.tokens={base.folder}")
    tokens = from_config(config).preprocessing
    check_tokens(config["network"], tokens)
    assert tokens.content == dataset.preprocessing.content and tokens.not_covered is None and tokens.length == 16


def test_a_base_that_does_not_fit_is_refused(compose, written):
    _, overrides, folder = written
    overrides += ["trainer.batch_size=8"]
    config = compose(*overrides, "network.width=16")
    with pytest.raises(
        ValueError, match=r"^network.base=.*: expected weights .* \(tokens.weight has the shape \(257, 8\) th"
    ):
        make_fitter(config, from_config(config), Secret.from_text("base"), [0], Membership())
    config = compose(*overrides, f"network.base={folder}")
    with pytest.raises(ValueError, match=r"^network.base=.*: expected the folder of a run, or one with model.safeten"):
        make_fitter(config, from_config(config), Secret.from_text("base"), [0], Membership())
    assert np.isfinite(written[0].head.weight.detach().numpy()).all()
