"""A text's output is its own, DP-SGD can clip it, and a release reads raw texts."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.data.tokens import Tokens
from palisade.defenses.dp_sgd.clipping import Flat
from palisade.defenses.dp_sgd.engine import Engine
from palisade.targets.release import Release
from palisade.targets.shipping import ship
from palisade.targets.stacks import stack, transposed
from palisade.targets.training import make_fitter
from palisade.targets.transformer import Transformer

SST2_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "sst2"
real = pytest.mark.skipif(not (SST2_FOLDER / "dev.tsv").is_file(), reason="dev.tsv is not under ../shared/data/sst2")
SST2_RUN = ["data=sst2", f"data.root={SST2_FOLDER}", "network=transformer", "split.pool=300", "split.test=published"]
CLIPPING_NORM = 0.7
TEXT_LENGTH, WORD_BUCKETS = 7, 20


def make(*, classes: int = 3, width: int = 8, depth: int = 2, heads: int = 2) -> Transformer:
    shape = (TEXT_LENGTH,)
    return Transformer(
        shape=shape, classes=classes, buckets=WORD_BUCKETS, width=width, depth=depth, heads=heads
    ).double()


def texts(*leading: int) -> Tensor:
    """Random texts of one word up to all positions; the first has none."""
    words = torch.randint(1, WORD_BUCKETS, (*leading, TEXT_LENGTH))
    lengths = torch.randint(1, TEXT_LENGTH + 1, (*leading, 1))
    lengths[..., 0, :] = 0
    return words.where(torch.arange(TEXT_LENGTH) < lengths, 0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), records=st.integers(1, 5), depth=st.integers(0, 2), heads=st.sampled_from([1, 2, 4]))
def test_output_depends_on_the_text_alone(seed, records, depth, heads):
    torch.manual_seed(seed)
    network, x = make(depth=depth, heads=heads), texts(records)
    logits = network(x)
    for number, text in enumerate(x):
        words = max(1, int((text != 0).sum()))  # neither what it is batched with nor how far it is padded
        torch.testing.assert_close(network(text[None, :words])[0], logits[number])
    torch.testing.assert_close(network(torch.stack([x, x.flip(0)])), torch.stack([logits, logits.flip(0)]))


def attend(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor) -> Tensor:
    """Attention as it is written in books; over nothing it is NaN."""
    weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).masked_fill(~attn_mask, -torch.inf).softmax(-1)
    return weights @ values


@pytest.mark.parametrize("attention", [nn.functional.scaled_dot_product_attention, attend])
def test_a_text_without_words_has_finite_output_and_gradient(monkeypatch, attention):
    network, x = make(), texts(4)
    expected = network(x)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)
    logits = network(x)
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("depth", [0, 2])
def test_places_matter_and_padding_does_not(depth):
    torch.manual_seed(0)
    network = make(depth=depth)
    x = torch.tensor([[1, 2, 3, 0, 0, 0, 0], [3, 2, 1, 0, 0, 0, 0]])
    one, other = network(x)
    assert not torch.allclose(one, other)
    with torch.no_grad():
        network.words.weight[0] += 5  # as noise does that DP-SGD adds to every weight
        network.places.weight[3:] += 5
    torch.testing.assert_close(network(x), torch.stack([one, other]))


def test_no_words_no_records():
    assert make()(texts(1)[:0]).shape == (0, 3)


def clipped_sum(network: Transformer, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Record by record, with autograd as it is."""
    sums = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    norms = []
    for text, label in zip(x, y, strict=True):
        network.zero_grad()
        nn.functional.cross_entropy(network(text[None]), label[None]).backward()
        norms.append(torch.cat([p.grad.flatten() for p in network.parameters()]).norm())
        for name, p in network.named_parameters():
            sums[name] += p.grad * min(1, CLIPPING_NORM / norms[-1])
    network.zero_grad()
    return sums, torch.stack(norms)


@pytest.mark.parametrize("depth", [0, 2])
def test_dp_sgd_clips_every_text(depth):
    torch.manual_seed(depth)
    network, x, y = make(depth=depth), texts(6), torch.randint(3, (6,))
    expected, norms = clipped_sum(copy.deepcopy(network), x, y)
    engine = Engine(network, clipping=Flat(CLIPPING_NORM))
    engine.attach()
    nn.functional.cross_entropy(network(x), y).backward()
    torch.testing.assert_close(engine.clip((6,), scale=6), norms)
    for parameter, total in zip(engine.parameters, engine.take(), strict=True):
        parameter.grad = total
    engine.detach()
    assert (norms > CLIPPING_NORM).any()
    torch.testing.assert_close({name: p.grad for name, p in network.named_parameters()}, expected)


