"""Forgetting a run: everything that it holds of the records goes, and nothing half removed looks complete.

`make forget run=runs/digits/mlp-none-1a2b3c4d`, or `python -m evaluation.forget run=<folder> [root=runs]`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from commandline import call
from evaluation.runs import Run, canonical
from evaluation.trials import COUNTED, TRIALS
from evaluation.tuning import CLAIMED, MAY_TUNE

FORGOTTEN = ".forgotten-"
"""What the name of a run begins with while it is being removed."""
SHARED = ("data", "split", "membership", "seed", "names", "canary")
"""What a run has in common with the trials that it was tuned by."""


def forget(folder: Path, root: Path) -> str:
    """Removes a run: its models, signals and findings, its secret, and the trials that it was tuned by.

    First it stops being complete, then its folder gets another name, then it is removed, the secret before all else:
    whenever this is interrupted, nothing half removed is taken for a run, and the same command again removes the rest.

    Args:
        folder: of the run.
        root: where runs are kept; nothing elsewhere is removed.

    Returns:
        One line: what was removed, and what remains elsewhere.

    Raises:
        ValueError: if the folder is no run of `root`, or another process is at work on it.
    """
    check_inside(folder, root)
    started = folder.with_name(f"{FORGOTTEN}{folder.name}")
    if not is_run(folder) and not started.is_dir():
        raise ValueError(f"run={folder} is no run; give a folder that train.py printed")
    remains, trials = [], []
    if is_run(folder):
        remains = list(elsewhere(Run(folder)))
        trials = [trial for trial in trials_of(Run(folder), root) if is_run(trial)]
    held = sum(1 for each in (folder, started, *trials) for _ in each.glob("models/[0-9]*.safetensors"))
    for each in (*trials, folder):  # the run last: it knows which trials are its own
        _remove(each)
    tuned = f" and {len(trials)} trials" if trials else ""
    rest = f"; what remains elsewhere: {', '.join(remains)}" if remains else "; nothing else names it"
    return f"removed {folder}{tuned}: {held} models, signals, findings, secret and log{rest}"


def check_inside(folder: Path, root: Path) -> None:
    """Raises ValueError if a folder is none of the runs that are kept under a root, wherever links lead."""
    real = folder.resolve()
    if folder.is_symlink() or real.parent.parent not in (root.resolve(), root.resolve() / TRIALS):
        raise ValueError(
            f"run={folder} does not lie in {root}/<data>/; give root=<folder of runs> if they are elsewhere"
        )


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, whole or not."""
    return (folder / "config.yaml").is_file() and (folder / "private" / "secret").is_file()


def trials_of(run: Run, root: Path) -> list[Path]:
    """The trials that a run may have been tuned by: of the same records and claim, whatever else was tried."""
    config = _config(run.folder)
    if not _tuned(config.get("defense")):
        return []
    folders = sorted((root / TRIALS / run.folder.parent.name).glob("*/"))
    return [each for each in folders if is_run(each) and _comparable(_config(each)) == _comparable(config)]


def elsewhere(run: Run) -> Iterator[str]:
    """What was made from a run and is kept in other places."""
    if (run.folder / "private" / "release_secret").exists():
        yield "the release trained by its recipe (released/), which others may have copied"
    for name in ("report.json", "results.csv", "exposed.csv"):
        for path in sorted(Path("reports").glob(f"*/{name}")):
            if run.folder.name in path.read_text(encoding="utf-8", errors="replace"):
                yield str(path)


def _remove(folder: Path) -> None:
    started = folder.with_name(f"{FORGOTTEN}{folder.name}")
    if started.is_dir():
        shutil.rmtree(started)
    if not folder.is_dir():
        return
    with Run(folder).lock() as mine:
        if not mine:
            raise ValueError(f"run={folder} is in use by another process; wait until it has ended, or stop it")
        (folder / "complete.json").unlink(missing_ok=True)
        folder.rename(started)
    (started / "private" / "secret").unlink(missing_ok=True)
    shutil.rmtree(started)


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, empty if it is damaged: that is no reason to keep the run."""
    try:
        return dict(Run(folder).config)
    except (ValueError, TypeError, yaml.YAMLError):
        return {}


def _tuned(defense: Mapping[str, Any] | None) -> bool:
    return defense is not None and bool(defense.get(COUNTED) or _tuned(defense.get("base")))


def _comparable(config: Mapping[str, Any]) -> Any:
    shared = {key: config.get(key) for key in SHARED}
    claimed = {group: _claimed(config.get(group) or {}) for group in MAY_TUNE}
    return canonical({**shared, **claimed})


def _claimed(node: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: _claimed(value) for key, value in node.items() if isinstance(value, Mapping)}
    return inner | {key: node[key] for key in ("_target_", *CLAIMED) if key in node}


def main(words: Sequence[str]) -> None:
    """The command `forget run=<folder> [root=runs]`.

    Raises:
        ValueError: for other words.
    """
    given = dict(word.partition("=")[::2] for word in words)
    if not given.get("run") or set(given) - {"run", "root"}:
        raise ValueError(
            f"{' '.join(words) or 'nothing'} names no run; use make forget run=<folder that train.py printed>"
        )
    print(forget(Path(given["run"]), Path(given.get("root") or "runs")))


if __name__ == "__main__":
    call(lambda: main(sys.argv[1:]))
