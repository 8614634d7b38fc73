"""Room for large arrays among the temporary files."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from palisade.attacks.parts import blocks
from palisade.commandline import one_line


def test_a_full_folder_of_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", 4)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert blocks.room((5,)).shape == (5,) and isinstance(blocks.room((5,)).base, np.memmap)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as refused:
        blocks.room((5,))
    assert one_line(refused.value).startswith(f"{tmp_path}: No space left on device; ")
    assert blocks.room((4,)).shape == (4,)
