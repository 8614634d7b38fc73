"""Models of Hugging Face's form, built tiny from their configuration: trained whole and by low rank, with and without
DP-SGD, without a network and without code of the folder."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.data.sequences import inputs_of
from palisade.data.split import Membership
from palisade.defenses.dropout import Dropout, DroppedOut
from palisade.targets import fleet as fleet_module
from palisade.targets.base_model import content_of, has_base, reads_places
from palisade.targets.fleet import Fleet
from palisade.targets.hugging_face import HuggingFaceModel
from palisade.targets.network_maker import NetworkMaker
from palisade.targets.release import Release
from palisade.targets.shipping import ship
from palisade.targets.training import check_moved, make_fitter

transformers = pytest.importorskip("transformers")
BYTE_TOKENS, TEXT_LENGTH = 257, 12
SMALL_SIZES = {"vocab_size": BYTE_TOKENS, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0}
LIKE_LLAMA = {
    **SMALL_SIZES,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
LIKE_LLAMA |= {"num_key_value_heads": 2}
GPT2_SIZES = {"vocab_size": BYTE_TOKENS, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
MODEL_CONFIGURATIONS = {
    "gpt2": lambda: transformers.GPT2Config(**GPT2_SIZES, bos_token_id=0, eos_token_id=0),
    "gpt2_untied": lambda: transformers.GPT2Config(
        **GPT2_SIZES, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False
    ),
    "llama": lambda: transformers.LlamaConfig(**LIKE_LLAMA),
    "neox": lambda: transformers.GPTNeoXConfig(**LIKE_LLAMA),
    "qwen": lambda: transformers.Qwen2Config(**LIKE_LLAMA),
}


@pytest.fixture(params=MODEL_CONFIGURATIONS)
def folder(request, tmp_path) -> Path:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODEL_CONFIGURATIONS[request.param]())
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_answers_are_those_of_the_library(folder):
    torch.manual_seed(0)
    network = HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path=str(folder)).double()
    x = torch.randint(1, BYTE_TOKENS, (4, TEXT_LENGTH))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
    torch.testing.assert_close(network(x), theirs(x).logits, rtol=1e-5, atol=1e-5)  # whose norms are float32


@pytest.mark.parametrize("defense", ["none", "dp_sgd"])
@pytest.mark.parametrize("rank", ["null", 2])
def test_it_trains(compose, tmp_path, folder, rank, defense):
    lines = (json.dumps({"text": f"document {number} of {number % 3} kinds"}) for number in range(40))
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    few = ["defense.trainer.epochs=1", "defense.trainer.batch_size=8"] if defense == "dp_sgd" else []
    config = compose(
        *("data=documents", f"data.path={tmp_path}/own.jsonl", f"data.length={TEXT_LENGTH}", "network=hf"),
        *(f"network.path={folder}", f"network.lora.rank={rank}", f"defense={defense}", *few, "trainer.batch_size=8"),
        *("trainer.epochs=1", "split.pool=20"),
    )
    dataset, secret, membership = from_config(config), Secret.from_text("hf"), Membership()
    fitter = make_fitter(config, dataset, secret, [0], membership)
    start = fitter.initial_network(0).state_dict()
    fitter.defense.settle(fitter, dataset.split, membership.draw(dataset.split, [0], secret))
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, [0], secret))
    check_moved(fitter, fleet)
    assert any(not torch.equal(value, start[name]) for name, value in fleet.states[0].items())
    assert fitter.defense.statement(fleet).guarantee == (defense == "dp_sgd")


def test_names_of_a_hub_and_code_are_refused_at_once(tmp_path):
    started = time.monotonic()
    for name in ("gpt2", "meta-llama/Llama-3.2-1B"):
        with pytest.raises(ValueError, match=r"^network.path=.*: expected a local folder with config.json, since noth"):
            HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path=name)
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(ValueError, match=r"^network.path=.*: expected a model without code of its own "):
        HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path=str(tmp_path))
    assert time.monotonic() - started < 1


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^network.path=.*: {message}") as error:
        HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path=str(folder))
    assert "\n" not in str(error.value)


def test_weights_that_would_not_be_those_of_the_model_are_refused(tmp_path):
    MODEL_CONFIGURATIONS["gpt2"]().save_pretrained(tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    refuse(tmp_path, "expected weights as safetensors, and pytorch_model.bin is a pickle, ")
    save_file(
        {"transformer.wpe.weight": torch.zeros(16, 16)}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    refuse(tmp_path, "expected all weights of the model, and lm_head.weight is in no file; ")
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"quantization_config": {"load_in_4bit": True}}))
    refuse(tmp_path, "expected plain weights ")
    (tmp_path / "config.json").write_text("{")
    refuse(tmp_path, "expected JSON in config.json ")
    (tmp_path / "config.json").write_text("[]")
    refuse(tmp_path, r"expected an object \{…\} in config.json; ")
    (tmp_path / "config.json").write_text(json.dumps(content | {"model_type": "t5"}))
    refuse(tmp_path, "expected a model_type of language models that transformers .* knows, not t5; ")
    (tmp_path / "config.json").write_text(json.dumps(content | {"n_head": 3}))
    refuse(tmp_path, r"expected a model that transformers can read \(ValueError: .*; save the model there anew$")
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    refuse(tmp_path, r"expected a model that transformers can read \(SafetensorError: ")


def test_a_model_that_reads_what_it_is_to_foretell_is_refused(compose, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    transformers.BertConfig(vocab_size=BYTE_TOKENS, **sizes).save_pretrained(tmp_path / "bert")
    MODEL_CONFIGURATIONS["gpt2"]().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": f"document {number}"}) for number in range(40)))
    dataset = from_config(
        compose("data=documents", f"data.path={tmp_path}/own.jsonl", f"data.length={TEXT_LENGTH}", "split.pool=20")
    )
    target = {"_target_": "palisade.targets.hugging_face.HuggingFaceModel"}
    NetworkMaker({**target, "path": f"{tmp_path}/gpt2"}).try_out(dataset)
    with pytest.raises(ValueError, match=r"^network.path=.*bert: expected a network of which no position sees those "):
        NetworkMaker({**target, "path": f"{tmp_path}/bert"}).try_out(dataset)


def test_weights_that_a_secret_draws_are_no_public_base(folder):
    assert has_base({"path": str(folder)})
    (folder / "model.safetensors").unlink()
    assert not has_base({"path": str(folder)}) and reads_places({"path": str(folder)})


def test_activations_are_those_that_dropout_knows(folder):
    network = HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path=str(folder))
    dropped = Dropout(rate=0.5).network(network).modules()
    assert sum(isinstance(layer, DroppedOut) for layer in dropped) == 1


def test_pictures_are_no_documents(tmp_path):
    with pytest.raises(ValueError, match=r"^network=hf: expected documents, "):
        HuggingFaceModel(shape=(1, 8, 8), classes=BYTE_TOKENS, path=str(tmp_path))


def test_a_folder_stays_as_it_is_and_decides_by_its_content(folder, tmp_path):
    (folder / "notes.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    content = content_of({"path": str(folder)})
    folder.rename(tmp_path / "elsewhere")
    assert content_of({"path": str(tmp_path / "elsewhere")}) == content
    assert {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()} == before
    (tmp_path / "elsewhere" / "config.json").write_text(before["config.json"].decode() + " ")
    assert content_of({"path": str(tmp_path / "elsewhere")}) != content


@pytest.mark.parametrize("company", [0, 5])
def test_padding_company_and_batch_size_change_no_answer(folder, monkeypatch, company):
    torch.manual_seed(0)
    network = HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path=str(folder))
    torch.nn.init.normal_(network.model.get_output_embeddings().weight)
    fleet = Fleet(network, [network.state_dict()])
    y = np.random.default_rng(company).integers(1, BYTE_TOKENS, (2 + company, TEXT_LENGTH))
    y[0, 5:], y[1, 1:] = -1, -1
    alone = [fleet.answers(inputs_of(row[None, row >= 0]), row[None, row >= 0])[0, 0] for row in y]
    for tokens_at_once in (1, 10**6):
        monkeypatch.setattr(fleet_module, "PREDICTION_TOKENS", tokens_at_once)
        for own, row in zip(fleet.answers(inputs_of(y), y)[0], alone, strict=True):
            for name in ("log_probability", "mean", "variance"):
                np.testing.assert_allclose(own[name][: len(row)], row[name], rtol=1e-6, atol=1e-6)
            assert (own["greedy"][: len(row)] == row["greedy"]).all()


def test_vocabulary_and_length_must_fit(tmp_path):
    MODEL_CONFIGURATIONS["llama"]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^network.path=.*: expected a model of 300 tokens, as the data have, "):
        HuggingFaceModel(shape=(TEXT_LENGTH,), classes=300, path=str(tmp_path))
    with pytest.raises(ValueError, match=r"^data.length=99: expected at most 16 for network.path="):
        HuggingFaceModel(shape=(99,), classes=BYTE_TOKENS, path=str(tmp_path))


def test_without_the_extra_it_is_named(tmp_path):
    MODEL_CONFIGURATIONS["llama"]().save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['transformers'] = sys.modules['tokenizers'] = None\n"
        "from palisade.data.subwords import tokens_of\n"
        "from palisade.targets.hugging_face import HuggingFaceModel as Model\n"
        "from palisade.targets.gpt import GPT\n"
        "GPT(shape=(4,), classes=5)\n"
        f"for make in (lambda: Model(shape=(4,), classes=5, path={str(tmp_path)!r}),\n"
        "             lambda: tokens_of('bpe', length=4, new_tokens=0, vocabulary=300)):\n"
        "    try:\n"
        "        make()\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install -e '.[lm]'") == 2, done.stdout + done.stderr


def test_a_release_needs_no_folder_beside_it(compose, tmp_path, folder):
    lines = (json.dumps({"text": f"document {number} of {number % 3} kinds"}) for number in range(40))
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    config = compose(
        *("data=documents", f"data.path={tmp_path}/own.jsonl", f"data.length={TEXT_LENGTH}", "network=hf"),
        *(f"network.path={folder}", "network.lora.rank=2", "trainer.batch_size=8", "trainer.epochs=1", "split.pool=20"),
    )
    release = ship(config, [], Secret.from_text("hf"))
    release.save(tmp_path / "released")
    folder.rename(tmp_path / "elsewhere")
    again = Release.load(tmp_path / "released")
    for one, other in zip(*(each.log_probabilities(["document 1", "x"]) for each in (release, again)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert str(folder) not in (tmp_path / "released" / "card.json").read_text()


@pytest.mark.parametrize(
    "change",
    [{"model_type": "bert"}, {"n_layer": 10**9}, {"auto_map": {"AutoConfig": "evil.Config"}}, {"n_embd": 10**7}],
)
def test_a_card_of_anybody_names_no_other_model(compose, tmp_path, change):
    MODEL_CONFIGURATIONS["gpt2"]().save_pretrained(tmp_path / "model")
    lines = (json.dumps({"text": f"document {number}"}) for number in range(40))
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    config = compose(
        *("data=documents", f"data.path={tmp_path}/own.jsonl", f"data.length={TEXT_LENGTH}", "network=hf"),
        *(f"network.path={tmp_path}/model", "trainer.batch_size=8", "trainer.epochs=1", "split.pool=8"),
    )
    ship(config, [], Secret.from_text("hf")).save(tmp_path / "released")
    card = json.loads((tmp_path / "released" / "card.json").read_text())
    card["network"]["settings"]["configuration"] |= change
    (tmp_path / "released" / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"^.*released") as error:
        Release.load(tmp_path / "released")
    assert "\n" not in str(error.value)


def test_no_network_is_asked(folder, monkeypatch):
    def refuse_to_connect(*_: object, **__: object) -> None:
        raise AssertionError("a network was asked")

    for name in ("socket", "getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse_to_connect)
    HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path=str(folder))
    with pytest.raises(ValueError, match=r"^network.path="):
        HuggingFaceModel(shape=(TEXT_LENGTH,), classes=BYTE_TOKENS, path="gpt2")


@pytest.mark.parametrize("plan", [(), ("plan=true",)])
@pytest.mark.parametrize(
    "network", [("network=hf", "network.path=meta-llama/Llama-3.2-1B"), ("network=gpt", "network.base=openai/gpt2")]
)
def test_names_of_a_hub_are_refused_before_data_are_read_or_torch_is_imported(tmp_path, network, plan):
    code = (
        "import sys\n"
        "from palisade.commandline import call\n"
        "from palisade.train import main\n"
        "try:\n"
        "    call(main)\n"
        "finally:\n"
        "    print({'torch', 'scipy', 'pandas'} & {*sys.modules})\n"
    )
    words = ["data=documents", "data.path=none.txt", *network, f"runs={tmp_path}", *plan]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert done.stderr.startswith(f"error: {network[1]}: expected ") and done.stderr.count("\n") == 1
