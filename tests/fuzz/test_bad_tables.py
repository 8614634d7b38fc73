"""Tables as bad as people have them: each is refused in one line or trained on, and no earlier run changes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from commands import call
from refusal import refusal
from test_hostile_settings import content

from palisade.commandline import EXIT_BAD_INPUT, EXIT_DONE
from palisade.data.column_kinds import setting
from palisade.data.dataset import from_config
from palisade.train import composed, train_run

pytestmark = pytest.mark.slow

TABLE_COUNT, THROUGH_THE_COMMAND = 300, 20
SMALL_SETTINGS = ["fleet.models=1", "fleet.workers=1", "trainer.epochs=1", "trainer.batch_size=2", "secret=fuzz"]
CELL_CASES = {
    "whole": lambda draw: str(draw.randrange(100)),
    "fractions": lambda draw: repr(draw.uniform(-5, 5)),
    "words": lambda draw: draw.choice(["red", " green", "blue ", "None", "café", "?"]),
    "flags": lambda draw: draw.choice(["True", "FALSE", "true", "1", "0"]),
    "codes": lambda draw: f"{draw.randrange(30):03}",
    "names": lambda draw: f"person {draw.randrange(10**6)}",
    "days": lambda draw: draw.choice(["2020-01-31", "31.01.2020", "01/02/2020", "2020-13-45", "2020-01-31T10:00:00"]),
    "money": lambda draw: draw.choice(["$1,234.50", "12,5", "1.234,5", "€ 3", "17 %", "(12)", "-"]),
    "edges": lambda draw: draw.choice(
        ["1e308", "-1e308", "inf", "nan", "1e-400", "9" * 400, "0x1F", "1_000", "٣", "-0"]
    ),
    "mess": lambda draw: draw.choice(
        ['"', "'", "a,b", "a\nb", "\t", "\0", "=1+1", "#", "\ufeff", "x" * 3000, "[1]", "{}"]
    ),
    "nothing": lambda draw: draw.choice(["", "NA", "n/a", " ", "null"]),
}
COLUMN_NAMES = [
    "age",
    "id",
    "",
    "age",
    " sex ",
    "naïve",
    "x" * 200,
    "a b",
    "label",
    "0",
    "Unnamed: 0",
    "class",
    "data.drop",
    '"q"',
]

LABEL_CASES = [*[["no", "yes"]] * 4, ["0", "1.0", "1", "0.0"], ["a", "a "], ["yes", "Yes"], ["<=50K", ">50K", ""]]


def bad_table(seed: int) -> tuple[bytes, list[str]]:
    """A file and settings of its data."""
    draw = random.Random(seed)
    rows = draw.choice([0, 1, 3, 20, *[60] * 8])
    kinds = draw.choices(list(CELL_CASES), weights=[6, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1], k=draw.randrange(1, 5))
    names = [draw.choice(COLUMN_NAMES) if draw.random() < 0.2 else f"{kind}{k}" for k, kind in enumerate(kinds)]
    odd = draw.choice([0.0, 0.0, 0.0, 0.02, 0.2])  # share of cells of another kind
    labels = draw.choice(LABEL_CASES)
    lines = [[*names, "y"]]
    for _ in range(rows):
        cells = [CELL_CASES[draw.choice(list(CELL_CASES)) if draw.random() < odd else kind](draw) for kind in kinds]
        lines.append([*cells, draw.choice(labels)])
    quoted = draw.random() < 0.7
    text = draw.choice(["\n", "\r\n"]).join(",".join(map(_quoted, line) if quoted else line) for line in lines)
    if draw.random() < 0.1:
        text += "\n1,2,3,4,5,6,7,8,9"
    content_ = text.encode(draw.choice([*["utf-8"] * 8, "utf-8-sig", "utf-16"]))
    if draw.random() < 0.05:
        content_ = content_[: draw.randrange(len(content_) + 1)] + draw.randbytes(5)
    words = ["data.label=y", f"data.missing={draw.choice(['error', 'impute'])}"]
    if draw.random() < 0.3:
        key = draw.choice(["drop", "categorical", "numeric", "dates", "slices"])
        words.append(setting(key, [draw.choice(names)]).strip('"'))
    if draw.random() < 0.2:
        words.append(draw.choice(["data.decimal=','", "data.thousands=','", "data.rare=1", "split.reference=0.2"]))
    return content_, words


def _quoted(cell: str) -> str:
    doubled = cell.replace('"', '""')
    return f'"{doubled}"' if any(sign in cell for sign in ',"\n\r') else cell


def test_every_bad_table_is_refused_in_one_line_or_read_alike(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    good, _ = _train(tmp_path, -1, runs)
    assert good is None
    before, refused = content(runs), 0
    for seed in range(TABLE_COUNT):
        line, words = _train(tmp_path, seed, tmp_path / "others")
        assert line is None or line.startswith(
            ("data", "column", "split", "class", "label", "rows", "trainer.batch_size")
        ), (seed, line)
        refused += line is not None
        if line is None:
            dataset = from_config(composed("data=csv", *SMALL_SETTINGS, *words))
            read = np.asarray(dataset.preprocessing(tmp_path / f"t{seed}.csv"))
            np.testing.assert_array_equal(read, dataset.x, err_msg=str(seed))
        assert content(runs) == before, seed
    assert 60 < refused < 270


def _train(folder: Path, seed: int, runs: Path) -> tuple[str | None, list[str]]:
    path = folder / f"t{seed}.csv"
    if seed < 0:
        path.write_text("a,y\n" + "".join(f"{k % 7},{('no', 'yes')[k % 2]}\n" for k in range(60)))
        words = ["data.label=y"]
    else:
        content_, words = bad_table(seed)
        path.write_bytes(content_)
    overrides = [*words, f"data.path={path}"]
    return refusal(
        lambda: train_run(composed("data=csv", *SMALL_SETTINGS, *overrides) | {"runs": str(runs)}), longest=2000
    ), overrides


def test_the_command_says_the_same(tmp_path: Path) -> None:
    for seed in range(THROUGH_THE_COMMAND):
        content_, words = bad_table(seed)
        (tmp_path / f"t{seed}.csv").write_bytes(content_)
        ended = call(
            "train.py", "data=csv", *SMALL_SETTINGS, *words, f"data.path=t{seed}.csv", "quiet=true", folder=tmp_path
        )
        assert ended.returncode in (EXIT_DONE, EXIT_BAD_INPUT), (seed, ended.stderr)
        assert "Traceback" not in ended.stderr
        if ended.returncode == EXIT_BAD_INPUT:
            (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("warning:")]
            assert line.startswith("error: "), (seed, line)
