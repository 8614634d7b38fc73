"""Settings that are `auto` follow from public numbers: N, ε, the clipping norm, and what was set beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from palisade.data.dataset import from_config
from palisade.data.schedule import TrainingSchedule
from palisade.evaluation.comparison import check_comparable
from palisade.targets.defaults import of_size, resolved
from palisade.targets.recipe import Recipe
from palisade.train import composed


def settings(*overrides: str, size: int = 3000) -> dict[str, Any]:
    return of_size(composed("data=digits", *overrides), size)


def written(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [value for inner in node.values() for value in written(inner)]
    return [node]


@pytest.mark.parametrize(("size", "epochs"), [(20, 100), (200, 50), (629, 16), (3000, 3), (50_000, 3)])
def test_a_dense_network_is_shown_ten_thousand_records(size: int, epochs: int) -> None:
    chosen = settings(size=size)
    assert chosen["network"]["hidden"] == [128] and chosen["names"]["network"] == "mlp"
    assert Recipe.of(chosen).epochs == epochs


def test_other_networks_train_as_long_as_ever() -> None:
    assert Recipe.of(settings("network=cnn")).epochs == 40
    recipe = Recipe.of(settings("network=cnn", "defense=dp_sgd"))
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer["lr"]) == (40, 128, 0.1)


@pytest.mark.parametrize(
    "defense", ["defense=dp_sgd", "defense=distillation defense@defense.base=dp_sgd", "defense=selena"]
)
def test_a_network_is_linear_where_dp_sgd_trains_it(defense: str) -> None:
    chosen = settings(*defense.split())
    private = "dp_sgd" in defense
    assert (chosen["network"]["hidden"], chosen["names"]["network"]) == (([], "linear") if private else ([128], "mlp"))


def test_early_stopping_has_epochs_to_choose_from_unless_they_are_set() -> None:
    stopped = settings("defense=early_stopping")
    assert Recipe.of(stopped).epochs == 40 and stopped["trainer"] == settings()["trainer"]
    assert Recipe.of(settings("defense=early_stopping", "trainer.epochs=9")).epochs == 9


@dataclass
class Trained:
    """A run with its settings."""

    folder: str
    config: dict[str, Any]


@pytest.mark.parametrize(
    "words",
    [("defense=ccl",), ("defense=deduplication", "defense@defense.base=early_stopping")],
    ids=["a slower optimizer", "a base that stops"],
)
def test_what_learns_more_slowly_has_more_epochs(words: tuple[str, ...]) -> None:
    chosen = settings(*words)
    assert {recipe.epochs for recipe in (Recipe.of(chosen), *Recipe.of_bases(chosen))} & {40}
    assert chosen["trainer"]["epochs"] == 3


def test_a_default_network_is_called_what_it_is() -> None:
    assert settings("network=linear", "network.hidden=auto")["names"]["network"] == "mlp"


def test_default_runs_stand_on_one_curve() -> None:
    words = ["defense=none", "defense=early_stopping", "defense=l2", "defense=dp_sgd"]
    runs = [Trained(word, settings(word)) for word in words]
    check_comparable(runs)
    with pytest.raises(ValueError, match=r"network\._target_="):
        check_comparable([Trained("cnn", settings("network=cnn")), runs[-1]])


def test_what_is_set_stays() -> None:
    chosen = settings(
        *("network=mlp", "defense=dp_sgd", "defense.trainer.epochs=7", "defense.trainer.batch_size=100"),
        *("defense.trainer.optimizer.lr=0.3", "trainer.epochs=9"),
    )
    recipe = Recipe.of(chosen)
    assert chosen["network"]["hidden"] == [128]
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer["lr"], chosen["trainer"]["epochs"]) == (7, 100, 0.3, 9)
    assert settings("network.hidden=[32]", "defense=dp_sgd")["names"]["network"] == "mlp"


@pytest.mark.parametrize(
    ("epsilon", "norm", "epochs", "momentum"), [(1, 1.0, 60, 0.9), (8, 0.5, 60, 0.9), (1e9, 1.0, 20, 0)]
)
def test_all_steps_together_are_as_long_as_noise_allows(
    epsilon: float, norm: float, epochs: int, momentum: float
) -> None:
    chosen = settings(
        *("defense=dp_sgd", f"defense.epsilon={epsilon}", f"defense.max_grad_norm={norm}"),
        *(f"defense.trainer.epochs={epochs}", f"defense.trainer.optimizer.momentum={momentum}"),
    )
    recipe = Recipe.of(chosen)
    assert recipe.batch_size == 1000
    steps = TrainingSchedule(size=3000, batch_size=1000, epochs=epochs).steps
    path = recipe.optimizer["lr"] * steps * norm / (1 - momentum)
    assert path == pytest.approx(min(3 * (3000 * epsilon) ** 0.6, 2400), rel=5e-3)


def test_no_noise_takes_the_longest_path() -> None:
    lr = Recipe.of(settings("defense=dp_sgd", f"defense.epsilon={math.inf}")).optimizer["lr"]
    assert lr == pytest.approx(2400 * 0.1 / 180, rel=5e-3)


def test_a_rule_for_other_optimizers_is_nobodys_guess() -> None:
    with pytest.raises(ValueError, match=r"defense\.trainer\.optimizer\.lr=auto: .*torch\.optim\.Adam"):
        settings("defense=dp_sgd", "defense.trainer.optimizer._target_=torch.optim.Adam")


@pytest.mark.parametrize("defense", ["none", "dp_sgd", "early_stopping", "pate", "l2"])
def test_nothing_is_auto_afterwards(defense: str) -> None:
    chosen = settings(f"defense={defense}")
    assert "auto" not in [value for group in ("network", "trainer") for value in written(chosen[group])]
    assert "auto" not in written(chosen["defense"].get("trainer", {}))


def test_n_is_the_public_one() -> None:
    composed_settings = composed("data=digits", "split.pool=1000")
    assert resolved(composed_settings, from_config(composed_settings))["trainer"]["epochs"] == 20
