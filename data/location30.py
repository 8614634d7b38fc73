"""Location30: which of 446 places a person visited, and the person's type; a task that leaks membership readily."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

import numpy as np

from palisade.data.files import PublishedFile
from palisade.data.preprocessing import Scale
from palisade.data.records import Records

ARCHIVE_FILE = "dataset_location.tgz"
ARCHIVE_MEMBER = "bangkok"
LOCATION30_URL = f"https://github.com/privacytrustlab/datasets/raw/master/{ARCHIVE_FILE}"
LOCATION30_SHA256 = "927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33"
LOCATION30_FEATURES = 446
LOCATION30_CLASSES = 30


@dataclass(frozen=True, kw_only=True)
class Location30:
    """5,010 people of Bangkok, 446 places visited or not, 30 classes of 97 to 308 people.

    Shokri, Stronati, Song & Shmatikov, "Membership Inference Attacks Against Machine Learning Models", 2017,
    section VI-A, from the Foursquare check-ins of Yang, Zhang & Qu, 2016. It describes real people.

    Args:
        name: of the data set.
        root: folder that holds `dataset_location.tgz`. If None, or if the file is not there, it is downloaded once
            from its publisher into the user's cache. Either way its checksum must be the published one.
    """

    name: str = "location30"
    root: str | None = None

    def load(self) -> Records:
        """Rows of 446 zeros and ones, classes "1" to "30".

        Raises:
            ValueError: if the file is not the published one.
            OSError: if it cannot be downloaded.
        """
        content = PublishedFile(name=ARCHIVE_FILE, checksum=f"sha256:{LOCATION30_SHA256}", url=LOCATION30_URL).read(
            self.root
        )
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            table = np.loadtxt(archive.extractfile(ARCHIVE_MEMBER) or [], delimiter=",", quotechar='"', dtype=np.uint8)
        return Records(
            name=self.name,
            rows=table[:, 1:],
            labels=table[:, 0].astype(np.int64) - 1,
            classes=tuple(str(number + 1) for number in range(LOCATION30_CLASSES)),
            published=f"sha256:{LOCATION30_SHA256}",
            preprocessing=Scale(shape=(LOCATION30_FEATURES,)),
        )
