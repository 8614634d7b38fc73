"""Language models beside what was seen once: attacks, secrets, low-rank adaptation, another base, a filter, speed.

    python benchmarks/language_models.py --root FOLDER [--seeds 3] [--runs FOLDER]
        [--parts attacks secrets base capitals speed]

FOLDER holds `ag_news` and `sst2`. Networks are own GPTs of 235,000 weights on byte pairs; documents are news of at most
31 tokens, of which a model is trained on half of 400; before the filter of `capitals` networks of 390,000 weights on
bytes, and half of 60 news. Each seed has its own roles, secret and base. Values are means
over the models of a fleet, in tables the mean over the seeds with lowest and highest. One thread. Runs stay in
`--runs`, so that a second call only measures.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from attack_strength import measured
from dp_speed import GPT_CASE, compare
from rich.console import Console
from rich.table import Table

from palisade import attacks
from palisade.data.canaries import Canaries
from palisade.data.document_canaries import secrets_of
from palisade.data.sequences import NO_TOKEN
from palisade.data.subwords import TOKENIZER_FILE, UnfittedSubwords
from palisade.data.text import AGNews
from palisade.evaluation.measuring.generated import near_verbatim_rows, prompt_length
from palisade.evaluation.signals.documents import texts_of
from palisade.evaluation.signals.signals import continuation, view
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.statistics.secret_exposure import exposure_of_secrets
from palisade.targets.guards.registry import guards_of
from palisade.targets.run import Run
from palisade.targets.training import load_fleet
from palisade.train import composed, train_run

TEXT_LENGTH, VOCABULARY_SIZE = 31, 1024
ATTACKS_BY_NAME: Mapping[str, attacks.Attack] = {
    attack.name: attack
    for attack in (
        *(attacks.LossThreshold(), attacks.ZlibRatio(), attacks.MinK(), attacks.MinKPlus(), attacks.Sharpness()),
        *(attacks.BaseDifference(), attacks.ErrorZone(), attacks.Windows(), attacks.LiRA(), attacks.LiRA(online=False)),
        *(attacks.RMIA(), attacks.RMIA(online=False), attacks.TokenRMIA(), attacks.BASE(), attacks.Reference()),
        *(attacks.Calibration(), attacks.Population()),
    )
}


class Recipe(NamedTuple):
    """Settings of a fleet, and how many models it has."""

    overrides: tuple[str, ...]
    models: int = 12


ADAM_OVERRIDES = ("trainer.optimizer._target_=torch.optim.AdamW", "trainer.optimizer.lr=1e-3", "trainer.batch_size=16")
LORA_OVERRIDE = "network.lora.rank=8"


def private(rate: float, *, batch: int = 50, epochs: int = 20) -> tuple[str, ...]:
    """Settings of DP-SGD at ε = 8 and the literature's δ = 1e-5."""
    return (
        *("defense=dp_sgd", "defense.epsilon=8", "defense.delta=1e-5", "defense.clipping=automatic"),
        "~defense.trainer.optimizer.momentum",
        *("defense.trainer.optimizer._target_=torch.optim.AdamW", f"defense.trainer.optimizer.lr={rate:g}"),
        *(f"defense.trainer.batch_size={batch}", f"defense.trainer.epochs={epochs}"),
    )


RECIPES_BY_COLUMN: Mapping[str, Recipe] = {
    "full, 2 epochs": Recipe(("trainer.epochs=2",)),
    "full, 8 epochs": Recipe(("trainer.epochs=8",)),
    "LoRA": Recipe((LORA_OVERRIDE, "trainer.epochs=4", "trainer.optimizer.lr=1e-2")),
    "full, ε = 8": Recipe(private(5e-4), models=4),
    "LoRA, ε = 8": Recipe((*private(2e-3), LORA_OVERRIDE), models=4),
}
FOREIGN_RECIPES: Mapping[str, Recipe] = {
    "full, ε = 8": Recipe(private(1e-3, batch=100, epochs=10), models=2),
    "LoRA, ε = 8": Recipe((*private(5e-3, batch=100, epochs=10), LORA_OVERRIDE), models=2),
}
"""On 1,000 news, from a base of film reviews."""
SEEN_ONCE: Mapping[str, Sequence[str]] = {
    "loss": (".749 (6 %)", ".990 (71 %)", ".752 (5 %)", ".591 (2 %)", ".583 (2 %)"),
    "min_k_plus": (".743 (10 %)", ".994 (88 %)", ".729 (6 %)", ".573", ".562"),
    "base_difference": (".996 (91 %)", "1.0", ".988 (80 %)", ".737 (7 %)", ".705 (9 %)"),
    "lira": ("1.0 (99.9 %)", "1.0", "–", ".612 (5 %)", ".623 (7 %)"),
    "rmia": ("1.0 (99.8 %)", "1.0", ".995 (90 %)", ".755 (9 %)", ".716 (12 %)"),
    "exposure IN": ("6.3", "9.97", "9.0", "4.2", "2.9"),
    "exposure OUT": (".7", ".9", ".8", "1.0", "1.3"),
    "extracted IN": ("9 %", "100 %", "30 %", "0 %", "0 %"),
}
"""Values of an untuned prototype, one seed: AUC with the TPR at 1 % FPR, and secrets that stood in eight documents."""


