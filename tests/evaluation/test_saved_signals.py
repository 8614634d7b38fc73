"""Signals in the place of weights: the same results, nothing lost on the way, and a line where more would be needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from palisade.attacks.parts.outputs import Outputs
from palisade.commandline import call
from palisade.evaluate import all_attacks
from palisade.evaluation.cost import costs
from palisade.evaluation.measuring.measure import measure
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.signals import saved as saved_signals
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.saved import MAX_FLOAT32, predictions, rows_of, saved
from palisade.evaluation.signals.shadows import mismatch_view
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import answers, stamp
from palisade.evaluation.studies.never_used import accusations, outside_records
from palisade.evaluation.studies.study_runs import run_study
from palisade.targets import job, signal_saver
from palisade.targets.digests import digest, is_removed, remove_weights
from palisade.targets.forget import forget
from palisade.targets.run import Run
from palisade.train import composed, train_run

FLEET_MODELS = 8
SMALL_RUN = ("data=digits", "trainer.epochs=6", f"fleet.models={FLEET_MODELS}", "fleet.workers=1", "secret=saved",
             "fleet.at_once=4", "fleet.queries=[plain,mirrored]")  # fmt: skip
BY_SIGNALS = ("lira", "lira_offline", "base", "rmia", "rmia_offline", "loss", "confidence", "entropy",
              "modified_entropy", "calibration", "reference", "population", "quantile", "correctness",
              "calibrated_correctness")  # fmt: skip
BY_MORE = {
    "shadow_classifier": "needs whole answers; train with fleet.keep=both",
    "known_members": "needs whole answers; train with fleet.keep=both",
    "negated_classifier": "needs whole answers; train with fleet.keep=both",
    "cascading": "needs to train further shadows; train with fleet.keep=both",
    "joint_lira": "needs the last hidden layer of shadows; train with fleet.keep=both",
    "votes": "needs to query the models with inputs of its choice; train with fleet.keep=both",
    "gradient_norm": "needs the weights; train with fleet.keep=both and grant them with threat=white_box",
    "white_box": "needs the weights; train with fleet.keep=both and grant them with threat=white_box",
    "alignment": "needs checkpoints; train with fleet.keep_checkpoints=9, fleet.keep=both and grant them with",
    "trajectory": "needs checkpoints; train with fleet.keep_checkpoints=9, fleet.keep=both and grant them with",
}
"""Attacks that look at more than signals, and why they are skipped."""


class Killed(BaseException):
    """What no handler of errors stops, as a signal does."""


def trained(folder: Path, *words: str) -> Run:
    return Run(Path(train_run(composed(f"runs={folder}", *SMALL_RUN, *words))["folder"]))


def copied(run: Run, folder: Path) -> Run:
    """The run in a folder of its own: train it again with `trained(folder, …)`."""
    return Run(Path(shutil.copytree(run.folder, folder / "digits" / run.folder.name)))


def protocol(*names: str, threat: Mapping[str, Any] | None = None) -> AttackProtocol:
    nodes = all_attacks()
    audit = {"audit": {"_target_": "palisade.attacks.LossThreshold"}, "guesses": None}
    return AttackProtocol(attacks={name: nodes[name] for name in names}, threat={**audit, **(threat or {})})


def files(run: Run) -> dict[str, bytes]:
    """Everything of the models and about them, by name."""
    paths = [path for name in ("models", "signals") for path in (run.folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in paths if path.suffix != ".json"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("both"), "fleet.keep=both")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Models of the same secret, of which signals alone are there."""
    return trained(tmp_path_factory.mktemp("bare"), "fleet.keep=signals")


def test_neither_weights_nor_answers_of_the_pool_are_on_the_disk(both: Run, bare: Run) -> None:
    names = set(files(bare))
    mark = stamp(both, [3])
    assert {name for name in names if Path(name).name.startswith("3")} == {
        f"signals/none/pool-plain/3-{mark}.signals.npy",
        f"signals/none/pool-mirrored/3-{mark}.signals.npy",
        f"signals/none/population-plain/3-{mark}.signals.npy",
        f"signals/none/test-plain/3-{mark}.npy",
    }
    assert len(names) == 4 * FLEET_MODELS and not bare.has_weights() and both.has_weights()
    with_weights = {name: content for name, content in files(both).items() if name.startswith("models/")}
    assert len(with_weights) == FLEET_MODELS
    assert {name: content for name, content in files(both).items() if name in names} == files(bare)
    assert all(is_removed(bare.folder / name) for name in with_weights)
    assert [digest(bare.folder / name) for name in with_weights] == [digest(both.folder / n) for n in with_weights]
    size = (bare.folder / f"signals/none/pool-plain/3-{mark}.signals.npy").stat().st_size
    assert size < 4.2 * 6 * len(bare.dataset.split.pool), "float32"


