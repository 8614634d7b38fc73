"""Language models on a device: the CPU's weights and answers bit by bit, steps that wait for nothing, and no number in
double precision where a device has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from device_fits import QUICK_DP_SGD, SETTLED_FAST, check_equal, trained, with_trainer
from safetensors.torch import load_file, save_file
from simulated_device import SIMULATED_DEVICE, counting, without_doubles
from test_device_costs import step_costs
from torch.nn.attention import SDPBackend, sdpa_kernel

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.sequences import BYTE_VALUES
from palisade.evaluation.subjects import local_texts
from palisade.targets import device as devices
from palisade.targets import training
from palisade.targets.defaults import resolved
from palisade.targets.gpt import GPT
from palisade.targets.gradients import layer_norms, slopes
from palisade.targets.shipping import ship
from palisade.targets.training import make_defense
from palisade.train import train_run

TEXT_LENGTH, BYTE_TOKENS = 16, BYTE_VALUES + 1
SMALL_GPT = ("network=gpt", "network.width=8", "network.depth=1", "network.heads=2")
SHARED_SIZES = {"vocab_size": BYTE_TOKENS, "bos_token_id": 0, "eos_token_id": 0}
LLAMA_SIZES = SHARED_SIZES | {
    "max_position_embeddings": TEXT_LENGTH,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
GPT2_SIZES = SHARED_SIZES | {"n_positions": TEXT_LENGTH, "n_embd": 16, "n_layer": 1, "n_head": 2}
HUGGING_FACE = {"gpt2": ("GPT2Config", GPT2_SIZES), "llama": ("LlamaConfig", LLAMA_SIZES)}
DEFENSE_WORDS = {
    **dict.fromkeys(("none", "l1", "l2", "ccl", "dropout", "label_smoothing", "relaxloss", "distillation"), ()),
    "early_stopping": ("defense.patience=1",),
    "deduplication": ("defense.threshold=0.9",),
    "rare_removal": ("defense.threshold=5.65",),
    "dp_sgd": QUICK_DP_SGD[1:],
}
QUICK_FITS = [
    *(("gpt", "none", 3), ("gpt", "dp_sgd", 3), ("gpt lora", "dp_sgd", 1), ("gpt", "rare_removal", 1)),
    ("llama lora", "none", 1),
]
ALL_FITS = [
    (network, name, models)
    for network in ("gpt", "gpt lora", *HUGGING_FACE)
    for name in DEFENSE_WORDS
    for models in (1, 3)
    if models == 1 or network.startswith("gpt ") or network == "gpt"
]


@pytest.fixture
def documents(tmp_path) -> list[str]:
    lines = (json.dumps({"text": f"document {n} of {n % 3} kinds" * (n % 2 + 1)}) for n in range(110))
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    roles = (f"split.{role}=12" for role in ("population", "test", "validation", "reference"))
    return ["data=documents", f"data.path={tmp_path}/own.jsonl", f"data.length={TEXT_LENGTH}", "split.pool=24", *roles]


def network_words(network: str, folder: Path) -> list[str]:
    """Settings of a small network; its public base, or the folder that it is read from, is written here."""
    kind, _, lora = network.partition(" ")
    torch.manual_seed(0)
    if kind == "gpt":
        base = GPT(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, width=8, depth=1, heads=2)
        save_file(base.state_dict(), folder / "model.safetensors")
        words = [*SMALL_GPT, f"network.base={folder}"]
    else:
        transformers = pytest.importorskip("transformers")
        name, sizes = HUGGING_FACE[kind]
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes))
        model.save_pretrained(folder / kind)
        words = ["network=hf", f"network.path={folder / kind}"]
    return [*words, *(["network.lora.rank=2"] if lora else [])]


def settings_of(compose, documents, folder: Path, network: str, name: str):
    words = [*documents, *network_words(network, folder), f"defense={name}", *DEFENSE_WORDS[name]]
    settings = compose(*words)
    return with_trainer(resolved(settings, from_config(settings)), epochs=2, batch_size=6)


@pytest.mark.parametrize(
    ("network", "name", "models"),
    [*QUICK_FITS, *(pytest.param(*fit, marks=pytest.mark.slow) for fit in ALL_FITS if fit not in QUICK_FITS)],
)
def test_defenses_of_language_models(compose, documents, tmp_path, network, name, models):
    if name == "dropout" and network in HUGGING_FACE:
        pytest.skip("whose activations are no layers")
    settings = settings_of(compose, documents, tmp_path, network, name)
    if models > 1 and not make_defense(settings["defense"]).stackable:
        pytest.skip("no stacked form")
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused attention rounds otherwise
        check_equal(settings, models, settled=SETTLED_FAST if name == "dp_sgd" else {})


def test_no_private_step_of_a_language_model_waits_for_the_device(compose, documents, tmp_path):
    settings = settings_of(compose, documents, tmp_path, "gpt", "dp_sgd")
    costs, steps = step_costs(with_trainer(settings, epochs=3), models=3)
    assert len(steps) >= 3
    for counts, _ in steps:
        waits = counts["device_to_host"] + counts["synchronization"]
        assert waits == 0, costs.by_line("synchronization") + costs.by_line("device_to_host")


@pytest.mark.parametrize("name", ["mixup", pytest.param("dp_sgd", marks=pytest.mark.slow)])
def test_a_device_without_double_precision_trains_classifiers(compose, name):
    roles = ["split.pool=0.1", "split.validation=0.05", "split.reference=0.1"]
    settings = compose("data=digits", "network=mlp", "network.hidden=[16]", *roles, f"defense={name}")
    settings = with_trainer(resolved(settings, from_config(settings)), epochs=1, batch_size=24)
    with without_doubles():
        assert len(trained(settings, 2, SIMULATED_DEVICE)) == 2


@pytest.mark.parametrize(
    ("network", "name"), [("gpt", "rare_removal"), pytest.param("gpt2", "dp_sgd", marks=pytest.mark.slow)]
)
def test_a_device_without_double_precision_trains_language_models(compose, documents, tmp_path, network, name):
    settings = settings_of(compose, documents, tmp_path, network, name)
    dataset = from_config(settings)
    with without_doubles(), sdpa_kernel(SDPBackend.MATH):
        check_equal(settings, 1, settled=SETTLED_FAST if name == "dp_sgd" else {})
        fleet = trained(settings, 1, SIMULATED_DEVICE, settled=SETTLED_FAST if name == "dp_sgd" else {})
        there = fleet.answers(dataset.x, dataset.y)
        fleet.device = torch.device("cpu")
        np.testing.assert_array_equal(there, fleet.answers(dataset.x, dataset.y))


@pytest.mark.parametrize("network", ["gpt", "gpt lora", "llama"])
def test_signals_of_their_weights(compose, documents, tmp_path, network):
    settings = settings_of(compose, documents, tmp_path, network, "none")
    fleet, dataset = trained(settings, 1, torch.device("cpu")), from_config(settings)
    state = {name: value.clone() for name, value in fleet.states[0].items()}
    records = dataset.x[:9], dataset.y[:9]
    signals = []
    for place in (torch.device("cpu"), SIMULATED_DEVICE):
        with counting() as costs:
            norms = layer_norms(fleet.network, state, *records, place)
            # PyTorch writes the slope of a scaled product otherwise for devices that it has no kernels for.
            scaled = network != "gpt"
            signals.append((*norms, *([] if scaled else [slopes(fleet.network, state, state, *records, place)])))
    assert costs.total["kernel"] > 0 and costs.total["random"] == 0
    for one, other in zip(*signals, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_behind_the_filter_and_audits_of_what_is_there(compose, documents, tmp_path, monkeypatch):
    words = [
        *documents,
        "data.length=32",
        *SMALL_GPT,
        "fleet.models=2",
        "fleet.at_once=1",  # auto stacks otherwise on a device, which rounds otherwise
        "fleet.workers=1",
        "trainer.epochs=1",
        "trainer.batch_size=6",
    ]
    settings = compose(*words, "guard=memfree", "canary=secret", "canary.count=4", "secret=texts")
    ship(compose(*words), [], Secret.from_text("s")).save(tmp_path / "released")
    texts, answers = ["document 5 of 2 kinds", "another"], []
    for place in (torch.device("cpu"), SIMULATED_DEVICE):
        for module in (training, devices):
            monkeypatch.setattr(module, "chosen", lambda place=place: place)
        with sdpa_kernel(SDPBackend.MATH), counting() as costs:
            run = train_run({**settings, "runs": str(tmp_path / place.type)})
            dataset, folder = from_config(settings), Path(run["folder"])
            (guard,) = (path.name for path in (folder / "guards").iterdir() if path.is_dir())
            guarded = training.load_guarded(settings, dataset, folder, [0, 1], guard)
            continued = guarded.generate([dataset.y[0][:3]], 5, dataset.preprocessing.begin)
            folders = folder, tmp_path / "released"
            models = [local_texts.LocalModel.of("model", str(each)) for each in folders]
            rows = [model.rows(model.numbers(texts)) for model in models]
        weights = load_file(folder / "models" / "0.safetensors")
        answers.append([*weights.values(), *continued, *(row["log_probability"] for each in rows for row in each)])
    assert costs.total["kernel"] > 0 and costs.total["random"] == 0
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)
