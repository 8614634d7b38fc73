"""Subwords as tokens of documents: byte pairs that are fitted to texts, or a tokenizer from a file (extra `lm`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from palisade.data.sequences import BEGIN_TOKEN, ByteTokens, Sequences
from palisade.data.settings import place
from palisade.fields import Count

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE, MODEL_FILE = "tokenizer.json", "config.json"
TOKENS_FILE = Path("private") / "tokens.json"
"""File in which a run keeps the tokens that its documents were cut into, which may have been fitted to them."""
BEGIN_WORD = "<|begin|>"
MIN_PAIR_COUNT = 10
"""Pairs that occur more seldom in the texts become no token: a rare name would stand in the vocabulary."""
BYTES_TOKENS, PAIRS_TOKENS = "bytes", "bpe"
DEFAULT_VOCABULARY = 2048
"""Entries of byte pairs at most, unless a setting says otherwise."""
TextStatistics = Literal["file", "reference", "private"]
REASONS_OF_STATISTICS: Mapping[str, str | None] = {
    "file": None,
    "reference": "the vocabulary: subwords of reference records, counted without noise: ε does not cover it",
    "private": "the vocabulary: subwords of the pool, counted without noise: ε does not cover it; set"
    " split.reference=0.1, or data.tokens=bytes",
}


@dataclass(frozen=True, kw_only=True)
class SubwordTokens(Sequences):
    """Tokens of a tokenizer of the library `tokenizers`.

    Words that mark something in a tokenizer are read as any others where they stand in a text.

    Args:
        content: the tokenizer, as its JSON.
        begin: number of the token that begins a document.
        entries: size of the vocabulary, which a model may have made larger than the tokenizer needs.
        statistics: `file`: from a public file. `reference` or `private`: fitted to these records.
    """

    kind: ClassVar[str] = "subwords"
    content: str
    begin: int = BEGIN_TOKEN
    entries: Count
    statistics: TextStatistics

    @property
    def not_covered(self) -> str | None:
        """Sentence on a vocabulary that texts were counted for; None where it is public."""
        return REASONS_OF_STATISTICS[self.statistics]

    @property
    def text_tokens(self) -> int:
        """Size of the vocabulary without the entries that no text has."""
        return self.entries

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself.

        Raises:
            ValueError: if `tokenizers` is not installed.
        """
        tokenizer: Tokenizer = library().Tokenizer.from_str(self.content)
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any that a tokenizer would put around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The text of tokens; bytes that make no letter are marked."""
        known = self.tokenizer.get_vocab_size()
        text: str = self.tokenizer.decode([token for token in tokens if token < known], skip_special_tokens=False)
        return text.encode()

    def offsets(self, text: str) -> list[int]:
        """Place at which each token begins, as the tokenizer says."""
        return [start for start, _ in self.tokenizer.encode(text, add_special_tokens=False).offsets]

    def to_json(self) -> dict[str, Any]:
        """Plain values from which a release restores the preprocessing."""
        names = ("length", "new_tokens", "content", "begin", "entries", "statistics")
        return {"kind": self.kind, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SubwordTokens:
        """The preprocessing that `to_json` described."""
        names = ("length", "new_tokens", "content", "begin", "entries", "statistics")
        return cls(**{name: content[name] for name in names})


@dataclass(frozen=True, kw_only=True)
class UnfittedSubwords:
    """Byte pairs before they are fitted (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
    Units", on bytes).

    Args:
        length: T.
        new_tokens: entries of the vocabulary that no text has.
        vocabulary: entries at most, 257 of which are bytes and the beginning.
    """

    length: int
    new_tokens: int
    vocabulary: int

    def fit(self, texts: Sequence[str], statistics: TextStatistics) -> SubwordTokens:
        """The most frequent pairs of texts, joined one after the other."""
        tokenizers = library()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            min_frequency=MIN_PAIR_COUNT,
            special_tokens=[BEGIN_WORD],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return SubwordTokens(
            length=self.length,
            new_tokens=self.new_tokens,
            content=tokenizer.to_str(),
            entries=tokenizer.get_vocab_size(),
            statistics=statistics,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the digest of the records."""
        return {"kind": PAIRS_TOKENS, **vars(self)}


TokensOfTexts = ByteTokens | SubwordTokens | UnfittedSubwords
"""Tokens of documents, fitted or not."""


def tokens_of(tokens: str, *, length: int, new_tokens: int, vocabulary: int = 0) -> TokensOfTexts:
    """The tokens that a setting names.

    Args:
        tokens: `bytes`, `bpe`, or a folder: of a run, or with `tokenizer.json`, of a model of Hugging Face's form.
        length: T.
        new_tokens: entries of the vocabulary that no text has.
        vocabulary: of `bpe`.

    Raises:
        ValueError: if it is none of them, or what it needs is not installed.
    """
    if tokens == BYTES_TOKENS:
        return ByteTokens(length=length, new_tokens=new_tokens)
    if tokens == PAIRS_TOKENS:
        library()
        return UnfittedSubwords(length=length, new_tokens=new_tokens, vocabulary=vocabulary)
    folder = place("data.tokens", tokens)
    if (folder / TOKENS_FILE).is_file():
        return _of_run(folder, length=length, new_tokens=new_tokens)
    if not (folder / TOKENIZER_FILE).is_file():
        raise ValueError(
            f"data.tokens={tokens}: expected bytes, bpe, or a folder with {TOKENIZER_FILE} or of a run on documents;"
            " choose e.g. bytes"
        )
    return _of_folder(folder, length=length, new_tokens=new_tokens)


def _of_run(folder: Path, *, length: int, new_tokens: int) -> ByteTokens | SubwordTokens:
    """The tokens of a run on other, public documents."""
    content = json.loads((folder / TOKENS_FILE).read_text(encoding="utf-8"))
    own = {**content, "length": length, "new_tokens": new_tokens, "statistics": "file"}
    return (ByteTokens if content["kind"] == ByteTokens.kind else SubwordTokens).from_json(own)


def same_tokens(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if tokens, described by `to_json`, cut texts alike and have the same numbers."""
    return all(one.get(key) == other.get(key) for key in ("kind", "content", "begin"))


def _of_folder(folder: Path, *, length: int, new_tokens: int) -> SubwordTokens:
    content = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    known = (folder / MODEL_FILE).is_file()
    model: Mapping[str, Any] = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8")) if known else {}
    begins = [number for key in ("bos_token_id", "eos_token_id") if isinstance(number := model.get(key), int)]
    return SubwordTokens(
        length=length,
        new_tokens=new_tokens,
        content=content,
        begin=begins[0] if begins else BEGIN_TOKEN,
        entries=max(library().Tokenizer.from_str(content).get_vocab_size(), int(model.get("vocab_size") or 0)),
        statistics="file",
    )


def library() -> Any:
    """The library `tokenizers`.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            "data.tokens=bpe: expected the library tokenizers for subwords; pip install -e '.[lm]', or set"
            " data.tokens=bytes"
        ) from None
    return tokenizers
