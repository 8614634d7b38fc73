"""Every defense on Location30 beside what is known of it.

    python benchmarks/defenses.py [--root FOLDER] [--runs FOLDER] [--seeds 3] [--models 16]

The runs are those of `experiment=defense_comparison`, once for each seed, attacked as `evaluate.py attack=standard`
does; finished ones are not repeated. Each value is the mean over fleets and seeds. The gap attack is `correctness`: it
sees whether the predicted label is right. `--models 4 --seeds 1` is a quick look, not a measurement.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

REPOSITORY_ROOT = Path(__file__).parent.parent

from palisade.commandline import one_line  # noqa: E402
from palisade.evaluate import all_attacks  # noqa: E402
from palisade.evaluation.comparison import Comparison  # noqa: E402
from palisade.evaluation.flags import MASKED_FLAG, flags  # noqa: E402
from palisade.evaluation.labels import label  # noqa: E402
from palisade.evaluation.measuring.runs import results_of  # noqa: E402
from palisade.evaluation.protocol import AttackProtocol  # noqa: E402
from palisade.evaluation.result import AUC, REPORTED_FPRS, Result, tpr_at  # noqa: E402
from palisade.evaluation.signals.saved import predictions  # noqa: E402
from palisade.targets.guards.registry import label as guard_label  # noqa: E402
from palisade.targets.guards.registry import make_guard  # noqa: E402
from palisade.targets.progress import Progress  # noqa: E402
from palisade.targets.run import Run  # noqa: E402
from palisade.targets.tuning import trainings  # noqa: E402
from palisade.train import composed, train_run  # noqa: E402

EXPERIMENT_NAME = "defense_comparison"
GAP_ATTACK = "correctness"
THRESHOLD_ATTACKS = ("loss", "confidence", "entropy", "modified_entropy")
"""Attacks on scores that know no shadow models: those that masking defenses were published against."""
TPR_METRIC = tpr_at(REPORTED_FPRS[0])
TOO_MUCH = 1000
"""λ of adversarial regularization that no model survives."""
AUC_TOLERANCE = 0.01


class Point(NamedTuple):
    """A defense at one strength, the mean over seeds; AUC and TPR (at 1 % FPR) of the run's strongest attacks."""

    setting: str
    accuracy: float
    gap: float
    threshold: float
    best: str
    auc: float
    lira: float
    tpr: float
    flags: tuple[str, ...]


