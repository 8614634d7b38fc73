"""Releases: the one model that is meant for use, with a card that says what is claimed for it and what is not."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Real
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax
from torch import Tensor, nn

from palisade.data import preprocessing
from palisade.data.columns import Columns, UnknownWordsWarning, unknown_words_line
from palisade.data.dataset import from_config
from palisade.data.preprocessing import Preprocessing
from palisade.data.secret import Secret
from palisade.data.sequences import NO_TOKEN, Sequences
from palisade.data.split import Membership
from palisade.sampling import SamplingLaw
from palisade.targets import versions
from palisade.targets.base_model import on_card
from palisade.targets.card import blaming, guard_of, network_of, read_card
from palisade.targets.card_page import card_page
from palisade.targets.files import creating, replacing
from palisade.targets.guards import Aggregate, Guard, NoGuard, Query
from palisade.targets.guards.ngram_filter import generate
from palisade.targets.guards.probabilities import probabilities
from palisade.targets.guards.registry import GUARDS_BY_NAME, check_guard, label, make_guard
from palisade.targets.record_loss import token_rows
from palisade.targets.run import Run
from palisade.targets.statement import INFINITY_TEXT, Statement

if TYPE_CHECKING:
    from palisade.targets.fleet import Fleet

CARD_LIBRARIES = ("torch", "opacus", "pytorch-lightning", "numpy")
AUDIT_NOTE = (
    "Measured by attacking a fleet of models trained by the same recipe on random parts of the same pool, not this "
    "model itself, which was trained on the whole pool. A weak attack is no proof of privacy."
)
AUDIT_NOT_COVERED = (
    "the audit on the card: it was measured on the private records, which rounding its numbers to three digits does not"
    " hide"
)
ACCESS_KINDS = ("api", "weights")
GUARD_NOTE = (
    "It stands between the model and those who query it, hence exists only while nobody else holds these files; if the "
    "weights leak, it protects nothing. The statement is about its answers."
)
COST_NOTE = (
    "The statement covers this one release; m releases from the same records cost up to m times its ε and m times"
    " its δ."
)


Unknown = Literal["tell", "error"]
AnswerForm = Literal["probabilities", "label", "counts"]
UNKNOWN_POLICIES = ("tell", "error")


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
            raise ValueError("release: expected a classifier, and this one is a language model; call log_probabilities")
        if unknown not in UNKNOWN_POLICIES:
            raise ValueError(f"unknown={unknown}: expected one of {', '.join(UNKNOWN_POLICIES)}; choose e.g. tell")
        inputs, unknown_words = self.encode(rows)
        if unknown_words and unknown == "error":
            raise ValueError(f"rows hold {unknown_words}; correct them, or set unknown=tell")
        if unknown_words:
            warnings.warn(f"rows hold {unknown_words}", UnknownWordsWarning, stacklevel=3)
        return inputs

    def log_probabilities(self, texts: Sequence[str]) -> list[Float64[np.ndarray, "tokens"]]:
        """Log-probability of every token of each text, in nats, as far as the release reads it.

        Args:
            texts: a list of texts.

        Raises:
            ValueError: if this release is no language model.
        """
        tokens = self._tokens()
        labels = tokens.labels(texts)
        rows = token_rows(torch.from_numpy(self._logits(tokens.inputs_of(labels))), torch.from_numpy(labels))
        return [own[~np.isnan(own)].astype(np.float64) for own in rows["log_probability"]]

    def generate(self, prompt: str, tokens: int, seed: int = 0) -> str:
        """Text that follows a prompt, without it, drawn by the model's own law.

        Args:
            prompt: a text.
            tokens: how many are to follow at most, at least 1.
            seed: of the draws, at least 0: the same one gives the same text.

        Raises:
            ValueError: if this release is no language model, or does not read so many tokens.
        """
        own = self._tokens()
        start = np.array([own.begin, *own.encode(prompt)], dtype=np.int64)
        if len(start) + tokens > own.length + 1:
            raise ValueError(f"tokens={tokens}: expected at most {own.length} with the prompt; ask for fewer")
        text = generate(lambda text: self._logits(text[None])[0, -1], start, tokens, law=SamplingLaw(), seed=seed)
        return own.decode(text.tolist()).decode("utf-8", "replace")

    def token_laws(self, texts: Sequence[str]) -> Iterator[Float64[np.ndarray, "tokens vocabulary"]]:
        """Log-probabilities of every token in the place of each of a text's own, in nats; −inf where the guard refuses.

        Raises:
            ValueError: if this release is no language model.
        """
        own = self._tokens()
        for labels in own.labels(texts):
            inputs = own.inputs_of(labels[None])
            answers = self.guard.answer(Query(inputs, self._logits(inputs), self.state, self._logits))[0]
            yield log_softmax(answers[labels != NO_TOKEN].astype(np.float64), axis=-1)

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
            weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
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


def ship_run(settings: Mapping[str, Any]) -> Path:
    """Trains the release of the run `ship` behind the guard that was chosen; returns its folder.

    Raises:
        ValueError: if there is no such run, it has canaries, it was not attacked behind this guard (unless
            `ship_unaudited`), or a release of it is there already.
    """
    run = Run.existing(Path(settings["ship"]))
    if run.config.get("canary"):
        raise ValueError(f"ship={run.folder}: expected a run without canaries, which no release may hold; ship another")
    secret = Secret.from_system() if settings["secret"] is None else Secret.from_text(str(settings["secret"]))
    guard, named = make_guard(settings), run.config["names"]
    check_guard(guard, len(run.dataset.classes))
    attacked = Run(run.folder, label(guard))
    if not (audit := attacked.audit()) and not settings["ship_unaudited"]:
        raise ValueError(
            f"ship={run.folder}: expected a run that was attacked behind guard={guard.name}, or its card would hold no"
            " audit; call evaluate.py first (train.py … guard=… puts a run behind a guard), or set ship_unaudited=true"
        )
    released = Path(settings["released"]) / f"{run.dataset.name}-{named['network']}-{named['defense']}"
    others = [released.with_name(f"{released.name}-{name}") for name in GUARDS_BY_NAME if name != "none"]
    for place in (released, *others):
        check_unreleased(place)  # the same records behind another guard are a further release
    folder = released if guard.name == "none" else released.with_name(f"{released.name}-{guard.name}")
    with replacing(run.folder / "private" / "release_secret") as temporary:
        secret.save(temporary)
    config = {**run.config, **{key: settings[key] for key in ("guard", "release", "verbose")}}
    ship(config, audit, secret, of=run.statement).save(folder)
    return folder


def ship(
    config: Mapping[str, Any], audit: Sequence[Mapping[str, Any]], secret: Secret, *, of: Statement | None = None
) -> Release:
    """Trains a release: one model on the whole pool by a run's recipe, with N = pool and σ calibrated anew.

    Args:
        config: the run's configuration; `guard` puts a guard before the model, and `release.access` says who will hold
            the files: nobody else (api, the default) or whoever asks for them (weights).
        audit: what was measured on the run's fleet, one mapping per number.
        secret: fixes initial weights, batches and noise of this one model, and the key of its guard.
        of: the claim of the models that were attacked.

    Raises:
        ValueError: if the weights were to be handed out beside a guard, or `release.access` is unknown.
    """
    from palisade.targets.training import complete_statement, make_fitter, recipe_digest

    guard, access = make_guard(config) if "guard" in config else NoGuard(), access_of(config)
    if access == "weights" and not isinstance(guard, NoGuard):
        raise ValueError(
            f"release.access=weights: expected api with guard={guard.name}, which protects a model that nobody else"
            " holds; choose it, or guard=none"
        )
    on_card(config["network"])  # what cannot be shipped is refused before it is trained
    dataset = from_config(config)
    for role in sorted(guard.roles):
        dataset.split.require(role, who=f"guard={guard.name}")
    everything = Membership(how="fixed", share=1.0)
    fitter = make_fitter(
        {**config, "fleet": {"at_once": 1}},
        dataset,
        secret,
        models=[0],
        membership=everything,
    )
    fitter = replace(fitter, defense=fitter.defense.for_release(), purpose=f"release {recipe_digest(config)}")
    fleet: Fleet = fitter.defense.fit(fitter, dataset.split, everything.draw(dataset.split, [0], secret))
    state = guard.fit(fleet, dataset.split.pool, fitter, dataset.split)
    fleet.network.load_state_dict(fleet.states[0])
    claim = guard.statement_after(complete_statement(fitter, fleet), dataset)
    if audit and dataset.published is None:
        claim = claim.leaving_out(AUDIT_NOT_COVERED)
    target, *settings = on_card(config["network"]).items()
    note = None if isinstance(guard, NoGuard) else " ".join(filter(None, (GUARD_NOTE, guard.note)))
    card = {
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "shape": list(dataset.shape),
            "records": len(dataset.split.pool),
            "persons": None if dataset.split.persons is None else len(np.unique(dataset.split.persons)),
            "checksum": dataset.published or f"hmac-sha256:{secret.seal(dataset.fingerprint.encode())}",
        },
        # Where weights were read from is a place on this machine, and the release holds them all.
        "network": {"name": target[1], "settings": {key: value for key, value in settings if key != "path"}},
        "defense": {
            "name": config["names"]["defense"],
            **{key: _plain(value) for key, value in config["defense"].items() if key != "_target_"},
        },
        "guard": {"name": guard.name, "settings": asdict(guard), "note": note},
        "access": access,
        "recipe": asdict(fitter.recipe),
        "base_recipes": [asdict(recipe) for recipe in fitter.base_recipes],
        "preprocessing": dataset.preprocessing.to_json(),
        "statement": claim.to_json(),
        "cost": COST_NOTE,
        "audit": {"note": AUDIT_NOTE + _other_delta(claim, of), "results": list(audit)},
        "versions": versions(CARD_LIBRARIES),
    }
    return Release(fleet.network, dataset.preprocessing, card, guard, state)


def _other_delta(claim: Statement, attacked: Statement | None) -> str:
    """The sentence that the attacked models claim another δ; empty where they do not."""
    if attacked is None or not (claim.guarantee and attacked.guarantee) or claim.delta == attacked.delta:
        return ""
    return (
        f" Their claim is at δ = {attacked.delta:.3g}, that of this release at δ = {claim.delta:.3g}: each follows from"
        " the number of records that a model is trained on."
    )


def _plain(value: Any) -> Any:
    """A value for strict JSON, which knows no infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return INFINITY_TEXT if value == math.inf else value


def access_of(config: Mapping[str, Any]) -> str:
    """Access to a release: `api` if nobody else holds its files, `weights` if whoever asks for them does.

    Raises:
        ValueError: if `release.access` is unknown.
    """
    access: str = (config.get("release") or {}).get("access", "api")
    if access not in ACCESS_KINDS:
        raise ValueError(f"release.access={access}: expected one of {', '.join(ACCESS_KINDS)}; choose e.g. api")
    return access
