"""Work items for machines that share no folder: what they read travels with them, what they write travels back.

Where an item names the folder of a run, a worker gets a copy of it in a place of its own; everything of a run but its
secrets is in the copy. What differs there after the item has run is written into the run itself, whole or not at all.
"""

from __future__ import annotations

import io
import os
import pickle
import platform
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from palisade.data.dataset import Dataset, shipped
from palisade.data.derived import DerivedKeys, KeyQuestion
from palisade.data.secret import Secret, standing_in
from palisade.targets.checkpoints import written_together
from palisade.targets.device import DEVICE_VARIABLE
from palisade.targets.digests import DIGEST_SUFFIX, WEIGHTS_SUFFIX, write_weights
from palisade.targets.engines import worker
from palisade.targets.files import PART_PREFIX, naming, replacing
from palisade.targets.progress import LOG_FILE, WorkerNotes

SECRET_PATH = Path("private") / "secret"
"""File of the secret in the folder of a run."""
RELEASE_SECRET_PATH = Path("private") / "release_secret"
"""File of the secret of a run's release, which is that of the run if both were given the same text."""
STATE_FILES = (SECRET_PATH, RELEASE_SECRET_PATH, Path(LOG_FILE), Path(".lock"), Path(".readers"))
"""Files that never travel: secrets, and what belongs to processes of the run's own machine."""

Content = Mapping[Path, bytes]
"""Files of a run by their paths in its folder."""


def packed(folder: Path) -> dict[Path, bytes]:
    """All files of a run but its secrets."""
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    inside = {path.relative_to(folder): path for path in files}
    return {short: path.read_bytes() for short, path in inside.items() if _travels(short)}


def unpacked(folder: Path, content: Content) -> None:
    """Writes the files of a run into an empty folder, which its owner alone may enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("private", "models"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    for short, file in content.items():
        (folder / short).parent.mkdir(parents=True, exist_ok=True)
        if short.suffix != WEIGHTS_SUFFIX:
            (folder / short).write_bytes(file)
    for short, file in content.items():
        if short.suffix == WEIGHTS_SUFFIX:
            write_weights(folder / short, file)  # with a digest for the time of this file


@dataclass(frozen=True)
class Changes:
    """Differences of a copy of a run after an item has run.

    Args:
        written: files that are new or other ones.
        removed: files that are gone.
    """

    written: Content = field(default_factory=dict)
    removed: Sequence[Path] = ()

    @classmethod
    def since(cls, folder: Path, content: Content) -> Changes:
        """Changes of a folder that held this content."""
        now = packed(folder)
        written = {path: file for path, file in now.items() if content.get(path) != file and not _follows(path, now)}
        return cls(written, [path for path in content if path not in now])

    def apply(self, folder: Path) -> None:
        """Writes them into the run itself: every file whole, and the models of a stack all or none."""
        models = sorted({int(path.name.split(".")[0]) for path in self.written if path.match("models/[0-9]*")})
        with written_together(folder, models) if models else nullcontext():
            for short, file in self.written.items():
                path = folder / short
                path.parent.mkdir(parents=True, exist_ok=True)
                if short.suffix == WEIGHTS_SUFFIX:
                    write_weights(path, file)
                    continue
                with replacing(path) as temporary:
                    temporary.write_bytes(file)
        for short in self.removed:
            (folder / short).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A work item on its way to another machine, besides the files and data that it reads.

    Args:
        work: function and item, as `pickled` gives them.
        names: of the runs that they name, by their numbers.
        user_chosen: whether a person chose the secrets of these runs.
        data_settings: of the data sets that travel along.
        device: to train on.
    """

    work: bytes
    names: Mapping[int, str]
    user_chosen: Mapping[int, bool]
    data_settings: Sequence[str]
    device: str

    def carried_out(
        self, ask: Callable[[int, KeyQuestion], bytes], files: Sequence[Content], datasets: Sequence[Dataset]
    ) -> bytes:
        """Runs the item on copies of the runs; what came of it and its `Changes` by run, as `pickled` gives them.

        Args:
            ask: gives keys that follow from the secret of the run of a number.
            files: of every run.
            datasets: in the order of their settings.
        """
        os.environ[DEVICE_VARIABLE] = self.device
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # shipped data are only read
        contents = dict(zip(self.names, files, strict=True))
        node = platform.node()  # for errors that name a file: it lies there
        with tempfile.TemporaryDirectory(prefix=f"palisade-{node}-", ignore_cleanup_errors=True) as root:
            folders = {number: Path(root, str(number), name) for number, name in self.names.items()}
            with naming(Path(root)):
                for number, folder in folders.items():
                    unpacked(folder, contents[number])
            keys: dict[Path, Secret] = {
                folder / SECRET_PATH: DerivedKeys(partial(ask, number), user_chosen=self.user_chosen[number])
                for number, folder in folders.items()
            }
            with standing_in(keys), shipped(dict(zip(self.data_settings, datasets, strict=True))):
                function, item = loaded(self.work, folders)
                outcome = worker.outcome(function, item, WorkerNotes())
            changes = {number: Changes.since(folder, contents[number]) for number, folder in folders.items()}
            return pickled((outcome, changes), folders)[0]


def _travels(short: Path) -> bool:
    return short not in STATE_FILES and not short.name.startswith(PART_PREFIX)


def _follows(short: Path, content: Content) -> bool:
    """True of the digest of weights that are there: it holds the time of its own machine's file."""
    name = short.name.removesuffix(DIGEST_SUFFIX)
    return name != short.name and short.with_name(f"{name}{WEIGHTS_SUFFIX}") in content


class _Places(pickle.Pickler):
    """Pickles values in which folders, and paths below them, stand for whatever takes their place elsewhere."""

    def __init__(self, file: io.BytesIO, folders: Mapping[int, Path]) -> None:
        super().__init__(file)
        self.folders = {number: str(folder) for number, folder in folders.items()}
        self.named: set[int] = set()

    def persistent_id(self, value: Any) -> tuple[int, str, bool] | None:
        """The number of a folder and what stands below it; None for all other values."""
        if not isinstance(value, str | Path):
            return None
        text = str(value)
        for number, folder in self.folders.items():
            if text == folder or text.startswith(f"{folder}/"):
                self.named.add(number)
                return number, text[len(folder) + 1 :], isinstance(value, str)
        return None


class _Elsewhere(pickle.Unpickler):
    """Puts other folders into those places."""

    def __init__(self, file: io.BytesIO, folders: Mapping[int, Path]) -> None:
        super().__init__(file)
        self.folders = folders

    def persistent_load(self, pid: tuple[int, str, bool]) -> str | Path:
        """The path that `_Places.persistent_id` stands for."""
        number, below, is_text = pid
        path = self.folders[number] / below
        return str(path) if is_text else path


def pickled(work: Any, folders: Mapping[int, Path]) -> tuple[bytes, list[int]]:
    """Values without the places of folders, and the numbers of those that they name."""
    file = io.BytesIO()
    pickler = _Places(file, folders)
    pickler.dump(work)
    return file.getvalue(), sorted(pickler.named)


def loaded(work: bytes, folders: Mapping[int, Path]) -> Any:
    """Values with these folders in those places."""
    return _Elsewhere(io.BytesIO(work), folders).load()
