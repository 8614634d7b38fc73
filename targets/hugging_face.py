"""Language models of Hugging Face's form, from a local folder (extra `lm`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from palisade.data.settings import MAX_REASON_CHARACTERS, place
from palisade.targets.base_model import RELEASED_TYPES
from palisade.targets.transformer import positions_of

CONFIG_FILE, WEIGHTS_PATTERN = "config.json", "*.safetensors"
CODE_KEY, QUANTIZED_KEY = "auto_map", "quantization_config"
"""Keys of a configuration that name code in the folder, which is never run, and weights that are none by themselves."""
LAYERS_KEYS, MAX_RELEASED_LAYERS = ("num_hidden_layers", "n_layer"), 1000
PLACES_KEYS = ("max_position_embeddings", "n_positions")
ACTIVATIONS_MODULE = "transformers.activations"
TORCH_ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    *(nn.ReLU, nn.SiLU, nn.GELU, partial(nn.GELU, approximate="tanh"), nn.Tanh, nn.Sigmoid),
)
"""Activations of torch that models of the library are made of."""
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class HuggingFaceModel(nn.Module):
    """A causal language model: GPT-2, Llama, GPT-NeoX, Qwen, …, with logits of the next token at every position.

    No network is asked, no code of the folder is run, and weights are read from safetensors alone; without any, they
    are drawn anew. Layers are changed in form alone, where DP-SGD has a rule for the other form: GPT-2's transposed
    dense layers become plain ones, RMS norms and activations those of torch. A head may share the
    weight of the embeddings.

    Args:
        shape: (length,) of one document.
        classes: V, which must be the vocabulary of the model.
        path: local folder with `config.json`.
        configuration: content of `config.json` in its place, as on the card of a release; weights are drawn anew.

    Raises:
        ValueError: if `transformers` is not installed, the folder is none or brings code, or the vocabulary differs.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        classes: int,
        path: str | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(shape) != 1:
            raise ValueError("network=hf: expected documents, for a language model; use data=documents or ag_news")
        name, folder = f"network.path={path}", None if path is None else checked_folder(path)
        content = configuration_of(folder) if configuration is None and folder is not None else configuration or {}
        if folder is None:
            check_released(configuration)
        check_configuration(name, content)
        transformers = library()
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if content.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise ValueError(
                f"{name}: expected a model_type of language models that transformers {transformers.__version__} knows,"
                f" not {content.get('model_type')}; choose another model"
            )
        with _in_one_line(name):
            config = transformers.CONFIG_MAPPING[content["model_type"]].from_dict(dict(content))
        if config.vocab_size != classes:
            raise ValueError(
                f"{name}: expected a model of {classes} tokens, as the data have, not of {config.vocab_size}; set"
                f" data.tokens={path}"
            )
        if (places := longest(content)) is not None and shape[0] > places:
            raise ValueError(f"data.length={shape[0]}: expected at most {places} for {name}; lower it")
        for setting in [each for each in vars(config) if "dropout" in each or "pdrop" in each or each == "drop"]:
            if isinstance(getattr(config, setting), float):
                setattr(config, setting, 0.0)  # drawn by nobody's secret; defense=dropout brings its own
        config.use_cache, config._attn_implementation = False, "eager"
        make = transformers.AutoModelForCausalLM
        if folder is not None and any(folder.glob(WEIGHTS_PATTERN)):
            with _in_one_line(name):
                model, loading = make.from_pretrained(
                    folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                    dtype=torch.float32, output_loading_info=True,
                )  # fmt: skip
            if missing := sorted(loading["missing_keys"]):
                raise ValueError(
                    f"{name}: expected all weights of the model, and {missing[0]} is in no file; save the model there"
                    " anew"
                )
        else:
            with _in_one_line(name):
                model = make.from_config(config, trust_remote_code=False).float()
        self.model = plain(model).train()

    def forward(self, tokens: Real[Tensor, "batch positions"]) -> Float[Tensor, "batch positions V"]:
        """Logits of the next token at every position.

        Places are looked up for each document: one look-up for a whole batch would have no gradients by document.
        """
        answer = self.model(input_ids=tokens, position_ids=positions_of(tokens), use_cache=False)
        logits: Tensor = answer.logits
        return logits


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Turns whatever the library raises about a folder into one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARACTERS]
        raise ValueError(
            f"{name}: expected a model that transformers can read ({reason}); save the model there anew"
        ) from None


