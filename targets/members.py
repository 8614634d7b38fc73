"""Members of a run or a release: the rows that it was trained on, in its private folder, for one's own audit.

`palisade members run=runs/people/mlp-none-1a2b3c4d`, or `run=released/people-mlp-none`; `root=` says where else than in
`runs/` the runs are kept, which a release is traced back to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from palisade.data.records import Source
from palisade.data.settings import instantiated
from palisade.data.table import Table
from palisade.data.table_reader import write_table
from palisade.targets.files import replacing
from palisade.targets.run import Run
from palisade.targets.shipped import run_of

MEMBERS_USAGE = "palisade members run=<folder of a run or a release> [root=<folder of runs>]"
DEFAULT_ROOT = "runs"


def write_members(folder: Path, root: Path) -> tuple[Path, int]:
    """Writes the rows of the pool that a run, or a release, was trained on: `members.csv` of a table as its file has
    them, `members.npz` of arrays with `x`, `y` and, where they are known, `persons`. Only their owner can read them.

    Args:
        folder: of a run or of a release; what is written goes to its `private/`.
        root: where runs are kept.

    Returns:
        The file, and the number of its rows: of a release the whole pool, of a run what any of its models was trained
        on; canaries, which stand in no file, are left out.

    Raises:
        ValueError: if it is neither, the run of a release is gone, or the data have changed.
    """
    is_release = (folder / "card.json").is_file()
    run = run_of(folder, root) if is_release else Run.existing(folder)
    split = run.dataset.split
    used = np.ones(len(split.pool), dtype=bool) if is_release else run.membership().any(axis=0)
    records = split.pool[used & ~np.isin(split.pool, split.canaries)]
    private = folder / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    source: Any = instantiated("data", run.config["data"], Source)
    if isinstance(source, Table):
        path = private / "members.csv"
        with replacing(path) as temporary, _private(temporary).open("w", encoding="utf-8", newline="") as file:
            file.write(write_table(source.read_rows().iloc[records]))
    else:
        path = private / "members.npz"
        with replacing(path) as temporary, _private(temporary).open("wb") as file:
            np.savez_compressed(file, **_arrays(source, records))
    return path, len(records)


def _arrays(source: Source, records: Int64[np.ndarray, " members"]) -> dict[str, Any]:
    loaded = source.load()
    rows = np.asarray(loaded.rows)[records]
    arrays: dict[str, Any] = {"x": rows.astype(str) if rows.dtype.hasobject else rows}
    if loaded.labels is not None:  # documents are of no class
        arrays["y"] = loaded.labels[records]
    return arrays if loaded.persons is None else arrays | {"persons": loaded.persons[records]}


def _private(path: Path) -> Path:
    """An empty file that its owner alone can read."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    return path


def main(words: Sequence[str] | None = None) -> None:
    """The command `palisade members`.

    Raises:
        ValueError: for other words, or a folder that is neither a run nor a release.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    asked = sys.argv[1:] if words is None else list(words)
    overrides = OverridesParser.create().parse_overrides([word for word in asked if "=" in word])
    if asked in (["--help"], ["-h"]):
        print(MEMBERS_USAGE)
        return
    options = {each.key_or_group: str(each.value()) for each in overrides}
    if len(overrides) < len(asked) or "run" not in options or set(options) - {"run", "root"}:
        raise ValueError(f"{' '.join(asked) or 'no run'}: expected run=<folder>; {MEMBERS_USAGE}")
    path, rows = write_members(Path(options["run"]), Path(options.get("root", DEFAULT_ROOT)))
    print(
        f"{path}: {rows:,} rows, for your own audit; whoever has this file knows who was in: remove it before the"
        " folder goes to anybody else"
    )
