"""The examples of CONTRIBUTING.md are a defense and an attack that work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float

from palisade.attacks import Attack, ThreatModel, View
from palisade.data.loaders import Batch
from palisade.evaluation.statistics.metrics import roc_auc
from palisade.targets.fleet import Defense

PAGE_TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(name: str) -> tuple[Any, dict[str, Any]]:
    """A class of the page, and its YAML."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE_TEXT, re.DOTALL) if f"class {name}" in block]
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE_TEXT, re.DOTALL) if f".{name}\n" in block]
    names = {"dataclass": dataclass, "Defense": Defense, "Attack": Attack, "ThreatModel": ThreatModel, "View": View}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names | {"np": np, "Float": Float}, names)
    return names[name], yaml.safe_load(text)


def test_the_defense_rewards_uncertain_answers() -> None:
    penalty, settings = example("ConfidencePenalty")
    assert settings.pop("_target_") == "palisade.defenses.confidence_penalty.ConfidencePenalty"
    defense = penalty(**settings)
    sure = torch.tensor([[9.0, 0.0], [1.0, 0.0]])
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 0]), torch.ones(2, dtype=torch.bool), torch.arange(2))
    cost = defense.loss(sure, batch, 0) - Defense.loss(defense, sure, batch, 0)
    assert cost.shape == (2,) and cost[1] < cost[0] < 0
    assert defense.strength == settings["weight"]


def test_the_attack_finds_members() -> None:
    surprise, settings = example("Surprise")
    assert settings == {"surprise": {"_target_": "palisade.attacks.surprise.Surprise"}}
    rng = np.random.default_rng(0)
    membership = rng.random((8, 400)) < 0.5
    logits = rng.normal(size=(8, 400, 3)) + 2 * membership[:, :, None] * [1, 0, 0]
    scores = surprise().score(View(logits=logits, labels=np.zeros(400, dtype=int), membership=membership))
    assert roc_auc(scores[0], membership[0]) > 0.8