def test_signals_are_those_of_whole_answers(both: Run, bare: Run) -> None:
    queries = ("plain", "mirrored")
    whole, alone = view(both, queries=queries), view(bare, queries=queries)
    assert whole.signals is None and alone.logits is None and alone.temperatures == (1.0, 2.0)
    assert (whole.queries, alone.queries, alone.outputs) == (2, 2, "probabilities")
    assert whole.population is not None and alone.population is not None
    for one, other in ((whole, alone), (whole.population, alone.population)):
        for name in ("log_odds", "standardized_log_odds", "loss", "entropy", "modified_entropy"):
            values = getattr(other, name)
            assert values.dtype == np.float64 and np.ptp(values) > 0
            np.testing.assert_allclose(values, getattr(one, name), rtol=1e-6, atol=1e-6, err_msg=name)
        for temperature in (1.0, 2.0):
            expected = one.log_confidence(temperature)
            np.testing.assert_allclose(other.log_confidence(temperature), expected, rtol=1e-6, atol=1e-9)
        assert abs(one.log_confidence(1.0) - one.log_confidence(2.0)).max() > 0.1
        np.testing.assert_array_equal(one.correct, other.correct)
    np.testing.assert_array_equal(predictions(both, "pool"), predictions(bare, "pool"))
    np.testing.assert_array_equal(answers(both, "test"), answers(bare, "test"))
    with pytest.raises(ValueError, match=r"temperature=4: expected one of the signals', 1, 2; choose one of them"):
        alone.log_confidence(4.0)
    with pytest.raises(ValueError, match="whole answers are not there"):
        alone.probabilities_of(0)


def test_results_are_those_of_whole_answers(both: Run, bare: Run) -> None:
    attacks = protocol(*BY_SIGNALS)
    (whole,), (alone,) = results_of([both], attacks), results_of([bare], attacks)
    assert not alone.skipped and not whole.skipped and {*alone.needs} == {*BY_SIGNALS}
    keys = ("metric", "attack", "access", "group", "model")
    expected = {tuple(getattr(row, key) for key in keys): row.value for row in whole.rows}
    measured = {tuple(getattr(row, key) for key in keys): row.value for row in alone.rows}
    assert measured.keys() == expected.keys() and {"auc", "train_accuracy", "test_log_loss"} <= {k[0] for k in expected}
    for key, value in measured.items():
        assert value == pytest.approx(expected[key], abs=1e-3, nan_ok=True), key
    assert {**alone.audit} == {**whole.audit}


def test_attacks_on_labels_say_what_to_keep_too(bare: Run) -> None:
    names = ("votes", "boundary", "cascading", "lira")
    result = measure(bare, protocol("correctness", *names, threat={"outputs": "label"}), bounds=False)
    assert result.skipped["votes"] == result.skipped["boundary"] == BY_MORE["votes"]
    assert result.skipped["lira"] == "needs logits or probabilities or top-k; only labels are released"
    assert {*result.skipped} == {*names} and {*result.needs} == {"correctness"}


def test_levels_that_take_whole_answers_are_left_out_of_a_study(bare: Run, both: Run, capsys: Any) -> None:
    cut, whole = {"outputs": "probabilities", "decimals": 2}, {"outputs": "logits"}
    study = {"name": "output_levels", "levels": [{"outputs": "label"}, cut, whole]}
    measured = [{row.setting for row in run_study(study, [run], protocol("loss"))} for run in (bare, both)]
    assert measured == [{"label", "logits"}, {"label", "probabilities, 2 decimals", "logits"}]
    assert "fleet.keep=both" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^study\.levels=.*: expected others: .* train with fleet\.keep=both$"):
        run_study({**study, "levels": [cut]}, [bare], protocol("loss"))


def test_attacks_that_look_at_more_say_what_to_keep(bare: Run) -> None:
    result = measure(bare, protocol("loss", *BY_MORE, threat={"weights": True}), bounds=False)
    assert {*result.skipped} == {*BY_MORE} and {*result.needs} == {"loss"}
    for name, reason in BY_MORE.items():
        assert result.skipped[name].startswith(reason), name
    warm = {"warm": {**all_attacks()["rmia"], "temperature": 4.0}}
    skipped = measure(bare, AttackProtocol(attacks=warm), bounds=False).skipped
    assert skipped == {"rmia": "needs log p at temperature 4; train with fleet.temperatures=[1,2,4]"}


