"""Public sets of short texts: SST-2, as the GLUE benchmark distributes it, to classify; AG News for language models."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Literal

import numpy as np

from palisade.data.documents import Vocabulary
from palisade.data.files import PublishedFile
from palisade.data.records import Records
from palisade.data.subwords import BYTES_TOKENS, DEFAULT_VOCABULARY, tokens_of
from palisade.data.tokens import Tokens

SST2_URL = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"
SST2_ARCHIVE_CHECKSUM = "md5:9f81648d4199384278b86e315dac217c"
SST2_CHECKSUMS = {
    "train.tsv": "md5:da409a0a939379ed32a470bc0f7fe99a",
    "dev.tsv": "md5:268856b487b2a31a28c0a93daaff7288",
}
AG_NEWS_FILE = "test.csv"
AG_NEWS_URL = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/test.csv"
AG_NEWS_CHECKSUM = "md5:d52ea96a97a2d943681189a97654912d"
SST2_CLASSES = ("negative", "positive")


@dataclass(frozen=True, kw_only=True)
class SST2:
    """67,349 + 872 phrases of film reviews, negative or positive; the latter part was published for testing.

    Socher et al. 2013, "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", section 3, in
    the form of GLUE (Wang et al. 2019). In the former part, many phrases are parts of the same sentence and 371 stand
    twice, which blurs membership: a model may know a phrase that it was not trained on from one that contains it.
    Attacks then look weaker than on independent texts, and a claim for one phrase is none for a sentence, let alone
    for its author. The file does not say which phrases belong together.

    Args:
        name: of the data set.
        root: folder that holds `train.tsv` and `dev.tsv`, each plain or as `.xz`. What is not there is downloaded once
            from its publisher into the user's cache. Either way its checksum must be the published one.
        length: words of a phrase that are used (`Tokens`); the longest has 56. Of documents, tokens (`Documents`).
        buckets: how many numbers stand for words (`Tokens`).
        tokens: phrases are documents of a language model, such as a public base, and their classes are not used:
            `bytes`, or a folder with `tokenizer.json` (`Documents`). None: phrases are words to be classified.
    """

    name: str = "sst2"
    root: str | None = None
    length: int = 64
    buckets: int = 8192
    tokens: str | None = None

    def load(self) -> Records:
        """Phrases as they were written; those published for testing come last.

        Raises:
            ValueError: if a file is not the published one, or `length` or `buckets` is out of range.
            OSError: if a file cannot be downloaded.
        """
        preprocessing = (
            Tokens(length=self.length, buckets=self.buckets)
            if self.tokens is None
            else tokens_of(self.tokens, length=self.length, new_tokens=0, vocabulary=DEFAULT_VOCABULARY)
        )
        parts = [self._read(name) for name in SST2_CHECKSUMS]
        texts, labels = zip(*(line.split("\t") for part in parts for line in part), strict=True)
        return Records(
            name=self.name,
            rows=np.array(texts, dtype=object),
            labels=np.array(labels).astype(np.int64) if self.tokens is None else None,
            classes=SST2_CLASSES if self.tokens is None else (),
            published=" ".join(SST2_CHECKSUMS.values()),
            preprocessing=preprocessing,
            published_test=np.arange(len(parts[0]), len(texts)),
        )

    def _read(self, name: str) -> list[str]:
        file = PublishedFile(
            name=name,
            checksum=SST2_CHECKSUMS[name],
            url=SST2_URL,
            archive=SST2_ARCHIVE_CHECKSUM,
            member=f"SST-2/{name}",
        )
        return file.read(self.root).decode().split("\n")[1:-1]  # without the header, and what follows the last line


@dataclass(frozen=True, kw_only=True)
class AGNews:
    """7,600 news of 2004, title and description, as documents of a language model; their topics are not used.

    Zhang, Zhao & LeCun 2015, "Character-level Convolutional Networks for Text Classification", section 4: the part that
    was published for testing, from the corpus of A. Gulli. Research and other non-commercial use. News agencies repeat
    themselves: of 31 tokens, one in a hundred shares 13 in a row with one of 200 others.

    Args:
        name: of the data set.
        root: folder that holds `test.csv`, plain or as `.xz`; None downloads it once (see `SST2`).
        length: tokens of a document that are read (`Documents`); the median has 231 bytes.
        tokens: `bytes`, `bpe`, or a folder with `tokenizer.json` (`Documents`).
        vocabulary: entries of `bpe` at most.
        new_tokens: entries of the vocabulary that no text has.
        half: every second news from the first or the second on, so that a base can be trained on the other ones; None:
            all.
    """

    name: str = "ag_news"
    root: str | None = None
    length: int = 128
    tokens: str = BYTES_TOKENS
    vocabulary: Vocabulary = DEFAULT_VOCABULARY
    new_tokens: int = 0
    half: Literal["first", "second"] | None = None

    def load(self) -> Records:
        """News as they were written, a blank between title and description.

        Raises:
            ValueError: if the file is not the published one, or `length` or `new_tokens` is out of range.
            OSError: if the file cannot be downloaded.
        """
        preprocessing = tokens_of(
            self.tokens, length=self.length, new_tokens=self.new_tokens, vocabulary=self.vocabulary
        )
        file = PublishedFile(name=AG_NEWS_FILE, checksum=AG_NEWS_CHECKSUM, url=AG_NEWS_URL)
        rows = csv.reader(file.read(self.root).decode().splitlines())
        texts = [f"{title} {description}".replace("\\", " ") for _, title, description in rows]
        if self.half is not None:
            texts = texts[self.half == "second" :: 2]
        return Records(
            name=self.name,
            rows=np.array(texts, dtype=object),
            labels=None,
            published=AG_NEWS_CHECKSUM,
            preprocessing=preprocessing,
        )
