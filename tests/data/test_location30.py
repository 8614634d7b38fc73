from pathlib import Path

import numpy as np
import pytest

from palisade.data import location30
from palisade.data.location30 import ARCHIVE_FILE, Location30

LOCATION30_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "location30"
real = pytest.mark.skipif(
    not (LOCATION30_FOLDER / ARCHIVE_FILE).is_file(), reason=f"{ARCHIVE_FILE} is not under ../shared/data/location30"
)


@real
def test_the_published_file():
    records = Location30(root=str(LOCATION30_FOLDER)).load()
    assert records.rows.shape == (5010, 446) and set(np.unique(records.rows)) == {0, 1}
    counts = np.bincount(records.labels)
    assert len(counts) == len(records.classes) == 30 and (counts.min(), counts.max()) == (97, 308)
    assert records.classes[records.labels[0]] == "13" and records.classes[0] == "1"
    assert records.preprocessing(records.rows).dtype == np.float32
    assert records.published == f"sha256:{location30.LOCATION30_SHA256}"


@real
def test_download_once(publisher, monkeypatch):
    monkeypatch.setattr(location30, "LOCATION30_URL", f"{publisher.url}/{ARCHIVE_FILE}")
    (publisher.folder / ARCHIVE_FILE).write_bytes((LOCATION30_FOLDER / ARCHIVE_FILE).read_bytes())
    first = Location30().load()
    (publisher.folder / ARCHIVE_FILE).unlink()
    assert Location30(root=str(publisher.folder)).load().fingerprint() == first.fingerprint()


def test_another_file_in_the_folder(tmp_path):
    (tmp_path / ARCHIVE_FILE).write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=r"has sha256 f41f3fa625ff…, the published file has 927203f85a86…; delete it"
    ) as error:
        Location30(root=str(tmp_path)).load()
    assert "\n" not in str(error.value)