def test_grants_are_kept(both: Run, bare: Run) -> None:
    label = view(bare, Grant(outputs="label"))
    assert label.outputs == "label" and label.signals is None and label.query is None
    np.testing.assert_array_equal(label.correct, view(both, Grant(outputs="label")).correct)
    attacks = protocol("correctness", "lira", threat={"outputs": "label"})
    result = measure(bare, attacks, bounds=False)
    assert {*result.needs} == {"correctness"} and "only labels are released" in result.skipped["lira"]
    probabilities = view(bare, Grant(outputs="probabilities"))
    np.testing.assert_array_equal(probabilities.log_odds, view(bare).log_odds)
    for name in ("decimals", "top_k"):
        grant = Grant(outputs="probabilities", **{name: 3})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=rf"threat.{name}=3: expected null .* fleet.keep=both"):
            view(bare, grant)
    hidden = view(bare, Grant(weights=True), threats=[each.threat for each in protocol(*BY_MORE).make_attacks()])
    more = ("query", "query_label", "gradient_norms", "trajectory", "shadow_features", "further_shadows")
    assert all(getattr(hidden, name) is None for name in more)


def test_what_was_not_kept_is_refused_in_a_line(both: Run, bare: Run) -> None:
    with pytest.raises(ValueError, match=r"queries=left: expected .*fleet.queries=\[plain,left\]"):
        view(bare, queries=("plain", "left"))
    with pytest.raises(ValueError, match=r"neither weights nor whole answers \(pool, plain\); .*fleet.keep=both"):
        answers(bare, "pool")
    with pytest.raises(ValueError, match=r"fleet.keep=signals: expected of both runs"):
        mismatch_view(view(both), view(bare))
    assert mismatch_view(view(bare), view(bare)).log_odds.shape[0] == 2 * FLEET_MODELS
    with pytest.raises(ValueError, match=r"out=population: expected a run whose models answer.*fleet.keep=both"):
        list(accusations(bare, protocol("loss"), "population", outside_records(bare, "population")))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["fleet.keep=all"], "fleet.keep=all: expected one of weights, signals, both"),
        (["fleet.keep=both", "fleet.queries=[plain,upside]"], "fleet.queries=upside: expected ways of plain, "),
        (["fleet.keep=both", "fleet.queries=[mirrored]"], "fleet.queries=['mirrored']: expected plain first"),
        (["fleet.keep=both", "fleet.temperatures=[0]"], "fleet.temperatures=[0]: expected a list, each a number > 0"),
        (["fleet.keep=both", "fleet.temperatures=[1,1.0]"], "fleet.temperatures=[1, 1.0]: expected different ones"),
        (["fleet.keep=signals", "fleet.keep_checkpoints=2"], "fleet.keep=signals: expected both with fleet.keep_check"),
        (["fleet.keep=signals", "guard=rounding"], "fleet.keep=signals: expected both with guard=rounding"),
        (["fleet.keep=both", "data=breast_cancer", "fleet.queries=[plain,up]"], "fleet.queries=up: expected images"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    small = [word for word in SMALL_RUN if not word.startswith("fleet.queries")]
    with pytest.raises(SystemExit) as ended:
        call(lambda: train_run(composed(f"runs={tmp_path}", *small, *words)))
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and line in printed and len(printed.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_guards_and_checkpoints_that_are_there_keep_their_weights(tmp_path: Path) -> None:
    small = (f"runs={tmp_path}", "data=digits", "network=linear", "trainer.epochs=2", "fleet.models=2", "secret=x")
    train_run(composed(*small, "fleet.workers=1", "guard=rounding"))
    with pytest.raises(ValueError, match=r"fleet.keep=signals: expected both with guard=rounding"):
        train_run(composed(*small, "fleet.workers=1", "fleet.keep=signals"))
    other = (*small, "seed=1", "fleet.workers=1")
    train_run(composed(*other, "fleet.keep_checkpoints=1"))
    with pytest.raises(ValueError, match=r"fleet.keep=signals: expected both, since .* holds checkpoints"):
        train_run(composed(*other, "fleet.keep=signals"))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The models whose weights were removed, each once all of its signals could be read."""
    removed: list[int] = []

    def watching(remove: Callable[[Path], None]) -> Callable[[Path], None]:
        def removing(path: Path) -> None:
            model, folder = int(path.stem), path.parents[1] / "signals" / "none"
            lying = sorted(each.parent.name for each in folder.glob(f"*/{model}-*.npy"))
            assert lying == ["pool-mirrored", "pool-plain", "population-plain", "test-plain"], "before its signals"
            removed.append(model)
            remove(path)

        return removing

    for module in (signal_saver, job):
        monkeypatch.setattr(module, "remove_weights", watching(remove_weights))
    return removed


def test_weights_go_only_when_signals_are_there(both: Run, bare: Run, tmp_path: Path, watched: list[int]) -> None:
    assert files(trained(tmp_path, "fleet.keep=signals")) == files(bare)
    assert watched == list(range(FLEET_MODELS))


def test_weights_that_are_there_become_signals(both: Run, bare: Run, tmp_path: Path, watched: list[int]) -> None:
    plain = trained(tmp_path, "fleet.keep=weights")
    assert {*files(plain)} == {f"models/{model}.safetensors" for model in range(FLEET_MODELS)}
    answers(plain, "pool"), answers(plain, "test")
    run = trained(tmp_path, "fleet.keep=signals")
    assert files(run) == files(bare) and watched == list(range(FLEET_MODELS))
    assert run.config["fleet"]["keep"] == "signals" and not run.missing(8, is_saved=lambda model: True)


def test_weights_that_were_removed_are_trained_again_bit_for_bit(both: Run, bare: Run, tmp_path: Path) -> None:
    run = copied(bare, tmp_path)
    first = results_of([run], protocol("loss", "shadow_classifier"))[0]
    assert {*first.skipped} == {"shadow_classifier"}
    trained(tmp_path, "fleet.keep=weights")
    assert run.has_weights() and stamp(run) == stamp(both)
    weights = {name: content for name, content in files(both).items() if name.startswith("models/")}
    assert {name: content for name, content in files(run).items() if name.startswith("models/")} == weights
    again = results_of([run], protocol("loss", "shadow_classifier"))[0]
    assert not again.skipped, "results of signals alone are none of the models"


def test_more_models_join_the_signals(bare: Run, tmp_path: Path) -> None:
    run, before = copied(bare, tmp_path), files(bare)
    outcome = train_run(composed(f"runs={tmp_path}", *SMALL_RUN, "fleet.keep=signals", "fleet.models=10"))
    assert outcome["status"] == "trained" and len(run.models()) == 10
    after = files(run)
    assert {name: after[name] for name in before} == before and len(after) == 4 * 10
    assert view(run).models == 10
    outcome = train_run(composed(f"runs={tmp_path}", *SMALL_RUN, "fleet.keep=signals", "fleet.models=10"))
    assert outcome["status"] == "cached"


def test_an_evaluation_leaves_signals_of_models_that_are_just_trained(tmp_path: Path) -> None:
    """They are all that there is of them: their weights were removed already."""
    run = trained(tmp_path, "fleet.models=4")
    work, folder = signal_saver.remove_weights, run.folder / "signals" / "none" / "pool-plain"

    def evaluating(path: Path) -> None:
        if path.stem == "7":
            answers(Run(run.folder), "pool")
        work(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(signal_saver, "remove_weights", evaluating)
        trained(tmp_path, "fleet.keep=signals")
    assert len(list(folder.glob("*"))) == FLEET_MODELS and view(run).models == FLEET_MODELS


@pytest.mark.parametrize(("first", "then"), [("signals", "weights"), ("signals", "both"), ("weights", "signals")])
def test_all_models_of_a_run_change_together(tmp_path: Path, first: str, then: str) -> None:
    run = trained(tmp_path, f"fleet.keep={first}")
    before = files(run)
    with pytest.raises(ValueError, match=rf"fleet.models=4: expected 8, all models of .* fleet.keep={then}"):
        trained(tmp_path, f"fleet.keep={then}", "fleet.models=4")
    assert files(run) == before
    assert (
        train_run(composed(f"runs={tmp_path}", *SMALL_RUN, f"fleet.keep={first}", "fleet.models=4"))["status"]
        == "cached"
    )


def test_other_temperatures_are_computed_from_weights_or_trained_for(both: Run, bare: Run, tmp_path: Path) -> None:
    run = copied(both, tmp_path / "both")
    before = {path: path.stat().st_mtime_ns for path in (run.folder / "models").glob("*.safetensors")}
    trained(tmp_path / "both", "fleet.keep=both", "fleet.temperatures=[1,4]")
    assert saved(run, "pool").dtype.names[-1] == "log_confidence 4.0"
    assert before == {path: path.stat().st_mtime_ns for path in before}, "no model was trained again"
    run = copied(bare, tmp_path / "bare")
    trained(tmp_path / "bare", "fleet.keep=signals", "fleet.temperatures=[1,4]")
    assert view(run).temperatures == (1.0, 4.0) and not run.has_weights() and stamp(run) == stamp(bare)


@pytest.mark.parametrize(
    ("module", "work", "weights"),
    [(signal_saver, remove_weights, 3), (saved_signals, rows_of, 4)],
    ids=["removal", "save"],
)
def test_a_killed_run_goes_on_where_it_was(
    bare: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    work: Callable[..., Any],
    weights: int,
) -> None:
    """Between the signals of all models of a stack and the removal of some weights, or amid these signals."""
    asked = []

    def killed(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 6:
            raise Killed
        return work(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module, work.__name__, killed)
        trained(tmp_path, "fleet.keep=signals")
    folder = tmp_path / "digits" / bare.folder.name
    assert len(list(folder.glob("models/*.safetensors"))) == weights and not (folder / "complete.json").exists()
    assert Run(folder).has_models()
    assert files(trained(tmp_path, "fleet.keep=signals")) == files(bare)


def test_weights_stay_while_another_process_evaluates(both: Run, tmp_path: Path) -> None:
    run = copied(both, tmp_path)
    with run.read(), pytest.raises(ValueError, match=r"fleet.keep=signals: expected .* not being evaluated by another"):
        trained(tmp_path, "fleet.keep=signals")
    assert run.has_weights()
    trained(tmp_path, "fleet.keep=signals")
    assert not run.has_weights()


def test_a_run_that_lost_signals_says_so(bare: Run, tmp_path: Path) -> None:
    run = copied(bare, tmp_path)
    next((run.folder / "signals" / "none" / "pool-plain").glob("5-*")).unlink()
    with pytest.raises(ValueError, match=r"holds neither the weights nor the signals of model 5 \(pool, plain\)"):
        view(run)
    trained(tmp_path, "fleet.keep=signals")
    assert view(run).models == FLEET_MODELS


def test_signals_of_extreme_answers_are_finite() -> None:
    logits = np.array([[[3e38, -3e38, 0.0], [-3e38, 3e38, 3e38], [0.0, 0.0, 0.0]]], dtype=np.float32)
    labels = np.array([0, 0, 2])
    rows = rows_of(logits, labels, (1.0, 0.5))
    outputs = Outputs(labels=labels, signals=rows)
    assert abs(outputs.log_odds).max() <= MAX_FLOAT32 and np.isfinite(outputs.log_confidence(0.5)).all()
    np.testing.assert_array_equal(outputs.correct[0, :, 0], [True, False, False])
    assert outputs.classes == 3 and not outputs.whole_answers
    np.testing.assert_allclose(outputs.entropy[0, 2, 0], np.log(3), rtol=1e-6)


def test_a_plan_knows_what_is_kept(both: Run, bare: Run, tmp_path: Path) -> None:
    small = (f"runs={tmp_path}", *SMALL_RUN, "plan=true")
    weights, alone, two = (train_run(composed(*small, f"fleet.keep={keep}")) for keep in ("weights", "signals", "both"))
    assert alone["megabytes"] < weights["megabytes"] < two["megabytes"]
    held = sum(path.stat().st_size for path in (bare.folder / "signals").rglob("*.npy")) / 1e6
    assert alone["megabytes"] == pytest.approx(held, rel=0.02)
    assert alone["missing"] == FLEET_MODELS


def test_a_plan_of_an_evaluation_counts_what_would_run(bare: Run) -> None:
    (cost,) = costs([bare], protocol("rmia", "votes", "cascading", "known_members"))
    steps = ("answers", "signals", "training", "metrics", "rescoring")
    assert {*cost.seconds} == {"rmia", *steps} and cost.disk == 0
    assert cost.seconds["answers"] == cost.seconds["signals"] == 0 < cost.seconds["metrics"]


def test_forgetting_counts_models_without_weights(bare: Run, tmp_path: Path) -> None:
    run = copied(bare, tmp_path)
    assert f": {FLEET_MODELS} models, signals" in forget(run.folder, tmp_path, tmp_path / "a", tmp_path / "b")
    assert not run.folder.exists()