def checked_folder(path: Any) -> Path:
    """The folder of a model, before any library is asked for it.

    Raises:
        ValueError: if it is no local folder with a configuration, or brings code of its own.
    """
    folder = place("network.path", path)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"network.path={path}: expected a local folder with {CONFIG_FILE}, since nothing is downloaded; save the"
            " model there first"
        )
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_ENDINGS)
    if pickles and not any(folder.glob(WEIGHTS_PATTERN)):
        raise ValueError(
            f"network.path={path}: expected weights as safetensors, and {pickles[0]} is a pickle, which may run code;"
            " convert it first"
        )
    check_configuration(f"network.path={path}", configuration_of(folder))
    return folder


def check_released(content: Mapping[str, Any] | None) -> None:
    """Raises ValueError unless a card's configuration is of a model that a release may hold."""
    if content is None:
        raise ValueError("network.path: expected a local folder with the model; give network.path=<folder>")
    layers = next((content[key] for key in LAYERS_KEYS if key in content), 0)
    if not (content.get("model_type") in RELEASED_TYPES and layers <= MAX_RELEASED_LAYERS):
        raise ValueError(
            f"network.configuration: expected a model of {', '.join(RELEASED_TYPES)} with at most"
            f" {MAX_RELEASED_LAYERS} layers; give network.path=<folder>"
        )


def configuration_of(folder: Path) -> Mapping[str, Any]:
    """Content of `config.json` in a folder.

    Raises:
        ValueError: if it is no JSON.
    """
    try:
        content: Mapping[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"network.path={folder}: expected JSON in {CONFIG_FILE} ({error}); get it anew") from None
    if not isinstance(content, dict):
        raise ValueError(f"network.path={folder}: expected an object {{…}} in {CONFIG_FILE}; get it anew")
    return content


def check_configuration(name: str, content: Mapping[str, Any]) -> None:
    """Raises ValueError for a configuration that names code to run, or of weights that are none by themselves."""
    if QUANTIZED_KEY in content:
        raise ValueError(
            f"{name}: expected plain weights ({QUANTIZED_KEY} in {CONFIG_FILE}); choose a model that is not quantized"
        )
    if CODE_KEY in content:
        raise ValueError(
            f"{name}: expected a model without code of its own ({CODE_KEY} in {CONFIG_FILE}), which would be run;"
            " choose another model"
        )


def longest(content: Mapping[str, Any]) -> int | None:
    """Tokens at most that a model reads at once; None where its configuration says nothing."""
    places = [content[key] for key in PLACES_KEYS if isinstance(content.get(key), int)]
    return places[0] if places else None


def library() -> Any:
    """The library `transformers`, which then neither asks a network nor talks.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(
            "network=hf: expected the library transformers for models of Hugging Face's form; pip install -e '.[lm]',"
            " or set network=gpt"
        ) from None
    notices: Any = transformers.logging
    notices.set_verbosity_error()
    notices.disable_progress_bar()
    return transformers


def plain(model: nn.Module) -> nn.Module:
    """The model with plain dense layers in the place of transposed ones, and torch's norms and activations where these
    are the same."""
    from transformers.pytorch_utils import Conv1D

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            inputs, outputs = layer.weight.shape
            dense = nn.Linear(inputs, outputs)
            with torch.no_grad():
                dense.weight.copy_(layer.weight.T)
                dense.bias.copy_(layer.bias)
            model.set_submodule(name, dense)
        elif type(layer).__name__.endswith("RMSNorm") and (norm := same_norm(layer)) is not None:
            model.set_submodule(name, norm)
        elif type(layer).__module__ == ACTIVATIONS_MODULE and (activation := same_activation(layer)) is not None:
            model.set_submodule(name, activation)
    return model


def same_activation(layer: nn.Module) -> nn.Module | None:
    """The activation of torch that computes the same, which `defense=dropout` knows; None if there is none."""
    x = torch.linspace(-4, 4, 33, device="cpu")
    with torch.no_grad():
        wanted = layer(x)
        return next((own for make in TORCH_ACTIVATIONS if torch.allclose((own := make())(x), wanted, atol=1e-6)), None)


def same_norm(layer: Any) -> nn.RMSNorm | None:
    """The RMS norm of torch that computes the same, None if a library's own has another rule, such as 1 + weight."""
    if layer.weight.is_meta:  # of shapes alone, nothing can be computed
        return None
    norm = nn.RMSNorm(len(layer.weight), eps=getattr(layer, "variance_epsilon", getattr(layer, "eps", None)))
    norm.load_state_dict({"weight": layer.weight.detach().clone()})
    with torch.no_grad():
        x = torch.linspace(-2, 3, len(layer.weight)).expand(2, -1) * torch.tensor([[1.0], [1e-3]])
        return norm if torch.allclose(norm(x), layer(x), rtol=1e-5) else None