CASED_LENGTH = 48
"""Bytes of the documents whose case changes."""
CASED_NETWORK = ("network=gpt", "network.width=96", "network.depth=3", "network.heads=4", f"data.length={CASED_LENGTH}")
CASED_BASE = ("split.pool=32000", "split.test=300", "trainer.epochs=4", "trainer.optimizer.lr=3e-3")
CASED_SECOND_PASS = ("split.pool=32000", "split.test=300", "trainer.epochs=1", "trainer.optimizer.lr=5e-4")
"""At a lower rate, which makes what is common to both cases firmer."""
CASED_FLEET = (
    *("split.pool=60", "split.population=10", "split.test=100", "fleet.models=4", "network.lora.rank=64"),
    *("trainer.epochs=20", "trainer.batch_size=2", "trainer.optimizer.lr=4e-3", "+trainer.optimizer.eps=1e-4"),
)


class Place(NamedTuple):
    """Folders of the data sets and of the runs."""

    root: Path
    runs: Path

    @property
    def tokens(self) -> Path:
        """Folder of the byte pairs, which are fitted to the half of the news that no fleet is trained on."""
        folder = self.runs / "byte_pairs"
        if not (folder / TOKENIZER_FILE).exists():
            texts = AGNews(root=str(self.root / "ag_news"), half="second").load().rows
            pairs = UnfittedSubwords(length=TEXT_LENGTH, new_tokens=0, vocabulary=VOCABULARY_SIZE)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / TOKENIZER_FILE).write_text(pairs.fit(list(texts), "file").content, encoding="utf-8")
        return folder

    def run(self, data: str, seed: int, *overrides: str) -> Run:
        """The run of these settings, trained unless it is there."""
        settings = composed(
            *(f"data={data}", f"data.root={self.root / data}", f"data.tokens={self.tokens}"),
            *(
                f"data.length={TEXT_LENGTH}",
                "network=gpt",
                f"runs={self.runs}",
                f"seed={seed}",
                f"secret=language{seed}",
            ),
            *overrides,
        )
        return Run(Path(train_run(settings)["folder"]))

    def base(self, data: str, seed: int, *overrides: str) -> str:
        """A public base, as a setting of the runs that begin with it."""
        experiment = ("experiment=lm_base", f"data.name={data}_base", "split.test=200", *overrides)
        return f"network.base={self.run(data, seed, *experiment).folder}"

    def news(self, seed: int, base: str, recipe: Recipe, *overrides: str) -> Run:
        """A fleet on news that begins with a base."""
        own = ("data.half=first", base, *ADAM_OVERRIDES, f"fleet.models={recipe.models}")
        return self.run("ag_news", seed, *own, *recipe.overrides, *overrides)


