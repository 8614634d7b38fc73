"""Does the one-run audit notice that DP-SGD's noise is missing, and does it leave correct DP-SGD alone?

    python benchmarks/dp_audit.py --root DATA

DATA holds the folder location30; without it, that is downloaded. Every model of `experiment=dp_audit` is audited by
itself: canaries, each a member with probability ½, are ranked by their loss; those at the one end are guessed to be
members, those at the other not to be; also by the norm of their gradient, or, where checkpoints were kept, by the
alignment of their gradients with the way that training went. The guesses that are right bound ε from below (Steinke,
Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run"). A claim of ε = 1 is put to the test by 500
mislabeled records and 50 guesses at either end; one of ε = 4 by 1,000 blank canaries, whose gradients are their own,
and 400 guesses: 50 could not refute it, were they all right. Noise is taken away where it is made, behind the back of
everything that accounts for it: the statement goes on claiming ε. Runs go to a temporary folder, so that no such model
is ever mistaken for a private one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from rich.console import Console
from rich.table import Table

from palisade.attacks import Alignment, Attack, GradientNorm, LossThreshold
from palisade.defenses.dp_sgd.noise import NoiseSource
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.statistics.epsilon import one_run
from palisade.targets.run import Run
from palisade.train import composed, train_run

ERROR_PROBABILITY = 0.05  # p: how often a true claim may be contradicted


class Planted(NamedTuple):
    """Kind and number of the canaries, and the share of them that is guessed at either end."""

    kind: str
    count: int
    guessed: float


MISLABELED_CANARIES = Planted("label_noise", 500, 0.1)
BLANK_CANARIES = Planted("blank", 1000, 0.4)


class Case(NamedTuple):
    """DP-SGD at a claimed ε, with its noise or without, and how many of its models an audit is to contradict."""

    epsilon: float
    noise: bool
    models: int
    violations: int
    auditors: tuple[Attack, ...] = (LossThreshold(),)
    canaries: Planted = MISLABELED_CANARIES
    checkpoints: int = 0


WHITE_BOX = (LossThreshold(), GradientNorm())
AUDIT_CASES = (
    Case(1, False, 10, 10),
    Case(1, True, 20, 0),
    Case(8, True, 20, 0, (LossThreshold(), Alignment()), checkpoints=29),
    Case(4, False, 10, 10, WHITE_BOX, BLANK_CANARIES),
    Case(4, True, 20, 0, WHITE_BOX, BLANK_CANARIES),
)


@contextmanager
def without_noise() -> Iterator[None]:
    """DP-SGD that adds zeros instead of noise, and knows nothing of it."""

    def silence(self: NoiseSource, out: np.ndarray, **_: object) -> None:
        out[:] = 0

    with patch.object(NoiseSource, "fill", silence):
        yield


def settings_of(case: Case, root: str | None, runs: Path) -> dict[str, Any]:
    """The configuration that `python train.py experiment=dp_audit` composes."""
    overrides = ["experiment=dp_audit", f"defense.epsilon={case.epsilon}", f"fleet.models={case.models}"]
    overrides += ["fleet.workers=1", "secret=audit", f"runs={runs}"]  # another process would add the noise
    overrides += [f"canary={case.canaries.kind}", f"canary.count={case.canaries.count}"]
    overrides.append(f"guesses={case.canaries.guessed}")
    overrides.append(f"fleet.keep_checkpoints={case.checkpoints}")
    if root is not None:
        overrides.append(f"data.root={Path(root, 'location30').resolve()}")
    return composed(*overrides)


def trained(case: Case, root: str | None, folder: Path) -> Run:
    settings = settings_of(case, root, folder / ("noise" if case.noise else "silence"))
    with nullcontext() if case.noise else without_noise():
        return Run(Path(train_run(settings)["folder"]))


def right_guesses(run: Run, auditor: Attack, guessed: float) -> tuple[list[int], int, int]:
    """Number of right guesses of each model; numbers of guesses and of canaries of all."""
    seen = view(run, Grant(weights=True), threats=[auditor.threat])
    canaries = seen.membership.shape[1]
    each = round(guessed * canaries)
    order = auditor.score(seen).argsort(axis=-1)
    sorted_membership = np.take_along_axis(seen.membership, order, axis=-1)
    right = sorted_membership[:, -each:].sum(axis=-1) + (~sorted_membership[:, :each]).sum(axis=-1)
    return right.tolist(), 2 * each, canaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds location30/")
    arguments = parser.parse_args()
    columns = (
        "canaries",
        "noise",
        "claimed ε",
        "audit by",
        "δ",
        "models",
        "right guesses",
        "mean",
        "bound on ε: lowest",
        "mean",
        "highest",
    )
    table = Table(*columns, "contradicted", "to be", box=None, header_style="bold")
    failed = False
    for case in AUDIT_CASES:
        with tempfile.TemporaryDirectory() as folder:
            run = trained(case, arguments.root, Path(folder))
            guesses_of = {auditor.name: right_guesses(run, auditor, case.canaries.guessed) for auditor in case.auditors}
            claim = run.statement
        for auditor, (right, guesses, canaries) in guesses_of.items():
            bounds = [one_run(canaries, guesses, correct, claim.delta, ERROR_PROBABILITY) for correct in right]
            violations = sum(bound > claim.epsilon for bound in bounds)
            failed |= violations != case.violations
            table.add_row(
                case.canaries.kind,
                *("as claimed" if case.noise else "taken away", f"{claim.epsilon:.3f}", auditor, f"{claim.delta:.3g}"),
                *(str(case.models), f"{min(right)} to {max(right)} of {guesses}", f"{np.mean(right):.1f}"),
                *(f"{bound:.2f}" for bound in (min(bounds), np.mean(bounds), max(bounds))),
                *(str(violations), str(case.violations)),
            )
    Console(width=160).print(table)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
