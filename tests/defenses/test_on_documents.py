"""Every defense trains language models as it is, or says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from palisade.data.dataset import from_config
from palisade.data.loaders import Batch
from palisade.data.secret import Secret
from palisade.data.sequences import NO_TOKEN
from palisade.data.split import Membership
from palisade.defenses.distillation import surest
from palisade.defenses.label_smoothing import LabelSmoothing
from palisade.defenses.relaxloss import RelaxLoss
from palisade.targets.training import make_fitter

CONF_FOLDER = Path(__file__).parents[2] / "conf" / "defense"
TRAINED_DEFENSES = {
    "none": [],
    "l1": [],
    "l2": [],
    "ccl": [],
    "dropout": [],
    "early_stopping": ["split.validation=12", "defense.patience=1"],
    "label_smoothing": [],
    "relaxloss": [],
    "deduplication": ["defense.threshold=0.9"],
    "distillation": ["split.reference=12", "trainer.batch_size=6"],
    "dp_sgd": ["defense.trainer.epochs=1", "defense.trainer.batch_size=6"],
}
BASE_DEFENSES = {"rare_removal"}
"""Defenses that need a public base, with tests of their own."""
REFUSED_DEFENSES = {"mixup", "augmentation", "hamp", "pate", "selena", "adversarial_regularization", "memguard"}
"""Defenses and why: their reasons stand with them; MemGuard is a guard."""


def overrides(folder: Path, defense: str) -> list[str]:
    lines = (
        json.dumps({"text": f"document {number} of {number % 3} kinds" * (number % 2 + 1)}) for number in range(70)
    )
    (folder / "own.jsonl").write_text("\n".join(lines))
    return [
        *(
            "data=documents",
            f"data.path={folder}/own.jsonl",
            "data.length=24",
            f"defense={defense}",
            "trainer.epochs=2",
        ),
        *(
            "network=gpt",
            "network.width=8",
            "network.depth=1",
            "network.heads=2",
            "split.pool=24",
            "split.population=0",
        ),
        *("split.test=10", "trainer.batch_size=6"),
    ]


def test_no_defense_is_left_out():
    assert {path.stem for path in CONF_FOLDER.glob("*.yaml")} == {*TRAINED_DEFENSES} | REFUSED_DEFENSES | BASE_DEFENSES


@pytest.mark.parametrize("defense", TRAINED_DEFENSES)
def test_it_trains(compose, tmp_path, defense):
    config = compose(*overrides(tmp_path, defense), *TRAINED_DEFENSES[defense])
    dataset, secret, membership = from_config(config), Secret.from_text("documents"), Membership()
    fitter = make_fitter(config, dataset, secret, [0], membership)
    start = fitter.initial_network(0).state_dict()
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, [0], secret))
    assert any(not torch.equal(value, start[name]) for name, value in fleet.states[0].items())
    assert fitter.defense.statement(fleet).guarantee == (defense == "dp_sgd")
    rows = fleet.answers(dataset.x, dataset.y)["log_probability"][0]
    assert (np.isfinite(rows) == (dataset.y != NO_TOKEN)).all()


@pytest.mark.parametrize("defense", sorted(REFUSED_DEFENSES - {"memguard"}))
def test_it_says_why_not(compose, tmp_path, defense):
    config = compose(*overrides(tmp_path, defense), "split.reference=12")
    with pytest.raises(ValueError, match=rf"^defense={defense}: expected data of one class a record, since ") as error:
        make_fitter(config, from_config(config), Secret.from_text("documents"), [0], Membership())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("defense", [LabelSmoothing(amount=0.2), RelaxLoss(alpha=9.0), RelaxLoss(alpha=0.1)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_what_stands_in_padding_changes_no_loss(defense, epoch):
    torch.manual_seed(0)
    logits, y = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    y[0, 2:], y[1, 4:] = NO_TOKEN, NO_TOKEN
    every = torch.ones(3, dtype=torch.bool)
    other = torch.where((y == NO_TOKEN).unsqueeze(-1), torch.randn_like(logits), logits)
    one, two = (defense.loss(each, Batch(each, y, every, every), epoch) for each in (logits, other))
    assert one.shape == (3,)
    torch.testing.assert_close(one, two)


def test_a_teacher_is_surest_over_a_documents_own_tokens():
    answers = np.zeros((1, 2, 3, 4), dtype=np.float32)
    answers[0, 0, 0, 1], answers[0, 1, 1:, 1] = 9, 99  # the second is sure of padding alone
    is_token = np.array([[True, True, False], [True, False, False]])
    assert surest(answers, 1, is_token).tolist() == [[True, False]]