def test_dp_sgd_clips_every_text_of_a_stack():
    torch.manual_seed(0)
    networks, x, y = [make(), make()], texts(2, 5), torch.randint(3, (2, 5))
    stacked = stack(networks)
    torch.testing.assert_close(stacked(x), torch.stack([network(x[k]) for k, network in enumerate(networks)]))
    engine = Engine(stacked, clipping=Flat(CLIPPING_NORM), stacked=True)
    engine.attach()
    nn.functional.cross_entropy(stacked(x).flatten(0, 1), y.flatten(), reduction="sum").backward()
    norms = engine.clip((2, 5), scale=1)
    for parameter, total in zip(engine.parameters, engine.take(), strict=True):
        parameter.grad = total
    turned = transposed(stacked)
    gradients = {name: p.grad.mT if p in turned else p.grad for name, p in stacked.named_parameters()}
    for k, network in enumerate(networks):
        expected, alone = clipped_sum(network, x[k], y[k])
        torch.testing.assert_close(norms[k], alone)
        torch.testing.assert_close({name: value[k] for name, value in gradients.items()}, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"buckets": None},
            "^network=transformer: expected records of words, ",
        ),
        (
            {"shape": (1, 8, 8)},
            "^network=transformer: expected records of words, ",
        ),
        ({"width": 30}, "^network.width=30: expected a multiple of heads=4; choose 32$"),
        ({"heads": 0}, "^network.heads=0: expected an integer >= 1 and <= 32; "),
        ({"depth": -1}, "^network.depth=-1: expected an integer >= 0 and <= 1000; "),
        ({"width": 8.0}, "^network.width=8.0: expected an integer >= 1 and <= 65536; "),
    ],
)
def test_refusals_name_value_rule_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**{"shape": (TEXT_LENGTH,), "classes": 2, "buckets": WORD_BUCKETS} | arguments)


def test_inputs_that_are_no_words_or_unknown_ones():
    with pytest.raises(ValueError, match=r"^network=transformer: expected records of words, "):
        make()(torch.zeros(1, TEXT_LENGTH))
    with pytest.raises(ValueError, match=r"^network.buckets=20"):
        make()(torch.full((1, TEXT_LENGTH), WORD_BUCKETS))


@real
@pytest.mark.slow
@pytest.mark.parametrize("defense", ["none", "dp_sgd"])
def test_training_on_real_phrases(compose, defense):
    config = compose(*SST2_RUN, f"defense={defense}", "trainer.epochs=2")
    config["defense"].setdefault("trainer", {})["epochs"] = 2
    dataset, secret, membership = from_config(config), Secret.from_text("words"), Membership()
    assert config["network"]["buckets"] == dataset.preprocessing.buckets
    fitter = make_fitter(config, dataset, secret, [0], membership)
    start = fitter.initial_network(0).state_dict()
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, [0], secret))
    assert all(not torch.equal(value, start[name]) for name, value in fleet.states[0].items())
    statement = fitter.defense.statement(fleet)
    assert statement.guarantee == (defense == "dp_sgd")
    logits = fleet.predict(dataset.x[dataset.split.test])
    assert logits.shape == (1, 872, 2) and np.isfinite(logits).all()


@real
def test_release_reads_raw_texts(compose, tmp_path):
    config = compose(*SST2_RUN, "trainer.epochs=8")
    ship(config, [], Secret.from_text("words")).save(tmp_path / "released")
    release = Release.load(tmp_path / "released")
    card = json.loads((tmp_path / "released" / "card.json").read_text())
    assert card["preprocessing"] == Tokens().to_json() and card["network"]["settings"]["buckets"] == 8192
    dataset = from_config(config)
    line = (SST2_FOLDER / "dev.tsv").read_text().splitlines()[1].split("\t")[0]
    fitted = dataset.x[dataset.split.pool]
    with torch.inference_mode():
        learnt = release.network(torch.from_numpy(fitted)).argmax(-1).numpy()
    assert (learnt == dataset.y[dataset.split.pool]).mean() > 0.9
    assert release.predict([line, "awful", ""])[0] in ("negative", "positive")
    probabilities = release.predict_proba([line.upper(), line])
    np.testing.assert_allclose(probabilities[0], probabilities[1], rtol=1e-5)
    with pytest.raises(ValueError, match=r"^rows are a single text; give a list of texts$"):
        release.predict("awful")
