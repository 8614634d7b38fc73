"""Releases: the one model that is meant for use, with a card that says what is claimed for it and what is not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Real
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax
from torch import Tensor, nn

from palisade.data import preprocessing
from palisade.data.columns import Columns, UnknownWordsWarning, unknown_words_line
from palisade.data.preprocessing import Preprocessing
from palisade.data.sequences import NO_TOKEN, Sequences
from palisade.sampling import SamplingLaw
from palisade.targets.card import blaming, guard_of, network_of, read_card
from palisade.targets.card_page import card_page
from palisade.targets.files import creating
from palisade.targets.generation import generate, next_logits_of
from palisade.targets.guards import Aggregate, Guard, NoGuard, Query
from palisade.targets.guards.probabilities import probabilities
from palisade.targets.record_loss import own_log_probabilities
from palisade.targets.statement import Statement

if TYPE_CHECKING:
    pass


Unknown = Literal["tell", "error"]
AnswerForm = Literal["probabilities", "label", "counts"]
UNKNOWN_POLICIES = ("tell", "error")
SAMPLING_LAW = SamplingLaw()


class Release:
    """A trained model with its preprocessing, its guard and its card. Loading one runs no code from its files.

    Args:
        network: the trained network.
        preprocessing: turns raw rows into inputs.
        card: plain values: classes, recipe, statement, audit.
        guard: what stands before the model.
        state: what the guard learned about the model.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        card: Mapping[str, Any],
        guard: Guard | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.network, self.preprocessing, self.card = network.eval(), preprocessing, card
        self.guard, self.state = guard or NoGuard(), state or {}

    @property
    def statement(self) -> Statement:
        """The privacy claim that stands on the card."""
        return Statement.from_json(self.card["statement"])

    @property
    def classes(self) -> Sequence[str]:
        """The words that class numbers stand for, by number."""
        classes: Sequence[str] = self.card["data"]["classes"]
        return classes

    def predict_proba(self, rows: Any, *, unknown: Unknown = "tell") -> Float[np.ndarray, "records classes"]:
        """Probability of each class for raw rows. A guard may hold some of them back, which then read 0.

        Args:
            rows: an array (records, …), texts, or a table with the columns of the training: a DataFrame, a dict, a list
                of dicts, or the path of a CSV file. A table is read as it was for training: the release's own columns
                say what is a word, a number, or missing.
            unknown: what to do about words that no category has: `tell` warns with their number, `error` refuses them.

        Raises:
            ValueError: if the guard releases no probabilities, or the rows do not fit.
        """
        if self.form != "probabilities":
            instead = "counts" if self.form == "counts" else "predict"
            raise ValueError(
                f"guard={self.guard.name}: expected a guard that releases probabilities; call {instead} instead"
            )
        return self.answer(self._inputs(rows, unknown))

    def predict(self, rows: Any, *, unknown: Unknown = "tell") -> list[str]:
        """The most likely class of each raw row, in the words of the data set.

        Args:
            rows: as `predict_proba` takes them.
            unknown: as there.

        Raises:
            ValueError: if the guard answers about groups only, or the rows do not fit.
        """
        if self.form == "counts":
            raise ValueError(
                f"guard={self.guard.name}: expected a guard that answers about single rows; call counts instead"
            )
        answers = self.answer(self._inputs(rows, unknown))
        return [self.classes[k] for k in (answers if self.form == "label" else answers.argmax(axis=-1))]

    def counts(self, rows: Any, *, unknown: Unknown = "tell") -> Float64[np.ndarray, " classes"]:
        """Number of raw rows in each class, with noise: all that an aggregating release answers.

        Args:
            rows: as `predict_proba` takes them.
            unknown: as there.

        Raises:
            ValueError: if this release does not aggregate, or the rows are too few or do not fit.
        """
        if self.form != "counts":
            raise ValueError(
                f"guard={self.guard.name}: expected aggregate, which adds noise to counts; call predict instead"
            )
        return self.answer(self._inputs(rows, unknown))

    @property
    def form(self) -> AnswerForm:
        """Form of its answers: probabilities of every class, a class, or counts of a group."""
        if isinstance(self.guard, Aggregate):
            return "counts"
        return "label" if self.guard.level == "label" else "probabilities"

    def answer(self, inputs: Real[np.ndarray, "records ..."]) -> Real[np.ndarray, "..."]:
        """The guard's answers about encoded inputs: float32 (records, classes) probabilities, int64 (records,) classes,
        or float64 (classes,) counts of all of them, by `form`.

        Args:
            inputs: as `encode` makes them.

        Raises:
            ValueError: if the guard needs more inputs at once.
        """
        query = Query(inputs, self._logits(inputs), self.state, self._logits)
        if isinstance(self.guard, Aggregate):
            return self.guard.counts(query)
        answers = self.guard.answer(query)
        return probabilities(answers) if self.guard.level == "logits" else answers

    def _inputs(self, rows: Any, unknown: Unknown) -> Real[np.ndarray, "records ..."]:
        if isinstance(self.preprocessing, Sequences):
            raise ValueError(
                "release: expected a classifier, and this one is a language model; call log_probabilities or generate"
            )
        if unknown not in UNKNOWN_POLICIES:
            raise ValueError(f"unknown={unknown}: expected one of {', '.join(UNKNOWN_POLICIES)}; choose e.g. tell")
        inputs, unknown_words = self.encode(rows)
        if unknown_words and unknown == "error":
            raise ValueError(f"rows hold {unknown_words}; correct them, or set unknown=tell")
        if unknown_words:
            warnings.warn(f"rows hold {unknown_words}", UnknownWordsWarning, stacklevel=3)
        return inputs

    def log_probabilities(self, texts: Sequence[str]) -> list[Float64[np.ndarray, "tokens"]]:
        """Log-probability of every token of each text, in nats; −inf where its guard refuses the token, with what that
        leaves shared out among the others. Texts that are longer than this release reads at once come in pieces, each
        read from a beginning of its own.

        Args:
            texts: a list of texts.

        Raises:
            ValueError: if this release is no language model.
        """
        tokens = self._tokens()
        numbers = [tokens.encode(text) for text in texts]
        labels = tokens.pieces(numbers)
        inputs = tokens.inputs_of(labels)
        answers = self.guard.answer(Query(inputs, self._logits(inputs), self.state, self._logits))
        own = own_log_probabilities(torch.from_numpy(answers), torch.from_numpy(labels)).numpy()
        return np.split(own[labels != NO_TOKEN], np.cumsum([len(text) for text in numbers])[:-1])

    def generate(
        self, prompt: str | bytes, tokens: int, seed: int = 0, *, law: SamplingLaw | None = SAMPLING_LAW
    ) -> str:
        """Text that follows a prompt, token by token through the guard; shorter where that refuses every token.

        Args:
            prompt: a text, or its bytes in UTF-8.
            tokens: how many are to follow at most, at least 1.
            seed: of the draws, at least 0: the same one gives the same text.
            law: by which tokens are drawn; None: always the most likely one, whatever the seed.

        Returns:
            The continuation alone; bytes that make no letter are marked.

        Raises:
            ValueError: if this release is no language model, the prompt is no text, a number is out of range, or it
                does not read so many tokens.
        """
        own = self._tokens()
        start = own.encode(_text_of(prompt))
        for name, value, least, example in (("tokens", tokens, 1, 20), ("seed", seed, 0, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value}: expected an integer >= {least}; choose e.g. {example}")
        if (room := own.length - len(start)) < 1:
            raise ValueError(
                f"prompt: expected at most {own.length - 1:,} tokens, not {len(start):,}, since this release reads"
                f" {own.length:,} with what follows; shorten it"
            )
        if tokens > room:
            raise ValueError(
                f"tokens={tokens}: expected at most {room} behind this prompt of {len(start)}, since this release"
                f" reads {own.length} tokens; ask for fewer, or shorten the prompt"
            )
        next_logits = next_logits_of(self._logits, own.begin)
        barrier = self.guard.barrier(self.state)
        (text,) = generate(next_logits, [np.array(start, dtype=np.int64)], tokens, law=law, barrier=barrier, seed=seed)
        return own.decode(text.tolist()).decode("utf-8", "replace")

    def token_laws(
        self, text: str
    ) -> Iterator[tuple[Int64[np.ndarray, "tokens"], Float64[np.ndarray, "tokens vocabulary"]]]:
        """A text's tokens, with log-probabilities of every token in the place of each, in nats.

        They are −inf where the guard refuses. A text that is longer than this release reads at once comes in pieces,
        each read from a beginning of its own.

        Raises:
            ValueError: if this release is no language model.
        """
        own = self._tokens()
        for labels in own.pieces([own.encode(text)]):
            inputs = own.inputs_of(labels[None])
            answers = self.guard.answer(Query(inputs, self._logits(inputs), self.state, self._logits))[0]
            is_token = labels != NO_TOKEN
            yield labels[is_token], log_softmax(answers[is_token].astype(np.float64), axis=-1)

    def _tokens(self) -> Sequences:
        if not isinstance(self.preprocessing, Sequences):
            raise ValueError("release: expected a language model, and this one classifies; call predict_proba instead")
        return self.preprocessing

    def encode(self, rows: Any) -> tuple[Real[np.ndarray, "records ..."], str | None]:
        """The network's inputs of raw rows, and in words how many cells hold a word that no category has, or None."""
        if not isinstance(self.preprocessing, Columns):
            return self.preprocessing(rows), None
        encoded = self.preprocessing.encode(rows)
        return encoded.inputs, unknown_words_line(encoded.unknown)

    def _logits(self, inputs: Real[np.ndarray, "records ..."]) -> Float[np.ndarray, "records classes"]:
        with torch.inference_mode():
            logits: np.ndarray = self.network(torch.from_numpy(inputs)).numpy()
        return logits

    def save(self, folder: Path) -> None:
        """Writes `model.safetensors`, `card.json`, the same to print as `card.html` and, if the guard learned anything,
        `guard.safetensors`, or nothing.

        Raises:
            ValueError: if there is a release already.
        """
        check_unreleased(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with creating(folder) as temporary:
            weights = {name: value.clone().contiguous() for name, value in self.network.state_dict().items()}
            save_file(weights, temporary / "model.safetensors")
            if self.state:
                save_file(dict(self.state), temporary / "guard.safetensors")
            (temporary / "card.json").write_text(json.dumps(self.card, indent=2, allow_nan=False) + "\n")
            (temporary / "card.html").write_text(card_page(self.card), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str, network: Callable[..., nn.Module] | None = None) -> Release:
        """Reads a release.

        Args:
            folder: what `save` wrote.
            network: the class of an own network; those of this project are found by their name.

        Raises:
            ValueError: if a file is damaged, or the card names a network or guard that is not this project's, or does
                not fit the weights.
            FileNotFoundError: if there is no release.
        """
        folder = Path(folder)
        card = read_card(folder)
        weights, guarded = folder / "model.safetensors", folder / "guard.safetensors"
        with blaming(folder):
            step = preprocessing.from_json(card["preprocessing"])
            Statement.from_json(card["statement"])
            module = network_of(card, network, load_file(weights))
            guard, state = guard_of(card["guard"]), load_file(guarded) if guarded.exists() else {}
            if list(step.shape) != card["data"]["shape"]:
                raise ValueError(f"its preprocessing makes {list(step.shape)} of a row, not {card['data']['shape']}")
        return cls(module, step, card, guard, state)


def check_unreleased(folder: Path) -> None:
    """Raises ValueError if there is a release already."""
    if folder.exists():
        raise ValueError(
            f"{folder} is there already and every further release costs privacy anew; "
            "remove it, or choose another place with released=<folder>"
        )


def _text_of(prompt: str | bytes) -> str:
    """A prompt as text; raises ValueError if it is none."""
    try:
        text = prompt.decode("utf-8") if isinstance(prompt, bytes) else prompt
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt: expected UTF-8, and byte {error.start} is none; convert it") from None
    if not isinstance(text, str):
        raise ValueError(f"prompt={prompt}: expected a text; write such as 'Dear'")
    return text
