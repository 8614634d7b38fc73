"""Public sets of short texts: SST-2, as the GLUE benchmark distributes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from palisade.data.files import PublishedFile
from palisade.data.records import Records
from palisade.data.tokens import Tokens

SST2_URL = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"
SST2_ARCHIVE_CHECKSUM = "md5:9f81648d4199384278b86e315dac217c"
SST2_CHECKSUMS = {
    "train.tsv": "md5:da409a0a939379ed32a470bc0f7fe99a",
    "dev.tsv": "md5:268856b487b2a31a28c0a93daaff7288",
}
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
        length: words of a phrase that are used (`Tokens`); the longest has 56.
        buckets: how many numbers stand for words (`Tokens`).
    """

    name: str = "sst2"
    root: str | None = None
    length: int = 64
    buckets: int = 8192

    def load(self) -> Records:
        """Phrases as they were written; those published for testing come last.

        Raises:
            ValueError: if a file is not the published one, or `length` or `buckets` is out of range.
            OSError: if a file cannot be downloaded.
        """
        preprocessing = Tokens(length=self.length, buckets=self.buckets)
        parts = [self._read(name) for name in SST2_CHECKSUMS]
        texts, labels = zip(*(line.split("\t") for part in parts for line in part), strict=True)
        return Records(
            name=self.name,
            rows=np.array(texts, dtype=object),
            labels=np.array(labels).astype(np.int64),
            classes=SST2_CLASSES,
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
