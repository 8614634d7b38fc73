"""Hostile settings: whatever stands in a configuration, it is refused in one line or works, and damages no run."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusal import refusal

from palisade.commandline import EXIT_GATE_EXCEEDED
from palisade.evaluate import evaluate_runs
from palisade.targets.config import flat
from palisade.train import composed, train_run

pytestmark = pytest.mark.slow

CONF_FOLDER = Path(__file__).parents[2] / "conf"
SMALL_SETTINGS = ["data=digits", "fleet.models=1", "fleet.workers=1", "trainer.epochs=1", "secret=fuzz"]
ROLE_SETTINGS = ["split.pool=200", "split.validation=50", "split.reference=200"]
EDGE_VALUES = [
    -1,
    0,
    1,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "abc",
    "",
    None,
    True,
    "???",
    "../../etc",
]
NESTED_VALUES = [[], [1, -2], ["a"], {}, {"a": 1}, {"_target_": "os.system"}]
FUZZ_SETTINGS = settings(
    max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
hostile = (
    st.sampled_from([*EDGE_VALUES, *NESTED_VALUES])
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.recursive(
        st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=4,
    )
)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml"))


CHOSEN_GROUPS = {
    f"{group}={name}": [f"{group}={name}", *(["canary.count=20"] if group == "canary" and name != "none" else [])]
    for group in ("network", "defense", "guard", "canary")
    for name in choices(group)
    if name != "own"
} | {"tuning=dp_sgd": ["defense=dp_sgd", "tuning=dp_sgd"], "": []}


def with_value(node: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Settings with another value of one of them."""
    changed: dict[str, Any] = copy.deepcopy(dict(node))
    *path, last = key.split(".")
    inner = changed
    for name in path:
        inner = inner[name]
    inner[last] = value
    return changed


def keys_of(node: Mapping[str, Any], group: str) -> list[str]:
    """The settings of a group, single ones and the groups below it."""
    single = [key for key, _ in flat(node)]
    groups = {key.rpartition(".")[0] for key in single} - {""}
    return [key for key in (*single, *sorted(groups)) if not group or key == group or key.startswith(f"{group}.")]


def refuses_in_one_line(command: Any) -> bool:
    """True if a command refuses its settings as bad input; any other error is raised again."""
    return refusal(command, longest=2000) is not None


def content(folder: Path) -> str:
    """A hash of all files and their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with one complete run."""
    folder = tmp_path_factory.mktemp("fuzz") / "runs"
    train_run(composed(*SMALL_SETTINGS, *ROLE_SETTINGS, f"runs={folder}"))
    return folder


@pytest.fixture(scope="module")
def chosen(runs) -> dict[str, dict[str, Any]]:
    return {
        name: composed(*SMALL_SETTINGS, *ROLE_SETTINGS, f"runs={runs}", "plan=true", *overrides)
        for name, overrides in CHOSEN_GROUPS.items()
    }


@pytest.mark.parametrize("group", ["", "network", "defense", "guard", "canary", "tuning"])
def test_hostile_settings_are_refused_or_planned(chosen, runs, group):
    before = content(runs)
    named = [name for name in chosen if name.partition("=")[0] == group]
    cases = [(name, key) for name in named for key in keys_of(chosen[name], group)]
    cases = [(name, key) for name, key in cases if key not in ("plan", "runs", "ship") and not key.startswith("names")]
    refused = []

    @FUZZ_SETTINGS
    @given(st.sampled_from(cases), hostile)
    def run(case: tuple[str, str], value: Any) -> None:
        name, key = case
        refused.append(refuses_in_one_line(lambda: train_run(with_value(chosen[name], key, value))))

    run()
    assert sum(refused) > 20
    assert content(runs) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN_GROUPS)
