"""A document's loss and answers are its own, and DP-SGD clips it as autograd would."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from palisade.data.loaders import Batch
from palisade.data.sequences import NO_TOKEN, inputs_of
from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.engine import Engine
from palisade.targets.fleet import Fleet
from palisade.targets.gpt import GPT
from palisade.targets.record_loss import record_losses, token_rows
from palisade.targets.stacks import stack, transposed

TEXT_LENGTH, TOKEN_COUNT, CLIPPING_NORM = 6, 11, 0.7


def gpt(*, depth: int = 2) -> GPT:
    return GPT(shape=(TEXT_LENGTH,), classes=TOKEN_COUNT, width=8, depth=depth, heads=2)


def documents(*leading: int) -> tuple[Tensor, Tensor]:
    """Random documents of one token up to all positions."""
    y = torch.randint(1, TOKEN_COUNT, (*leading, TEXT_LENGTH))
    y = y.where(torch.arange(TEXT_LENGTH) < torch.randint(1, TEXT_LENGTH + 1, (*leading, 1)), NO_TOKEN)
    return torch.from_numpy(inputs_of(y.numpy())), y


def batch_of(x: Tensor, y: Tensor) -> Batch:
    return Batch(x, y, torch.ones(y.shape[:-1], dtype=torch.bool), torch.zeros(y.shape[:-1], dtype=torch.long))


def by_hand(network: nn.Module, tokens: Tensor) -> Tensor:
    """Mean of −log p over one document's own tokens, without padding or company."""
    own = tokens[tokens != NO_TOKEN]
    logits = network(torch.from_numpy(inputs_of(own[None].numpy())))[0]
    return -logits.log_softmax(-1)[torch.arange(len(own)), own].mean()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), records=st.integers(1, 5), depth=st.integers(0, 2))
def test_a_loss_depends_on_its_document_alone(seed, records, depth):
    torch.manual_seed(seed)
    network, (x, y) = gpt(depth=depth).double(), documents(records)
    losses = record_losses(network(x), batch_of(x, y))
    torch.testing.assert_close(losses, torch.stack([by_hand(network, tokens) for tokens in y]))


def test_a_token_that_also_pads_counts_where_it_stands():
    """Number 0 begins documents and pads inputs, as an end mark does elsewhere: a true one is a token as any other."""
    torch.manual_seed(0)
    network, y = gpt().double(), torch.tensor([[3, 0, 5, 0, NO_TOKEN, NO_TOKEN]])
    x = torch.from_numpy(inputs_of(y.numpy()))
    torch.testing.assert_close(record_losses(network(x), batch_of(x, y)), by_hand(network, y[0])[None])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), records=st.integers(1, 6), company=st.integers(0, 5), padding=st.integers(0, 9))
def test_padding_company_and_batch_size_change_no_answer(seed, records, company, padding):
    torch.manual_seed(seed)
    network = GPT(shape=(TEXT_LENGTH + 9,), classes=TOKEN_COUNT, width=8, depth=2, heads=2)
    nn.init.normal_(network.head.weight)
    _, y = documents(records + company)
    fleet = Fleet(network, [copy.deepcopy(network.state_dict())])
    alone = [fleet.answers(inputs_of(row[None]), row[None])[0, 0] for row in y.numpy()]
    padded = np.pad(y.numpy(), ((0, 0), (0, padding)), constant_values=NO_TOKEN)
    together = fleet.answers(inputs_of(padded), padded)[0]
    for one, other in zip(alone, together, strict=True):
        for name in ("log_probability", "mean", "variance"):
            np.testing.assert_allclose(one[name], other[name][:TEXT_LENGTH], rtol=1e-6, atol=1e-6)
        assert (one["greedy"] == other["greedy"][:TEXT_LENGTH]).all() and np.isnan(
            other["log_probability"][TEXT_LENGTH:]
        ).all()


