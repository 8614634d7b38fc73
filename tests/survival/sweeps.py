"""A sweep for processes that are killed, and what it leaves; these import it by this name."""

from __future__ import annotations

from pathlib import Path

from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.report.run_report import tidy_csv
from palisade.targets.checkpoints import JOURNAL_PREFIX
from palisade.targets.digests import DIGEST_SUFFIX
from palisade.targets.files import PART_PREFIX
from palisade.targets.progress import LOG_FILE as LOG
from palisade.targets.run import find
from palisade.train import composed, train_run

SMALL_RUN = (
    "data=digits",
    "fleet.models=4",
    "fleet.at_once=2",
    "fleet.workers=1",
    "trainer.epochs=2",
    "secret=survival",
)
DP_SGD_SETTINGS = (
    "defense=dp_sgd",
    "defense.epsilon=600",
    "defense.trainer.epochs=2",
)  # above 512 calibration takes no time
SWEEP_SETTINGS = (composed(*SMALL_RUN), composed(*SMALL_RUN, *DP_SGD_SETTINGS))
SWEEP_ATTACKS = {"loss": {"_target_": "palisade.attacks.LossThreshold"}, "lira": {"_target_": "palisade.attacks.LiRA"}}


def sweep(runs: Path) -> None:
    """Trains two runs of two stacks each, one of them with noise."""
    for settings in SWEEP_SETTINGS:
        train_run({**settings, "runs": str(runs)})


def attack(runs: Path) -> None:
    """Attacks all of them, one after the other, in this process."""
    for run in find(runs, "digits", None):
        results_of([run], AttackProtocol(attacks=SWEEP_ATTACKS))


def results(runs: Path) -> str:
    """Rows of `results.csv`."""
    return tidy_csv([results_of([run], AttackProtocol(attacks=SWEEP_ATTACKS))[0] for run in find(runs, "digits", None)])


def content(runs: Path) -> dict[str, bytes]:
    """Everything that a sweep leaves, by its place, except for times and files that hold some; nothing is half."""
    files = {str(path.relative_to(runs)): path for path in runs.rglob("*") if path.is_file()}
    assert not [name for name in files if PART_PREFIX in name or JOURNAL_PREFIX in name]
    timed = (LOG, ".lock", DIGEST_SUFFIX)
    return {name: path.read_bytes() for name, path in files.items() if not name.endswith(timed)}
