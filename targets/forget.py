"""Forgetting a run: everything that it holds of the records goes, and nothing half removed looks complete.

`make forget run=runs/digits/mlp-none-1a2b3c4d`, or `python -m palisade.targets.forget run=<folder>`; `root=`,
`reports=` and `released=` say where else than in `runs/`, `reports/` and `released/` they are kept.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from palisade.commandline import call
from palisade.targets.digests import removed_weights
from palisade.targets.run import Run, canonical
from palisade.targets.trials import TRIALS_FOLDER
from palisade.targets.tuning import EPSILON_SETTINGS, TUNABLE_GROUPS, is_tuned

FORGOTTEN_PREFIX = ".forgotten-"
"""Beginning of a run's name while it is being removed."""
DEFAULT_FOLDERS = {"root": "runs", "reports": "reports", "released": "released"}
"""Folders of runs, reports and releases unless a setting names another one."""
SHARED_WITH_TRIALS = ("data", "split", "membership", "seed", "names", "canary")
"""Settings that a run has in common with the trials that it was tuned by."""


def forget(folder: Path, root: Path, reports: Path, released: Path) -> str:
    """Removes a run: its models, signals and results, its secret, and the trials that it was tuned by.

    First it stops being complete, then its folder gets another name, then it is removed, the secret before all else:
    whenever this is interrupted, nothing half removed is taken for a run, and the same command again removes the rest.

    Args:
        folder: of the run.
        root: where runs are kept; nothing elsewhere is removed.
        reports: where reports are kept; those that name the run are listed.
        released: where releases are kept; those of the run are listed.

    Returns:
        One line: what was removed, and what remains elsewhere.

    Raises:
        ValueError: if the folder is no run of `root`, or another process is at work on it.
    """
    check_inside(folder, root)
    if not is_run(folder) and not started(folder).is_dir():
        raise ValueError(f"run={folder}: expected the folder of a run; give one that train.py printed")
    trials = trials_of(Run(folder), root) if is_run(folder) else []
    remains = [*releases_of(folder, released), *naming([each.name for each in (folder, *trials)], reports)]
    places = [each / "models" for each in (folder, started(folder), *trials)]
    held = sum(len(list(each.glob("[0-9]*.safetensors"))) + len(removed_weights(each)) for each in places)
    for each in (*trials, folder):  # the run last: it knows which trials are its own
        _remove(each)
    tuned = f" and {len(trials)} trials" if trials else ""
    nothing = f"nothing under {reports} and {released} names it"
    rest = f"what remains elsewhere: {', '.join(remains)}" if remains else nothing
    return f"removed {folder}{tuned}: {held} models, signals, results, secret and log; {rest}"


def check_inside(folder: Path, root: Path) -> None:
    """Raises ValueError if a folder is none of the runs that are kept under a root, wherever links lead."""
    real = folder.resolve()
    if folder.is_symlink() or real.parent.parent not in (root.resolve(), root.resolve() / TRIALS_FOLDER):
        raise ValueError(
            f"run={folder}: expected a folder in {root}/<data>/; give root=<folder of runs> if they are elsewhere"
        )


def is_run(folder: Path) -> bool:
    """Test for the folder of a run, whole or not."""
    return (folder / "config.yaml").is_file() and (folder / "private" / "secret").is_file()


def trials_of(run: Run, root: Path) -> list[Path]:
    """The trials that a run may have been tuned by: of the same records and claim, whatever else was tried."""
    config = _config(run.folder)
    if not is_tuned(config.get("defense")):
        return []
    folders = sorted((root / TRIALS_FOLDER / run.folder.parent.name).glob("*/"))
    return [each for each in folders if is_run(each) and _comparable(_config(each)) == _comparable(config)]


def releases_of(folder: Path, released: Path) -> Iterator[str]:
    """The release that was trained by a run's recipe, with its place if it is still there."""
    if any((each / "private" / "release_secret").exists() for each in (folder, started(folder))):
        # As train.py calls it; a guard's name may follow.
        name = f"{folder.resolve().parent.name}-{folder.name.rpartition('-')[0]}"
        places = [str(path) for path in sorted(released.glob("*/")) if f"{path.name}-".startswith(f"{name}-")]
        where = ", ".join(places) or f"not in {released}"
        yield f"the release trained by its recipe ({where}), which others may have copied"


def naming(names: Sequence[str], reports: Path) -> list[str]:
    """The files of reports, searches and studies in which one of some runs is named."""
    wanted = [name.encode() for name in names]
    files = [path for path in sorted(reports.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(name in path.read_bytes() for name in wanted)]


def started(folder: Path) -> Path:
    """Name of a run while it is being removed."""
    return folder.with_name(f"{FORGOTTEN_PREFIX}{folder.name}")


def _remove(folder: Path) -> None:
    begun = started(folder)
    if begun.is_dir():
        shutil.rmtree(begun)
    if not folder.is_dir():
        return
    with Run(folder).lock() as mine:
        _check_free(folder, mine, "in use")
        with Run(folder).unread() as unread:
            _check_free(folder, unread, "being evaluated")
            (folder / "complete.json").unlink(missing_ok=True)
            folder.rename(begun)
    (begun / "private" / "secret").unlink(missing_ok=True)
    shutil.rmtree(begun)


def _check_free(folder: Path, free: bool, what: str) -> None:
    if not free:
        raise ValueError(
            f"run={folder}: expected one not {what} by another process; wait until it has ended, or stop it"
        )


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, empty if it is damaged: that is no reason to keep the run."""
    try:
        return dict(Run(folder).config)
    except (ValueError, TypeError, yaml.YAMLError):
        return {}


def _comparable(config: Mapping[str, Any]) -> Any:
    shared = {key: config.get(key) for key in SHARED_WITH_TRIALS}
    # A tuned run is named by the network that was chosen, its trials by the one that was asked for.
    shared["names"] = {group: name for group, name in (config.get("names") or {}).items() if group != "network"}
    claimed = {group: _claimed(config.get(group) or {}) for group in TUNABLE_GROUPS}
    return canonical({**shared, **claimed})


def _claimed(node: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: _claimed(value) for key, value in node.items() if isinstance(value, Mapping)}
    return inner | {key: node[key] for key in ("_target_", *EPSILON_SETTINGS) if key in node}


def main(words: Sequence[str]) -> None:
    """The command `forget run=<folder>`, with any of `DEFAULT_FOLDERS`.

    Raises:
        ValueError: for other words.
    """
    options = dict(word.partition("=")[::2] for word in words)
    if not options.get("run") or set(options) - {"run", *DEFAULT_FOLDERS}:
        raise ValueError(
            f"{' '.join(words) or 'nothing'}: expected run=<folder>; use make forget run=<folder that train.py printed>"
        )
    print(forget(Path(options["run"]), *(Path(options.get(name) or usual) for name, usual in DEFAULT_FOLDERS.items())))


if __name__ == "__main__":
    call(lambda: main(sys.argv[1:]))