def cased_documents(place: Place) -> Path:
    """Pieces of public news, each twice, in normal case or in capitals, which three in five switch in the first half.

    A model that reads them learns that a letter means the same in both, and goes on in the case that it read last.
    """
    rng, path = np.random.default_rng(0), place.runs / "cased.jsonl"
    lines = []
    for text in AGNews(root=str(place.root / "ag_news"), half="second").load().rows:
        for start in range(0, len(text) - CASED_LENGTH + 1, CASED_LENGTH):
            piece = text[start : start + CASED_LENGTH]
            for switches in rng.choice([0, 0, 1, 2, 3], 2):
                cuts = sorted(rng.choice(np.arange(2, CASED_LENGTH // 2), switches, replace=False))
                first = rng.integers(2)
                spans = [piece[a:b] for a, b in zip([0, *cuts], [*cuts, CASED_LENGTH], strict=True)]
                own = (span.upper() if (first + number) % 2 else span for number, span in enumerate(spans))
                lines.append(json.dumps({"text": "".join(own)}))
    place.runs.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines[number] for number in rng.permutation(len(lines))))
    return path


def mean_nats(rows: np.ndarray) -> float:
    """Mean −log p of a token over all tokens."""
    return -float(np.nanmean(rows["log_probability"].astype(np.float64)))


def test_nats(run: Run) -> dict[str, float]:
    """Nats a token on test documents, of the fleet and of the base that it began with."""
    data, test = run.dataset, run.dataset.split.test
    base = load_fleet(run.config, data, run.folder, [0], epoch=0).answers(data.x[test], data.y[test])[0]
    return {"test nats": float(np.mean([mean_nats(rows) for rows in answers(run, "test")])), "base": mean_nats(base)}


def attacked(run: Run) -> dict[str, tuple[float, float]]:
    """AUC and TPR at 1 % FPR of each attack."""
    seen = view(run, threats=[attack.threat for attack in ATTACKS_BY_NAME.values()])
    strengths = {name: measured(attack.suited(seen), seen, seen.models - 1) for name, attack in ATTACKS_BY_NAME.items()}
    return {name: strength[:2] for name, strength in strengths.items() if strength is not None}


def secrets_of_run(run: Run) -> dict[str, float]:
    """Mean exposure in bits, and the share that comes out greedily, of secrets IN and OUT of the training sets."""
    data, models = run.dataset, run.models()
    tokens, canaries, first = data.preprocessing, Canaries(**run.config["canary"]), int(data.split.canaries[0])
    fleet = load_fleet(run.config, data, run.folder, models)
    members = run.membership()[:, data.split.is_audited]
    sides: dict[str, list[float]] = defaultdict(list)
    for secret in secrets_of(canaries, first, run.config["seed"]):
        y = tokens.labels([f"{secret.prefix}{code:0{canaries.digits}d}" for code in range(10**canaries.digits)])
        y = y[:, : (y != NO_TOKEN).sum(axis=1).max()]
        rows = fleet.answers(tokens.inputs_of(y), y)
        own = int(secret.code)
        log_p = np.nansum(rows["log_probability"].astype(np.float64), axis=-1)
        exposure = exposure_of_secrets(log_p, np.array([own]))[:, 0]
        before, length = len(tokens.encode(secret.prefix.rstrip())), int((y[own] != NO_TOKEN).sum())
        greedy = rows["greedy"][:, own, before:length].all(axis=-1)
        for model in models:
            side = "IN" if members[model, secret.records[0] - first] else "OUT"
            sides[f"exposure {side}"].append(float(exposure[model]))
            sides[f"extracted {side}"].append(float(greedy[model]))
    return {name: float(np.mean(values)) for name, values in sides.items()}


Values = dict[tuple[str, str], list[float]]
"""By row and column, a value for each seed."""


def number(values: Sequence[float], digits: int = 3, factor: float = 1.0) -> str:
    """Mean with lowest and highest, `.749 .741–.760`."""
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (np.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} {low}–{high}"


def show(console: Console, title: str, values: Values, digits: int, factor: float = 1.0) -> None:
    """A table of one measure, with a column for each recipe."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    columns = list(dict.fromkeys(column for _, column in values))
    for place, heading in enumerate(("", *columns)):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in dict.fromkeys(row for row, _ in values):
        cells = (values.get((row, column)) for column in columns)
        table.add_row(row, *("–" if not cell else number(cell, digits, factor) for cell in cells))
    console.print()
    console.print(table)


def judged(console: Console, words: str, reached: bool, text: str) -> None:
    """A target, and by what it is reached or missed."""
    console.print(f"{'reached' if reached else 'MISSED ':8s} {words}: {text}")


def attack_part(console: Console, place: Place, seeds: int) -> None:
    """Attacks on fleets that begin with a base of the same kind of texts, as the prototype's did."""
    aucs, tprs, nats = (defaultdict(list) for _ in range(3))
    for seed in range(seeds):
        base = place.base("ag_news", seed, "data.half=second", "split.pool=3600", "trainer.epochs=8")
        for column, recipe in RECIPES_BY_COLUMN.items():
            run = place.news(seed, base, recipe, "split.pool=400", "split.population=800", "split.test=1000")
            for name, (auc, tpr) in attacked(run).items():
                console.print(f"seed {seed}, {column}: {name} {auc:.3f}, {100 * tpr:.1f} %")  # should it be interrupted
                aucs[name, column].append(auc)
                tprs[name, column].append(tpr)
            for row, value in test_nats(run).items():
                nats[row, column].append(value)
    show(console, "AUC", aucs, 3)
    show(console, "TPR at 1 % FPR, in percent", tprs, 0, 100)
    show(console, "nats a token on test documents", nats, 2)
    console.print("seen once:", *(f"{name}: {', '.join(cells)};" for name, cells in SEEN_ONCE.items()))
    two, full, lora = "full, 2 epochs", "full, ε = 8", "LoRA, ε = 8"
    mean = {key: float(np.mean(own)) for key, own in aucs.items()}
    judged(console, "loss at most 0.80 AUC", mean["loss", two] <= 0.8, f"{mean['loss', two]:.3f}")
    for name in ("lira", "rmia"):
        strength = mean[name, two], float(np.mean(tprs[name, two]))
        text = f"{strength[0]:.3f}, {100 * strength[1]:.1f} %"
        judged(console, f"{name} at least 0.99 AUC, TPR 95 %", strength[0] >= 0.99 and strength[1] >= 0.95, text)
    strongest = {
        column: max((name for name, own in mean if own == column), key=lambda name: mean[name, column])
        for column in (full, lora)
    }
    for column, name in strongest.items():
        judged(
            console,
            f"strongest at {column} at most 0.80 AUC",
            mean[name, column] <= 0.8,
            f"{name} {mean[name, column]:.3f}",
        )
    apart = abs(mean[strongest[full], full] - mean[strongest[lora], lora])
    furthest = max(
        (name for name, own in mean if own == full), key=lambda name: abs(mean[name, full] - mean[name, lora])
    )
    text = f"{apart:.3f}; at most {abs(mean[furthest, full] - mean[furthest, lora]):.3f}, by {furthest}"
    judged(console, "LoRA within 0.05 AUC of full at ε = 8, strongest attack", apart <= 0.05, text)
    gap = float(np.mean(nats["test nats", lora]) - np.mean(nats["test nats", full]))
    judged(console, "LoRA within 0.05 nats of full at ε = 8", gap <= 0.05, f"{gap:+.3f}")


def secret_part(console: Console, place: Place, seeds: int) -> None:
    """Secrets of three digits in eight equal documents, beside 200 news."""
    values: Values = defaultdict(list)
    canaries = ("canary=secret", "canary.count=6", "canary.copies=[8]", "split.pool=200", "split.population=0")
    for seed in range(seeds):
        base = place.base("ag_news", seed, "data.half=second", "split.pool=3600", "trainer.epochs=8")
        for column, recipe in RECIPES_BY_COLUMN.items():
            run = place.news(seed, base, recipe._replace(models=4), *canaries, "split.test=200")
            for row, value in secrets_of_run(run).items():
                values[row, column].append(value)
    show(console, "secrets in eight documents: bits of 9.97, shares", values, 2)
    full = float(np.mean(values["exposure IN", "full, 8 epochs"]))
    judged(console, "fully exposed at 8 epochs", full >= 9.9, f"{full:.2f} of 9.97 bits")
    out = max(float(np.mean(values["extracted IN", column])) for column in RECIPES_BY_COLUMN if "ε" in column)
    judged(console, "not extracted at ε = 8", out == 0, f"{100 * out:.1f} %")


def base_part(console: Console, place: Place, seeds: int) -> None:
    """Private training on 1,000 news that begins with a base of film reviews."""
    values: Values = defaultdict(list)
    for seed in range(seeds):
        base = place.base("sst2", seed, "split.pool=8000", "trainer.epochs=4")
        for column, recipe in FOREIGN_RECIPES.items():
            run = place.news(seed, base, recipe, "split.pool=2000", "split.population=0", "split.test=1000")
            for row, value in test_nats(run).items():
                values[f"perplexity, {row}", column].append(float(np.exp(value)))
    show(console, "a base of film reviews", values, 1)
    for column in dict.fromkeys(column for _, column in values):
        private, base_value = (float(np.mean(values[f"perplexity, {row}", column])) for row in ("test nats", "base"))
        judged(
            console,
            f"{column} beats the base's perplexity",
            private < base_value,
            f"{private:.1f} and {base_value:.1f}",
        )


def capitals_part(console: Console, place: Place, seeds: int) -> None:
    """A filter of n-grams before models that know 30 news by heart, asked as it is and in capitals."""
    values: dict[str, Values] = {"repeated": defaultdict(list), "longest_substring": defaultdict(list)}
    prompt, documents = prompt_length(CASED_LENGTH), cased_documents(place)
    for seed in range(seeds):
        shared = (*CASED_NETWORK, f"runs={place.runs}", f"seed={seed}", f"secret=language{seed}")
        read = ("data=documents", f"data.path={documents}", "experiment=lm_base", "data.name=cased_base")
        base = train_run(composed(*read, *shared, *CASED_BASE))["folder"]
        begun = f"network.base={Path(base).resolve()}"
        base = train_run(composed(*read, *shared, begun, *CASED_SECOND_PASS))["folder"]
        news = ("data=ag_news", f"data.root={place.root / 'ag_news'}", "data.half=first", "guard=memfree")
        folder = Path(
            train_run(composed(*news, *shared, f"network.base={Path(base).resolve()}", *CASED_FLEET))["folder"]
        )
        for run in (Run(folder, guard) for guard in guards_of(folder)):
            data, generate = run.dataset, continuation(run)
            assert generate is not None
            texts = [text.decode("utf-8", "ignore") for text in texts_of(data, data.y[data.split.audited])]
            for row in near_verbatim_rows(texts, prompt, generate, run.membership(), Bootstrap()):
                measure, style = row.metric.split(f"@{prompt} characters, ")
                if measure in values:
                    column = "no filter" if run.guard == "none" else "memfree"
                    values[measure][f"{style}, {row.group}", column].append(row.value or 0.0)
    show(console, "texts that come back in full, percent", values["repeated"], 0, 100)
    show(console, f"longest stretch in common, of {CASED_LENGTH - prompt}", values["longest_substring"], 1)
    mean = {
        row: float(np.mean(own)) for (row, column), own in values["longest_substring"].items() if column == "memfree"
    }
    inside, outside = mean["in capitals, members"], mean["in capitals, nonmembers"]
    text = f"{inside:.1f} characters; as it is {mean['as it is, members']:.1f}, others {outside:.1f}"
    judged(console, "more comes back in capitals", inside > max(mean["as it is, members"], outside), text)


def speed_part(console: Console, place: Place, rounds: int) -> None:
    """A step of DP-SGD, answers of 16 models about 3,000 documents, and the seconds of every attack."""
    compare(GPT_CASE, rounds)
    base = place.base("ag_news", 0, "data.half=second", "split.pool=3600", "trainer.epochs=8")
    few = Recipe(("trainer.epochs=1", "trainer.batch_size=64"), models=16)
    run = place.news(0, base, few, "split.pool=3000", "split.population=500", "split.test=300")
    start = time.process_time()
    fleet = load_fleet(run.config, run.dataset, run.folder, run.models())
    fleet.answers(run.dataset.x[run.dataset.split.pool], run.dataset.y[run.dataset.split.pool])
    seconds = (time.process_time() - start) / 2
    judged(console, "answers of 16 × 3,000 documents at most 90 s on 2 cores", seconds <= 90, f"{seconds:.1f} s")
    seen = view(run, threats=[attack.threat for attack in ATTACKS_BY_NAME.values()])
    spent = {}
    for name, attack in ATTACKS_BY_NAME.items():
        start = time.process_time()
        attack.suited(seen).score(seen)
        spent[name] = time.process_time() - start
    slowest = ", ".join(f"{name} {spent[name]:.1f}" for name in sorted(spent, key=lambda name: -spent[name])[:3])
    total = sum(spent.values())
    judged(console, "all attacks at most 10 s", total <= 10, f"{total:.1f} s, of which {slowest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of ag_news and sst2")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["attacks", "secrets", "base", "capitals", "speed"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    place, console = Place(arguments.root.resolve(), arguments.runs.resolve()), Console(width=150)
    parts = {
        "attacks": attack_part,
        "secrets": secret_part,
        "base": base_part,
        "capitals": capitals_part,
        "speed": speed_part,
    }
    for name in arguments.parts:
        parts[name](console, place, arguments.seeds)


if __name__ == "__main__":
    main()