@pytest.mark.parametrize("plan", [True, False])
def test_every_setting_with_every_hostile_value(chosen, tmp_path, name, plan):
    node = {**chosen[name], "plan": plan, "runs": str(tmp_path)}
    endless = ("epochs", "models", "workers", "sub_models", "teachers", "depth", "width")
    for key in keys_of(node, name.partition("=")[0]):
        for value in (*EDGE_VALUES, *NESTED_VALUES):
            if not (key.startswith("names") or key in ("plan", "runs", "ship") or key.split(".")[-1] in endless):
                refuses_in_one_line(lambda key=key, value=value: train_run(with_value(node, key, value)))


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config = compose("evaluate", ["data=digits", "attack=full"])
    container: Any = OmegaConf.to_container(config, resolve=True)
    return {**container, "command": "python evaluate.py"}


@pytest.mark.parametrize("group", ["threat", "choose", "gate", "study", "search"])
def test_unknown_settings_of_the_evaluation_are_refused_by_name(evaluation, runs, tmp_path, group):
    files = {"study": "output_levels", "search": "frontier"}
    settings_node = (
        yaml.safe_load((CONF_FOLDER / group / f"{files[group]}.yaml").read_text())
        if group in files
        else evaluation[group]
    )
    node = {**evaluation, "root": str(runs), "reports": str(tmp_path / "reports"), group: settings_node}
    message = refusal(lambda: evaluate_runs(with_value(node, f"{group}.zzz", 1)), longest=2000)
    assert message is not None and f"{group}.zzz=1: no such setting, expected one of " in message


@pytest.mark.slow
@pytest.mark.parametrize("group", ["threat", "choose", "gate"])
def test_every_hostile_limit_or_grant_is_refused_or_judged(evaluation, runs, tmp_path, group):
    """With a run to attack: what comes before it in the command hides nothing."""
    attack = {"loss": evaluation["attack"]["loss"]}
    node = {**evaluation, "attack": attack, "root": str(runs), "reports": str(tmp_path / "reports")}
    refused = 0
    for key in keys_of(node, group):
        for value in (*EDGE_VALUES, *NESTED_VALUES):
            try:
                refused += refuses_in_one_line(lambda key=key, value=value: evaluate_runs(with_value(node, key, value)))
            except SystemExit as ended:
                assert ended.code == EXIT_GATE_EXCEEDED
    assert refused > 20


def test_hostile_settings_of_the_evaluation_are_refused(evaluation, tmp_path):
    """There is no run: whatever is said, it must be refused, for one reason or another."""
    node = {**evaluation, "root": str(tmp_path / "none"), "reports": str(tmp_path / "reports")}
    cases = [key for key in keys_of(node, "") if key not in ("command", "reports", "root")]

    @settings(FUZZ_SETTINGS, max_examples=60)
    @given(st.sampled_from(cases), hostile)
    def run(key: str, value: Any) -> None:
        assert refuses_in_one_line(lambda: evaluate_runs(with_value(node, key, value)))

    run()
    assert not (tmp_path / "reports").exists()


LATE_CASES = {
    "learning rate": ["trainer.optimizer.lr=1e300"],
    "layers": ["network.hidden=[1000000000000]"],
    "optimizer": ["trainer.optimizer._target_=builtins.print"],
    "own network": ["network._target_=os.system"],
    "guard": ["guard._target_=os.system"],
    "weight": ["defense=l2", "defense.weight_decay=1e300"],
    "temperature": ["defense=distillation", "split.reference=0.1", "defense.temperature=1e300"],
    "epsilon": ["defense=dp_sgd", "defense.epsilon=1e-300"],
    "clipping": ["defense=dp_sgd", "defense.max_grad_norm=nan"],
    "groups": ["+split.nope=1"],
    "absent": ["~fleet.models"],
    "secret": ["secret=other"],
}
"""What shows only when a model is made or trained, as it is written on a command line."""


@pytest.mark.parametrize("case", LATE_CASES)
def test_what_shows_late_leaves_earlier_runs_alone(runs, case):
    (earlier_run,) = (path.parent for path in runs.glob("digits/*/complete.json"))
    before = content(earlier_run)
    assert refuses_in_one_line(
        lambda: train_run(composed(*SMALL_SETTINGS, *ROLE_SETTINGS, f"runs={runs}", *LATE_CASES[case]))
    )
    assert content(earlier_run) == before
    for path in (runs / "digits").iterdir():
        assert path == earlier_run or {inner.name for inner in path.iterdir()} <= {"FAILED", ".lock", "train.log"}
