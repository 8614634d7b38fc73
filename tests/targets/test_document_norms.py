"""Norms of documents' gradients against autograd's, one document at a time, for every kind of language model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from palisade.data.loaders import Batch
from palisade.data.sequences import NO_TOKEN, inputs_of
from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.engine import Engine
from palisade.targets.gpt import GPT
from palisade.targets.low_rank import LowRank, adapt
from palisade.targets.record_loss import record_losses

TOKEN_COUNT, TEXT_LENGTH = 61, 12
SHARED_SIZES = {"vocab_size": TOKEN_COUNT, "bos_token_id": 0, "eos_token_id": 0}
LLAMA_SIZES = SHARED_SIZES | {
    "max_position_embeddings": 16,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GPT2_SIZES = SHARED_SIZES | {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2_tied": ("GPT2Config", GPT2_SIZES),
    "gpt2_untied": ("GPT2Config", GPT2_SIZES | {"tie_word_embeddings": False}),
    "llama": ("LlamaConfig", LLAMA_SIZES),
    "llama_grouped_queries": ("LlamaConfig", LLAMA_SIZES | {"num_key_value_heads": 2, "attention_bias": True}),
    "llama_tied": ("LlamaConfig", LLAMA_SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "neox": ("GPTNeoXConfig", LLAMA_SIZES),
    "qwen": ("Qwen2Config", LLAMA_SIZES | {"num_key_value_heads": 2}),
}
NORM_TOLERANCE, TIED_TOLERANCE = 1e-4, 1e-5


def network_of(name: str, folder: Any) -> nn.Module:
    torch.manual_seed(0)
    if name == "gpt":
        return GPT(shape=(TEXT_LENGTH,), classes=TOKEN_COUNT, width=16, depth=2, heads=2)
    transformers = pytest.importorskip("transformers")
    from palisade.targets.hugging_face import HuggingFaceModel

    kind, sizes = HUGGING_FACE[name]
    getattr(transformers, kind)(**sizes).save_pretrained(folder)
    return HuggingFaceModel(shape=(TEXT_LENGTH,), classes=TOKEN_COUNT, path=str(folder))


@pytest.fixture(scope="module", params=["gpt", *HUGGING_FACE])
def network(request, tmp_path_factory) -> nn.Module:
    return network_of(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def adapted(network) -> nn.Module:
    """As after some steps: at first A has no gradient, as B is 0."""
    torch.manual_seed(0)
    low_rank = adapt(copy.deepcopy(network), 2)
    for layer in low_rank.modules():
        if isinstance(layer, LowRank):
            nn.init.normal_(layer.up.weight, std=0.1)
    return low_rank


def documents(lengths: list[int], holes: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs, and labels that are −1 behind the last token and, of documents with holes, at places before it."""
    torch.manual_seed(seed)
    y = torch.randint(1, TOKEN_COUNT, (len(lengths), TEXT_LENGTH))
    y = y.where(torch.arange(TEXT_LENGTH) < torch.tensor(lengths)[:, None], NO_TOKEN)
    x = torch.from_numpy(inputs_of(y.numpy()))
    if holes:
        counted = torch.rand(y.shape) < 0.5
        counted[:, 0] = True
        y = y.where(counted, NO_TOKEN)
    return x, y


def norms_by_autograd(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of every document by itself, cut to its tokens; in double precision. A shared weight has one gradient."""
    alone, norms = copy.deepcopy(network).double(), []
    for inputs, labels in zip(x, y, strict=True):
        length = int((labels != NO_TOKEN).nonzero().max()) + 1
        alone.zero_grad()
        logits = alone(inputs[None, :length])[0]
        nn.functional.cross_entropy(logits, labels[:length], ignore_index=NO_TOKEN).backward()
        gradients = [p.grad.flatten() for p in alone.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm())
    return torch.stack(norms)


def check_norms(network: nn.Module, x: Tensor, y: Tensor) -> None:
    """In double precision: by single precision, some draws of weights move autograd's own norms by 3e-4."""
    expected, network = norms_by_autograd(network, x, y), copy.deepcopy(network).double()
    engine, every = Engine(network, clipping=Flat(0.5)), torch.ones(len(y), dtype=torch.bool)
    engine.attach()
    try:
        record_losses(network(x), Batch(x, y, every, every)).mean().backward()
        norms = engine.clip((len(y),), scale=len(y))
    finally:
        engine.detach()
    learning = [p for _, p in network.named_parameters(remove_duplicate=False) if p.requires_grad]
    tolerance = TIED_TOLERANCE if len(set(learning)) < len(learning) else NORM_TOLERANCE
    torch.testing.assert_close(norms.double(), expected, rtol=tolerance, atol=0)


documents_drawn = given(
    lengths=st.lists(st.integers(1, TEXT_LENGTH), min_size=1, max_size=5), holes=st.booleans(), seed=st.integers(0, 999)
)


@settings(deadline=None, max_examples=12)
@documents_drawn
def test_norms_are_those_of_autograd(network, lengths, holes, seed):
    check_norms(network, *documents(lengths, holes, seed))


@settings(deadline=None, max_examples=8)
@documents_drawn
def test_norms_of_low_rank_products_are_those_of_autograd(adapted, lengths, holes, seed):
    check_norms(adapted, *documents(lengths, holes, seed))


def test_equal_documents_have_equal_norms_whatever_their_company(network):
    x, y = documents([12, 3, 12], holes=False, seed=0)
    x[2], y[2] = x[0], y[0]
    check_norms(network, x, y)
