"""Regenerates the pictures of README and docs, with the numbers beside them: `make figures`.

`ROOT=<folder with location30, ag_news and sst2>` takes data from there; without it they are downloaded. The runs stay
in runs/, so a second call only draws.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).parent.parent
TABLE_END = "<!-- end -->"


def main() -> None:
    call("train.py", "-m", "experiment=location30", "secret=figures", *root_of("location30"))
    call("evaluate.py", "data=location30")
    show("location30", "location30.md", "test_accuracy")
    base = call("train.py", "experiment=lm_base", "secret=figures", *root_of("sst2")).split()[-1]
    news = ("experiment=lm_quickstart", f"network.base={base}", "secret=figures", *root_of("ag_news"))
    call("train.py", "-m", *news)
    call("evaluate.py", "data=ag_news")
    show("ag_news", "language_models.md", "test_perplexity")


def show(report: str, page: str, utility: str) -> None:
    """Copies the curve of a report, and writes its numbers into a page, between two marks."""
    folder, path = REPOSITORY_ROOT / "reports" / report, REPOSITORY_ROOT / "docs" / page
    shutil.copy(folder / "tradeoff.png", REPOSITORY_ROOT / "docs" / "img" / f"{report}.png")
    begin = f"<!-- {report}: made by `make figures` -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(TABLE_END, 1)
    results = folder / "results.csv"
    path.write_text(f"{before}{begin}\n{table(results, utility)}{secrets(results)}{TABLE_END}{after}", encoding="utf-8")


def call(*command: str) -> str:
    """Runs a command of the project, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY_ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def root_of(data: str) -> list[str]:
    """The setting of the folder of a data set, if one was named."""
    return [f"data.root={Path(root).resolve() / data}" for root in sys.argv[1:]]


def table(results: Path, utility: str) -> str:
    """Results of the fleets without canaries, in Markdown."""
    with results.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == row["group"] == "all"]
    rows = [row for row in rows if row["canary"] in ("", "none")]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    headings = ("defense", utility.replace("_", " "), "strongest attack", "AUC", "TPR at 1 % FPR", "TPR at 0.1 % FPR")
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for run in runs:
        by_metric = {(row["attack"], row["metric"]): row for row in rows if row["run"] == run}
        attacks = dict.fromkeys(attack for attack, _ in by_metric if attack)
        best = max(attacks, key=lambda attack: float(by_metric[attack, "tpr@1%fpr"]["value"]))
        auc, coarse, fine = (by_metric[best, metric] for metric in ("auc", "tpr@1%fpr", "tpr@0.1%fpr"))
        low, high = (100 * float(coarse[end]) for end in ("low", "high"))
        interval = f"{percent(coarse['value'])} [{low:.1f}–{high:.1f}]"
        useful = by_metric["", utility]["value"]
        useful = percent(useful) if utility == "test_accuracy" else f"{float(useful):.1f}"
        lines.append(
            f"| {name(auc)} | {useful} | {best} | {float(auc['value']):.3f} | {interval} | {percent(fine['value'])} |"
        )
    return "\n".join(lines) + "\n"


def secrets(results: Path) -> str:
    """Exposure of secrets in most copies and perplexity of the base, in Markdown; nothing of classifiers."""
    with results.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "all"]
    base = next((float(row["value"]) for row in rows if row["metric"] == "base_test_perplexity"), None)
    exposed: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["metric"] == "secret_exposure@16 copies":
            exposed.setdefault(name(row), {})[row["group"]] = float(row["value"])
    if base is None:
        return ""
    lines = ["| defense | bits of a secret in 16 documents | of one in none |", "|---|---|---|"]
    lines += [f"| {own} | {sides['members']:.2f} | {sides['nonmembers']:.2f} |" for own, sides in exposed.items()]
    return f"\nThe public base has a perplexity of {base:.1f}.\n\n" + "\n".join(lines) + "\n"


def name(row: dict[str, str]) -> str:
    if row["defense"] == "dp_sgd":
        epsilon = float(row["strength"])
        return "dp_sgd, clipping only" if epsilon == float("inf") else f"dp_sgd, ε = {epsilon:g}"
    return f"{row['defense']} {row['strength']}".strip()


def percent(value: str) -> str:
    return f"{100 * float(value):.1f} %" if value else "–"


if __name__ == "__main__":
    main()
