"""Language models on this machine, asked for the log-probabilities of the tokens of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.data.sequences import NO_TOKEN, Sequences
from palisade.data.settings import place
from palisade.evaluation.subjects.audited_model import AuditedModel
from palisade.evaluation.subjects.completions import TextAnswer
from palisade.evaluation.subjects.texts import word_counts

CARD_FILE, COMPLETE_FILE, CONFIGURATION_FILE = "card.json", "complete.json", "config.json"
"""Files by which a folder is a release, a run, or a model of Hugging Face's form."""
MAX_WINDOW = 1024
"""Tokens that are read at once, at most, of a model that has more places."""
COLUMNS_OF_ANSWERS = {
    "token_logprobs": "log_probability",
    "token_means": "mean",
    "token_variances": "variance",
    "token_greedy": "greedy",
}
Answers = Callable[
    [Int64[np.ndarray, "records length"], Int64[np.ndarray, "records length"]],
    Shaped[np.ndarray, "models records length"],
]
"""Rows about the tokens of inputs, by their labels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalModel:
    """A language model of this machine.

    Args:
        name: the setting that names its folder, for errors.
        tokens: that it cuts texts into.
        answers: rows about the tokens of inputs by their labels, of each model that there is: this one, behind the
            guard that it was released with.
    """

    name: str
    tokens: Sequences
    answers: Answers

    @classmethod
    def of(cls, setting: str, folder: str) -> LocalModel:
        """The model in a folder: a release, the first model of a run, or one of Hugging Face's form.

        Raises:
            ValueError: if it is none of them, or no language model.
        """
        path, name = place(setting, folder), f"{setting}={folder}"
        readers: dict[str, Callable[[Path], tuple[Any, Answers]]] = {
            CARD_FILE: _of_release, COMPLETE_FILE: _of_run, CONFIGURATION_FILE: _of_hugging_face,
        }  # fmt: skip
        reader = next((reader for file, reader in readers.items() if (path / file).is_file()), None)
        if reader is None:
            raise ValueError(
                f"{name}: expected the folder of a release, of a run, or of a model with {CONFIGURATION_FILE} and"
                " safetensors, since nothing is downloaded; give one"
            )
        with renamed({f"data.tokens={path}": name, f"network.path={path}": name, str(path): name}):
            tokens, answers = reader(path)
        if not isinstance(tokens, Sequences):
            raise ValueError(f"{name}: expected a language model with text=<column>, and it classifies; leave text out")
        return cls(name=name, tokens=tokens, answers=answers)

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text.

        Raises:
            ValueError: if a text has none.
        """
        numbers = [self.tokens.encode(text) for text in texts]
        if empty := sum(not own for own in numbers):
            raise ValueError(f"{self.name}: expected texts of at least one token; remove the {empty} without any")
        return numbers

    def rows(self, numbers: Sequence[Sequence[int]]) -> list[Shaped[np.ndarray, "tokens"]]:
        """Rows about all tokens of each text, of `data.sequences.TOKEN_ROW`.

        A text that is longer than the model reads at once is read in pieces, each from a beginning of its own.

        Args:
            numbers: tokens of each text.
        """
        y = self.tokens.pieces(numbers)
        answered = self.answers(self.tokens.inputs_of(y), y)[0][y != NO_TOKEN]
        return np.split(answered, np.cumsum([len(own) for own in numbers])[:-1])


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Puts the setting that the user gave in the place of one that a ValueError begins with.

    Args:
        names: what an error may begin with, and the setting in its place.
    """
    try:
        yield
    except ValueError as error:
        key = next((key for key in names if str(error).startswith(f"{key}:")), None)
        if key is None:
            raise
        raise ValueError(names[key] + str(error).removeprefix(key)) from None


def of_texts(setting: str, folder: str, base: str | None) -> AuditedModel:
    """A language model on this machine as an audit asks it; no network is asked and no code of a folder is run.

    Args:
        setting: `release` or `model`.
        folder: of a release, a run, or a model of Hugging Face's form.
        base: folder of the public model that it was trained from; None: it is not asked.

    Raises:
        ValueError: if there is no language model, or the base cuts texts into other tokens.
    """
    model = LocalModel.of(setting, folder)
    public = None if base is None else LocalModel.of("base_model", base)

    def ask(rows: Any) -> list[TextAnswer]:
        texts = rows["text"].tolist()
        numbers = model.numbers(texts)
        answers = [
            {name: own[column].tolist() for name, column in COLUMNS_OF_ANSWERS.items()} for own in model.rows(numbers)
        ]
        if public is not None:
            if public.numbers(texts) != numbers:
                raise ValueError(
                    f"{public.name}: expected the tokens of {model.name}, and it cuts texts into others; name the"
                    " public model that training began with, or leave it out"
                )
            for answer, own in zip(answers, public.rows(numbers), strict=True):
                answer["base_logprobs"] = own["log_probability"].tolist()
        return answers

    return AuditedModel(
        name=f"{setting} {folder}",
        answers="token_logprobs",
        ask=ask,
        inputs=lambda rows: word_counts(rows["text"].to_numpy(dtype=str)),
        takes_inputs=False,
        takes_tables=True,
    )


def _of_release(folder: Path) -> tuple[Any, Answers]:
    from palisade.targets.device import chosen
    from palisade.targets.fleet import Fleet
    from palisade.targets.guards import NoGuard
    from palisade.targets.guards.guarded import Guarded
    from palisade.targets.release import Release

    release = Release.load(folder)
    fleet = Fleet(release.network, [release.network.state_dict()], device=chosen())
    if isinstance(release.guard, NoGuard):
        return release.preprocessing, fleet.answers
    if release.guard.level != "logits":
        raise ValueError(
            f"{folder}: expected a guard that lets log-probabilities out, and {release.guard.name} does not; audit the"
            " run that it was released from"
        )
    return release.preprocessing, Guarded(fleet, release.guard, [release.state]).released


def _of_run(folder: Path) -> tuple[Any, Answers]:
    from palisade.targets.run import Run
    from palisade.targets.training import load_fleet

    run = Run.existing(folder)
    return run.dataset.preprocessing, load_fleet(run.config, run.dataset, folder, [0]).answers


def _of_hugging_face(folder: Path) -> tuple[Any, Answers]:
    import torch

    from palisade.data.subwords import TOKENIZER_FILE, tokens_of
    from palisade.targets.device import chosen
    from palisade.targets.fleet import Fleet
    from palisade.targets.hugging_face import WEIGHTS_PATTERN, HuggingFaceModel, configuration_of, longest
    from palisade.targets.network_maker import check_causal

    if not (folder / TOKENIZER_FILE).is_file():
        raise ValueError(f"{folder}: expected {TOKENIZER_FILE} beside the model; save its tokenizer there, too")
    if not any(folder.glob(WEIGHTS_PATTERN)):
        raise ValueError(f"{folder}: expected weights as safetensors, and there are none; save the model there anew")
    length = min(MAX_WINDOW, longest(configuration_of(folder)) or MAX_WINDOW)
    tokens = tokens_of(str(folder), length=length, new_tokens=0)
    network = HuggingFaceModel(shape=(length,), classes=tokens.vocabulary, path=str(folder)).eval()
    check_causal(str(folder), network, torch.arange(8)[None] % tokens.vocabulary)
    return tokens, Fleet(network, [network.state_dict()], device=chosen()).answers