def configurations(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The settings of every run of the experiment, seed by seed."""
    experiment = yaml.safe_load((REPOSITORY_ROOT / "conf" / "experiment" / f"{EXPERIMENT_NAME}.yaml").read_text())
    parser = OverridesParser.create()
    for seed in range(arguments.seeds):
        for line in experiment["hydra"]["sweeper"]["grids"]:
            for job in BasicSweeper.split_arguments(parser.parse_overrides(line.split()), None)[0]:
                yield composed(*common(arguments, seed), *job)


def common(arguments: argparse.Namespace, seed: int) -> list[str]:
    """Overrides of all runs with a seed; one secret, so that all defenses protect the same members."""
    overrides = [f"experiment={EXPERIMENT_NAME}", "data=location30", f"seed={seed}", f"secret=defenses-{seed}"]
    overrides += [f"fleet.models={arguments.models}", f"runs={arguments.runs}"]
    return overrides + ([] if arguments.root is None else [f"data.root={Path(arguments.root).resolve()}"])


def trained(wanted: Sequence[dict[str, Any]], folder: str) -> tuple[dict[int, list[Run]], list[str]]:
    """The runs by seed, and what went wrong with others."""
    runs: dict[int, list[Run]] = {}
    failures = []
    with Progress(Path(folder), sum(map(trainings, wanted))):
        for settings in wanted:
            try:
                run = Run(Path(train_run(settings)["folder"]), guard_label(make_guard(settings)))
                runs.setdefault(settings["seed"], []).append(run)
            except Exception as error:
                failures.append(f"{settings['names']['defense']}: {one_line(error)}")
    return runs, failures


def standard() -> AttackProtocol:
    """The attacks and the threat of `evaluate.py attack=standard`."""
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("evaluate"), resolve=True)
    return AttackProtocol(attacks=settings["attack"], threat=settings["threat"], adaptive=all_attacks())


def points(results: Sequence[Sequence[Result]]) -> list[Point]:
    """One for each setting, in the order of the experiment, from the results of each seed."""
    alike: dict[str, list[Point]] = {}
    for together in results:
        for result in together:
            aucs = {attack: result.get(AUC, attack=attack).value or 0.0 for attack in result.attacks}
            scores = [attack for attack in aucs if result.get(AUC, attack=attack).access == "black_box"]
            best = max(scores, key=aucs.__getitem__, default=GAP_ATTACK)
            point = Point(
                setting=label(result),
                accuracy=result.get("test_accuracy").value or 0.0,
                gap=aucs[GAP_ATTACK],
                threshold=max((aucs[attack] for attack in THRESHOLD_ATTACKS if attack in aucs), default=np.nan),
                best=best,
                auc=aucs[best],
                lira=aucs.get("lira", np.nan),
                tpr=result.get(TPR_METRIC, attack=result.strongest).value or 0.0,
                flags=tuple(flag.name for flag in flags(result, Comparison(together))),
            )
            alike.setdefault(point.setting, []).append(point)
    return [mean(of_seeds) for of_seeds in alike.values()]


def mean(seeds: Sequence[Point]) -> Point:
    """The mean over seeds; of names the most frequent, of flags those of most seeds."""
    flag_counts = Counter(name for point in seeds for name in point.flags)
    numbers = ("accuracy", "gap", "threshold", "auc", "lira", "tpr")
    return seeds[0]._replace(
        best=Counter(point.best for point in seeds).most_common(1)[0][0],
        flags=tuple(name for name, count in flag_counts.items() if 2 * count > len(seeds)),
        **{name: float(np.mean([getattr(point, name) for point in seeds])) for name in numbers},
    )


def named(measured: Sequence[Point], *prefixes: str) -> list[Point]:
    """The points of a defense or a guard, through its strengths, without canaries."""
    return [point for point in measured if point.setting.startswith(prefixes) and "canaries" not in point.setting]


def claims(measured: Sequence[Point]) -> Iterator[tuple[bool, str]]:
    """Published properties of the defenses, each with the verdict of this measurement."""
    (undefended,) = named(measured, "undefended")
    for guard in ("none + hamp_output", "none + memguard"):
        for point in named(measured, guard)[-1:]:
            hidden = f"{point.setting}: thresholds on scores {point.threshold:.3f}, gap attack {point.gap:.3f}"
            yield point.threshold < point.gap + AUC_TOLERANCE, hidden
            yield MASKED_FLAG in point.flags, f"{point.setting}: flagged as {MASKED_FLAG}"
    stopping = [*named(measured, "early_stopping"), undefended]
    for defense in ("selena ", "dp_sgd "):
        best = ", ".join(point.setting for point in named(measured, defense) if below_line(point, stopping))
        yield bool(best), f"{defense.strip()}: leaks at most as early stopping at its accuracy ({best or 'never'})"
    for defense in ("label_smoothing", "mixup"):
        for point in named(measured, defense):
            held = point.lira >= undefended.lira - AUC_TOLERANCE
            yield held, f"{point.setting}: AUC of LiRA {point.lira:.3f}, {undefended.lira:.3f} undefended"
    selena = min((point.tpr for point in named(measured, "selena ")), default=np.nan)
    between = [
        point.setting for point in named(measured, "adversarial_regularization") if selena <= point.tpr < undefended.tpr
    ]
    yield bool(between), f"adversarial_regularization: between none and selena ({', '.join(between) or 'never'})"


def below_line(point: Point, line: Sequence[Point]) -> bool:
    """Test of a point that leaks at most what a line does at its accuracy; False outside the line's accuracies."""
    rising = sorted(line, key=lambda other: other.accuracy)
    accuracies, leakages = ([getattr(other, name) for other in rising] for name in ("accuracy", "tpr"))
    if not accuracies[0] <= point.accuracy <= accuracies[-1]:
        return False
    return point.tpr <= float(np.interp(point.accuracy, accuracies, leakages))


def keeps_labels(runs: Sequence[Run]) -> tuple[bool, str]:
    """Test that MemGuard changes no predicted label, of records in and outside of the pool."""
    behind = [run for run in runs if run.guard.startswith("memguard")]
    same = [
        float((predictions(run, role) == predictions(Run(run.folder), role)).mean())
        for run in behind
        for role in ("pool", "test")
    ]
    return bool(same) and min(same) == 1.0, f"memguard: keeps {100 * min(same, default=0.0):.4g} % of labels"


def collapses(arguments: argparse.Namespace) -> tuple[bool, str]:
    """Test that too large a λ of adversarial regularization ends with an error that says so."""
    settings = composed(
        *common(arguments, 0), "fleet.models=1", "defense=adversarial_regularization", f"defense.weight={TOO_MUCH}"
    )
    try:
        train_run(settings)
    except ValueError as error:
        return "expected models that learn" in str(error), f"adversarial_regularization {TOO_MUCH}: {error}"
    return False, f"adversarial_regularization {TOO_MUCH}: trained without an error"


def shown(measured: Sequence[Point]) -> Table:
    columns = ("defense", "accuracy", "gap AUC", "best on scores", "AUC", "TPR at 1% FPR", "flags")
    table = Table(*columns, box=None, header_style="bold")
    for point in measured:
        table.add_row(
            *(point.setting, f"{100 * point.accuracy:.1f} %", f"{point.gap:.3f}", point.best, f"{point.auc:.3f}"),
            *(f"{100 * point.tpr:.1f} %", ", ".join(point.flags)),
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds dataset_location.tgz; downloaded without it")
    parser.add_argument("--runs", default="runs/benchmark", help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", type=int, default=16, help="of a fleet")
    arguments = parser.parse_args()
    runs, failures = trained(list(configurations(arguments)), arguments.runs)
    protocol = standard()
    measured = points([results_of(of_seed, protocol) for of_seed in runs.values()])
    console = Console(width=160)
    console.print(shown(measured), "")
    every = [run for of_seed in runs.values() for run in of_seed]
    checked = [*claims(measured), keeps_labels(every), collapses(arguments)]
    for held, text in checked:
        console.print("[green]ok  [/]" if held else "[red]FAIL[/]", text, highlight=False)
    for failure in failures:
        console.print("[red]failed[/]", failure, highlight=False)
    return 1 if failures or not all(held for held, _ in checked) else 0


if __name__ == "__main__":
    raise SystemExit(main())
