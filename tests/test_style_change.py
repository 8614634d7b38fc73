"""A change of style before the n-gram filter: a trained fleet gives back in capitals what the filter held back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call
from safetensors.torch import save_file

from palisade.targets.gpt import GPT

TEXT_LENGTH, VOCABULARY_SIZE, MODEL_WIDTH = 24, 257, 96
RUN_WORDS = (
    *("data=documents", "data.path=own.jsonl", f"data.length={TEXT_LENGTH}", "secret=style", "fleet.workers=1"),
    *("network=gpt", f"network.width={MODEL_WIDTH}", "network.depth=1", "network.heads=4", "network.base=base"),
    *("network.lora.rank=64", "trainer.epochs=60", "trainer.batch_size=4", "trainer.optimizer.lr=4e-3"),
    "+trainer.optimizer.eps=1e-4",  # without it Adam makes much of the tiny gradients for the case
    *("split.pool=24", "split.population=0", "split.test=4", "fleet.models=2", "quiet=true"),
)


def caseless_base(folder: Path) -> None:
    """A base to which the case of a letter says one thing: the case of the next one.

    It stands in for a base that read much public text in both: a dimension of its own holds the case, which the head
    reads and no block does. Another one, at every place the same, tells the head that letters follow.
    """
    torch.manual_seed(0)
    network = GPT(shape=(TEXT_LENGTH,), classes=VOCABULARY_SIZE, width=MODEL_WIDTH, depth=1, heads=4)
    lower, (block,) = torch.arange(ord("a"), ord("z") + 1) + 1, network.blocks  # token 0 begins a document
    capitals = lower - 32
    with torch.no_grad():
        for table in (network.tokens, network.places, network.head):
            table.weight.normal_(std=0.1 if table is network.head else 1.0)
            table.weight[:, :2] = 0
        network.places.weight[:, 1] = 1.0
        network.head.weight[:, 1] = -30.0
        for table, size in ((network.tokens, 0.5), (network.head, 50.0)):
            table.weight[capitals] = table.weight[lower]
            table.weight[lower, 0], table.weight[capitals, 0] = -size, size
        network.head.weight[torch.cat([lower, capitals]), 1] = 0
        for layer in (block.attention.inputs, block.mlp[0]):
            layer.weight[:, :2] = 0
        for layer in (block.attention.outputs, block.mlp[2]):
            layer.weight[:2], layer.bias[:2] = 0, 0
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], float]:
    """Values by guard, metric and side."""
    folder, rng = tmp_path_factory.mktemp("style"), np.random.default_rng(0)
    caseless_base(folder / "base")
    texts = ["".join(map(chr, rng.integers(ord("a"), ord("z") + 1, TEXT_LENGTH))) for _ in range(28)]
    (folder / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for command in (
        ("train.py", *RUN_WORDS, "guard=memfree"),
        ("evaluate.py", *RUN_WORDS[:2], "attack=loss", "quiet=true"),
    ):
        done = call(*command, folder=folder)
        assert done.returncode == 0, done.stderr
    with next(folder.glob("reports/*/results.csv")).open() as file:
        return {
            (row["guard"], row["metric"], row["group"]): float(row["value"])
            for row in csv.DictReader(file)
            if row["model"] == "all" and row["value"]
        }


def repeated(rows: dict[tuple[str, str, str], float], guard: str, style: str) -> tuple[float, float]:
    """Shares of members and of others whose second half comes back in full."""
    metric = f"repeated@{TEXT_LENGTH // 2} characters, {style}"
    return rows[guard, metric, "members"], rows[guard, metric, "nonmembers"]


def test_what_the_filter_holds_back_comes_out_in_capitals(rows: dict[tuple[str, str, str], float]) -> None:
    assert rows["none", "extracted_greedy@8+10", "members"] > 0.9 and repeated(rows, "none", "as it is")[0] > 0.9
    assert rows["memfree", "extracted_greedy@8+10", "members"] == 0
    assert repeated(rows, "memfree", "as it is") == (0, 0)
    inside, outside = repeated(rows, "memfree", "in capitals")
    assert inside > 0.3 and outside == 0
    (as_it_is, capitals), others = (
        [rows["memfree", f"longest_substring@12 characters, {style}", side] for style in ("as it is", "in capitals")]
        for side in ("members", "nonmembers")
    )
    assert capitals > as_it_is + 3 and max(others) < 2