def test_what_is_kept_of_a_token():
    logits = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    rows = token_rows(logits, torch.tensor([[2, 1, NO_TOKEN]]))[0]
    p = np.exp(logits.double().log_softmax(-1).numpy()[0])
    np.testing.assert_allclose(rows["log_probability"][:2], np.log([p[0, 2], p[1, 1]]), rtol=1e-6)
    mean = (p * np.log(p)).sum(-1)
    np.testing.assert_allclose(rows["mean"][:2], mean[:2], rtol=1e-6)
    np.testing.assert_allclose(rows["variance"][:2], ((p * np.log(p) ** 2).sum(-1) - mean**2)[:2], rtol=1e-5)
    assert rows["greedy"].tolist() == [True, False, False] and np.isnan(rows["log_probability"][2])


def clipped_sum(network: nn.Module, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Record by record, with autograd as it is."""
    sums = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    norms = []
    for tokens in y:
        network.zero_grad()
        by_hand(network, tokens).backward()
        norms.append(torch.cat([p.grad.flatten() for p in network.parameters()]).norm())
        for name, p in network.named_parameters():
            sums[name] += p.grad * min(1, CLIPPING_NORM / norms[-1])
    network.zero_grad()
    return sums, torch.stack(norms)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), depth=st.integers(0, 2))
def test_dp_sgd_clips_every_document(seed, depth):
    torch.manual_seed(seed)
    network, (x, y) = gpt(depth=depth).double(), documents(6)
    expected, norms = clipped_sum(copy.deepcopy(network), y)
    engine = Engine(network, clipping=Flat(CLIPPING_NORM))
    engine.attach()
    record_losses(network(x), batch_of(x, y)).mean().backward()
    torch.testing.assert_close(engine.clip((6,), scale=6), norms, rtol=1e-4, atol=1e-8)
    for parameter, total in zip(engine.parameters, engine.take(), strict=True):
        parameter.grad = total
    engine.detach()
    torch.testing.assert_close({name: p.grad for name, p in network.named_parameters()}, expected, rtol=1e-4, atol=1e-8)


def test_dp_sgd_clips_every_document_of_a_stack():
    torch.manual_seed(0)
    networks, (x, y) = [gpt().double(), gpt().double()], documents(2, 5)
    stacked = stack(networks)
    torch.testing.assert_close(stacked(x), torch.stack([network(x[k]) for k, network in enumerate(networks)]))
    engine = Engine(stacked, clipping=Flat(CLIPPING_NORM), stacked=True)
    engine.attach()
    record_losses(stacked(x), batch_of(x, y)).sum().backward()
    norms = engine.clip((2, 5), scale=1)
    for parameter, total in zip(engine.parameters, engine.take(), strict=True):
        parameter.grad = total
    turned = transposed(stacked)
    gradients = {name: p.grad.mT if p in turned else p.grad for name, p in stacked.named_parameters()}
    for k, network in enumerate(networks):
        expected, alone = clipped_sum(network, y[k])
        torch.testing.assert_close(norms[k], alone, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close({name: value[k] for name, value in gradients.items()}, expected)


def test_a_position_sees_those_before_it_alone():
    torch.manual_seed(0)
    network, (x, _) = gpt().double(), documents(1)
    changed = x.clone()
    changed[0, 3] = (changed[0, 3] + 1) % TOKEN_COUNT
    one, other = network(x)[0], network(changed)[0]
    assert torch.equal(one[:3], other[:3]) and not torch.isclose(one[3:], other[3:]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 8, 8)}, "^network=gpt: expected documents, "),
        ({"width": 30}, "^network.width=30: expected a multiple of heads=4; choose 32$"),
        ({"depth": -1}, "^network.depth=-1: expected an integer >= 0 and <= 1000; "),
    ],
)
def test_refusals_name_value_rule_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        GPT(**{"shape": (TEXT_LENGTH,), "classes": TOKEN_COUNT} | arguments)
    with pytest.raises(ValueError, match=r"^network=gpt: expected documents, "):
        gpt()(torch.zeros(1, TEXT_LENGTH))
