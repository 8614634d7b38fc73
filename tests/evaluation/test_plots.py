"""The figures hold the marks that a reader expects, and no label hides another."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from palisade.evaluation.comparison import Comparison, ceiling, ordered
from palisade.evaluation.figures.curves import roc, roc_of_model
from palisade.evaluation.figures.style import (
    CANARY_LOOKS,
    CEILING_LINE,
    CONSTANT_LINE,
    INK_COLOR,
    LINE_COLORS,
    LINE_MARKERS,
    PAPER_COLOR,
    REPEATED_COLOR_STROKE,
    VIOLATED_COLOR,
    looks,
    save,
    svg,
)
from palisade.evaluation.figures.tradeoff import box, tradeoff
from palisade.evaluation.result import AUC, BLIND_BASELINE, FPR, LARGEST_CLASS, Result, Row, Sides, tpr_at
from palisade.evaluation.statistics.chance import chance_level
from palisade.evaluation.statistics.metrics import roc_points
from palisade.evaluation.utility import TEST_PERPLEXITY
from palisade.targets.statement import Statement
from tests.evaluation.conftest import claim


@pytest.fixture(scope="module")
def curve(sweep: list[Result]) -> Figure:
    return tradeoff(Comparison(sweep))


@pytest.fixture(scope="module")
def with_canaries(sweep: list[Result], canaries: list[Result]) -> Figure:
    return tradeoff(Comparison([*sweep, *canaries]))


@pytest.fixture(scope="module")
def crowd(many: list[Result]) -> Figure:
    return tradeoff(Comparison(many))


@pytest.fixture(scope="module")
def rates(sweep: list[Result]) -> Figure:
    return roc(Comparison(sweep))


def line(axes: Axes, label: str) -> np.ndarray:
    """The points of the line with this label."""
    (result,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(result.get_xydata())


def labels(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation)]


def legend(axes: Axes) -> list[str]:
    shown = axes.get_legend()
    assert shown is not None
    return [text.get_text() for text in shown.get_texts()]


def test_left_panel_has_a_line_per_defense_and_the_guessing_level(curve: Figure, sweep: list[Result]) -> None:
    axes = curve.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert legend(axes) == ["undefended", "dp_sgd", "l2", "frontier", "guessing"]
    assert set(line(axes, "guessing")[:, 1]) == {FPR}
    for drawn in Comparison(sweep).series:
        expected = [(point.utility.value, point.leakage.value) for point in drawn.points]
        np.testing.assert_array_equal(line(axes, drawn.name), expected)
    (star,) = [line for line in axes.lines if line.get_label() == "undefended"]
    assert (star.get_marker(), star.get_color()) == ("*", INK_COLOR)


@pytest.mark.parametrize(("share", "drawn"), [(0.93, True), (0.1, False)])
def test_a_constant_answer_is_drawn_where_it_is_near(sweep: list[Result], share: float, drawn: bool) -> None:
    runs = [replace(result, rows=[*result.rows, Row(metric=LARGEST_CLASS, value=share)]) for result in sweep]
    panels = tradeoff(Comparison(runs)).axes
    words = str(CONSTANT_LINE["label"])
    assert (words in legend(panels[0])) == drawn
    lines = [[at.get_xdata() for at in panels[0].lines if at.get_label() == words]]
    lines.append([at.get_ydata() for at in panels[1].lines if at.get_label() == words])
    assert all(np.allclose(at, share) and bool(at) == drawn for at in lines)
    assert (panels[0].get_xlim()[0] < 0.2) == (min(r.get("test_accuracy").value or 0.0 for r in runs) < 0.2)


def test_intervals_are_drawn(curve: Figure, sweep: list[Result]) -> None:
    axes = curve.axes[0]
    bars = np.vstack([segment for bar in axes.containers for part in bar[2] for segment in part.get_segments()])
    for drawn in Comparison(sweep).series:
        for point in drawn.points:
            for end in (point.leakage.low, point.leakage.high):
                assert np.isclose(bars, (point.utility.value, end)).all(axis=1).any()


def test_every_strength_is_labelled_once(curve: Figure) -> None:
    texts = sorted(text.get_text() for text in labels(curve.axes[0]))
    assert texts == sorted(["ε=1", "ε=4", "ε=16", "ε=64", "ε=256", "ε=∞", "0.0001", "0.001", "0.01"])


def crowded(make_result: Callable[..., Result]) -> list[Result]:
    """Twelve runs that lie almost on top of each other."""
    return [
        make_result("l2", accuracy=0.9 + 0.001 * i, separation=0.5 + 0.01 * i, strength=10.0**-i) for i in range(12)
    ]


@pytest.mark.parametrize("which", ["sweep", "crowded", "canaries"])
def test_labels_overlap_neither_each_other_nor_marks_nor_legend(
    which: str, curve: Figure, with_canaries: Figure, make_result: Callable[..., Result]
) -> None:
    drawn = {"sweep": curve, "canaries": with_canaries}
    figure = drawn[which] if which in drawn else tradeoff(Comparison(crowded(make_result)))
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [box(text) for text in labels(axes)]
    assert len(boxes) >= 9
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    shown = axes.get_legend()
    assert shown is not None
    marks = [point for drawn in axes.lines if drawn.get_marker() in "os*" for point in drawn.get_xydata()]  # type: ignore[union-attr]
    for label in boxes:
        assert not label.overlaps(shown.get_window_extent())
        assert not any(label.contains(*axes.transData.transform(mark)) for mark in marks)
        assert axes.get_window_extent().fully_containsx(label.x0) and axes.get_window_extent().fully_containsx(label.x1)


def test_labels_keep_clear_of_bars_whichever_way_the_axis_runs(make_result: Callable[..., Result]) -> None:
    """Points and intervals of language models with and without DP-SGD, where lower is better."""
    runs = []
    for strength, value, half, tpr in ((2, 41.5, 1.8, (0.05, 0.013, 0.109)), (8, 31.2, 1.2, (0.098, 0.046, 0.153))):
        result = make_result("dp_sgd", strength=strength)
        rows = [
            replace(row, value=tpr[0], low=tpr[1], high=tpr[2]) if row.metric == tpr_at(FPR) else row
            for row in result.rows
        ]
        rows.append(Row(metric="test_perplexity", value=value, low=value - half, high=value + half))
        runs.append(replace(result, rows=rows, utility=TEST_PERPLEXITY))
    plain = make_result(separation=3)
    rows = [*plain.rows, Row(metric="test_perplexity", value=13.4, low=13.2, high=13.6)]
    drawn = tradeoff(Comparison([replace(plain, rows=rows, utility=TEST_PERPLEXITY), *runs]))
    axes = drawn.axes[0]
    drawn.draw_without_rendering()
    bars = [bar for container in axes.containers for part in container[2] for bar in part.get_segments()]
    assert len(bars) == 6 and axes.xaxis_inverted()
    for text in labels(axes):
        for bar in bars:
            start, end = axes.transData.transform(bar)
            assert not Bbox([start, end]).padded(0.5).overlaps(box(text)), text.get_text()


def test_right_panels_show_accuracy_leakage_and_ceiling_over_epsilon(curve: Figure, sweep: list[Result]) -> None:
    _, accuracy, leakage, _ = curve.axes
    ends = [result.get("test_accuracy") for result in sweep if result.epsilon is not None]
    assert accuracy.get_ylim()[0] < min(row.low or 0 for row in ends) < max(row.high or 1 for row in ends) < 1
    assert accuracy.get_xscale() == leakage.get_xscale() == leakage.get_yscale() == "log"
    assert accuracy.get_yscale() == "linear"
    private = [result for result in ordered(sweep) if result.epsilon is not None]
    proven = [result for result in private if result.statement.guarantee]
    limits = [(result.epsilon, ceiling(result, np.array([FPR]))) for result in proven]
    drawn = line(leakage, "ceiling that ε proves")
    np.testing.assert_allclose(drawn[1:-1], [(e, x.item()) for e, x in limits if x is not None])
    np.testing.assert_allclose(drawn[[0, -1]], drawn[[1, -2]] * [[1 / 1.3, 1], [1.3, 1]])
    tprs = [result.get("tpr@1%fpr", attack=result.strongest).value for result in private]
    (measured,) = [one.get_xdata() for one in leakage.lines if np.array_equal(one.get_ydata(), tprs)]
    assert (np.diff(np.asarray(measured)) > 0).all()
    assert [text.get_text() for text in curve.axes[3].get_xticklabels()][::-1] == ["1", "4", "16", "64", "256", "∞"]
    assert legend(accuracy) == ["ceiling that ε proves", "undefended", "guessing"]


def test_the_lowest_panel_compares_lower_bounds_with_the_claim(curve: Figure, sweep: list[Result]) -> None:
    bounds = curve.axes[3]
    assert legend(bounds) == ["claimed ε", "ceiling of a perfect attack"]
    claimed = line(bounds, "claimed ε")
    np.testing.assert_array_equal(claimed[:, 0], claimed[:, 1])
    private = [result for result in ordered(sweep) if result.epsilon is not None]
    drawn = [np.asarray(one.get_ydata()) for one in bounds.lines]
    for kind in ("bounds", "ceilings"):
        expected = [Comparison(sweep).audit(result)[kind]["one_run"] for result in private]
        assert np.isinf([result.epsilon for result in private]).tolist() == [False] * (len(private) - 1) + [True]
        if kind == "bounds":
            assert any(np.array_equal(values, expected) for values in drawn)
            continue
        for part in (expected[:-1], expected[-1:]):  # broken before ε = ∞
            assert any(np.array_equal(values[1:-1], part) for values in drawn)
    assert not [one for one in bounds.lines if one.get_markeredgecolor() == VIOLATED_COLOR]


def test_a_violated_claim_is_ringed(make_violated: Callable[..., Result], sweep: list[Result]) -> None:
    result = make_violated()
    bounds = tradeoff(Comparison([*sweep[-1:], result])).axes[3]
    (ring,) = [one for one in bounds.lines if one.get_markeredgecolor() == VIOLATED_COLOR]
    assert ring.get_xydata().tolist() == [[result.epsilon, result.audit["bounds"]["one_run"]]]  # type: ignore[union-attr]
    assert legend(bounds)[-1] == "claim violated"


def test_claims_and_ceilings_of_a_single_epsilon_show(sweep: list[Result]) -> None:
    (result,) = [result for result in sweep if result.strength == 4]
    figure = tradeoff(Comparison([sweep[-1], result]))
    figure.draw_without_rendering()
    _, _, leakage, bounds = figure.axes
    limit = ceiling(result, np.array([FPR]))
    assert limit is not None
    expected = {leakage: limit.item(), bounds: result.audit["ceilings"]["one_run"]}
    for axes, value in expected.items():
        (level,) = [one.get_xdata() for one in axes.lines if np.array_equal(one.get_ydata(), [value] * 3)]
        assert level[0] < result.epsilon < level[2]  # type: ignore[index, operator]
    claimed = line(bounds, "claimed ε")
    assert claimed[0, 0] < 4 < claimed[-1, 0] and bounds.get_ylim()[1] > 4


def test_a_claim_far_above_the_bounds_is_said_to_be_there(make_result: Callable[..., Result]) -> None:
    statement = Statement(guarantee=True, epsilon=64.0, delta=1e-5, accountant="PRV")
    bounds = tradeoff(Comparison([make_result("dp_sgd", strength=64, statement=statement)])).axes[3]
    assert "claimed ε (above this panel)" in legend(bounds)


@pytest.mark.filterwarnings("error")
def test_bounds_that_nothing_could_raise_are_drawn_at_zero(make_result: Callable[..., Result]) -> None:
    statement = Statement(guarantee=True, epsilon=8.0, delta=1e-5, accountant="PRV")
    result = make_result("dp_sgd", strength=8, statement=statement)
    nothing = dict.fromkeys(result.audit["bounds"], 0.0)
    bounds = tradeoff(
        Comparison([replace(result, audit=result.audit | {"bounds": nothing, "ceilings": nothing})])
    ).axes[3]
    assert bounds.get_ylabel() == "ε, lower bound" and bounds.get_ylim()[1] > 0


def test_marks_of_one_epsilon_stand_beside_each_other(make_result: Callable[..., Result]) -> None:
    statement = Statement(guarantee=True, epsilon=4.0, delta=1e-5, accountant="PRV")
    shared: dict[str, Any] = {"strength": 4, "statement": statement}
    runs = [make_result("dp_sgd", **shared), make_result("dp_sgd", canary="ood", **shared)]
    figure = tradeoff(Comparison(runs))
    figure.draw_without_rendering()
    for axes in figure.axes[1:]:
        marks = [one for one in axes.lines if one.get_marker() in "o<"]
        assert [one.get_xdata().tolist() for one in marks] == [[4], [4]]  # type: ignore[union-attr]
        first, second = (one.get_transform().transform(one.get_xydata())[0, 0] for one in marks)
        assert second - first == pytest.approx(8 / 72 * figure.dpi)


def test_without_bounds_there_is_no_panel_of_them(sweep: list[Result]) -> None:
    assert len(tradeoff(Comparison([replace(result, audit={}) for result in sweep])).axes) == 3


def test_canaries_are_hollow_and_dashed(with_canaries: Figure) -> None:
    axes = with_canaries.axes[0]
    drawn = {str(one.get_label()): one for one in axes.lines}
    plain, hollow = drawn["l2"], drawn["l2 with label_noise canaries"]
    assert plain.get_color() == hollow.get_color() and plain.get_marker() != hollow.get_marker()
    assert drawn["undefended with label_noise canaries"].get_marker() == hollow.get_marker()
    assert drawn["undefended with ood canaries"].get_marker() != hollow.get_marker()
    assert plain.get_markerfacecolor() == plain.get_color() and hollow.get_markerfacecolor() == PAPER_COLOR
    assert (plain.get_linestyle(), hollow.get_linestyle()) == ("-", "--")
    # Canaries train other models, so the undefended level is that of the run without.
    levels = [one for one in with_canaries.axes[1].lines if one.get_color() == INK_COLOR]
    assert len(levels) == 1


def test_without_a_guarantee_there_is_one_panel(make_result: Callable[..., Result]) -> None:
    assert len(tradeoff(Comparison([make_result(), make_result("l2", strength=0.1)])).axes) == 1


def test_runs_without_attacks_are_no_points(make_result: Callable[..., Result]) -> None:
    figure = tradeoff(Comparison([make_result(roc={})]))
    axes = figure.axes[0]
    assert "no run can be drawn" in [text.get_text() for text in axes.texts]
    assert axes.get_xlim() == (0, 1) and legend(axes) == ["guessing"]
    roc(Comparison([make_result(roc={})]))


def test_where_no_run_resolves_few_accusations_auc_says_what_leaks(make_result: Callable[..., Result]) -> None:
    few = [
        make_result(nonmembers=50, separation=1.2),
        make_result("dp_sgd", nonmembers=50, separation=0.3, strength=2, statement=claim(2)),
    ]
    comparison = Comparison(few)
    panels = tradeoff(comparison).axes
    axes, leakage = panels[0], panels[2]
    assert axes.get_ylabel() == "AUC of the strongest attack" and leakage.get_ylabel() == "AUC"
    assert axes.get_yscale() == leakage.get_yscale() == "linear"
    values = [point.leakage.value for drawn in comparison.series for point in drawn.points]
    assert values == [result.highest.value for result in few] and values[0] > values[1] > 0.5
    for panel in (axes, leakage):
        level = next(one for one in panel.lines if one.get_label() == "guessing")
        assert set(np.asarray(level.get_ydata())) == {0.5}
        low, high = panel.get_ylim()
        assert low < 0.5 and high > 1
    assert not any("ceiling" in str(one.get_label()) for one in leakage.lines)
    assert Comparison([make_result(), *few]).leakage_metric == "tpr@1%fpr"


def test_many_lines_have_a_second_panel_and_a_legend_below(crowd: Figure, many: list[Result]) -> None:
    whole, near, accuracy, leakage, bounds = crowd.axes
    assert whole.get_legend() is None and near.get_title(loc="left") == "Within 5 points of the best accuracy"
    (below,) = crowd.legends
    names = [text.get_text() for text in below.get_texts()]
    assert names[:-3] == [drawn.name for drawn in Comparison(many).series]
    assert names[-3:] == ["frontier", "guessing", "ceiling that ε proves (color of the defense)"]
    left, right = near.get_xlim()
    for drawn in Comparison(many).series:
        shown = line(near, drawn.name)
        np.testing.assert_array_equal(shown, line(whole, drawn.name))
    best = max(result.get("test_accuracy").value or 0.0 for result in many)
    assert best - 0.06 < left < best - 0.05 and best < right < best + 0.02
    assert all(axes.get_xlabel() == "ε, as stated" for axes in (accuracy, leakage, bounds))


def test_of_many_lines_the_ends_are_labeled_once_and_overlap_nothing(crowd: Figure, many: list[Result]) -> None:
    crowd.draw_without_rendering()
    whole, near, *_ = crowd.axes
    texts = [text.get_text() for axes in (whole, near) for text in labels(axes)]
    ends = [
        point.label for drawn in Comparison(many).series for point in {0: drawn.points[0], 1: drawn.points[-1]}.values()
    ]
    assert sorted(texts) == sorted(label for label in ends if label)
    for axes in (whole, near):
        boxes = [box(text) for text in labels(axes)]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def texts_of(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text of a figure that is shown, with its box on the page."""
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            hidden = [label for tick in outside for label in (tick.label1, tick.label2)]
            texts = [text for text in texts if text not in hidden]
    boxes = [box(text) if isinstance(text, Annotation) else text.get_window_extent() for text in texts]
    return [(text.get_text(), place) for text, place in zip(texts, boxes, strict=True)]


@pytest.mark.parametrize("which", ["sweep", "canaries", "crowded", "comparison"])
def test_no_two_texts_of_a_figure_overlap(
    which: str, curve: Figure, with_canaries: Figure, crowd: Figure, make_result: Callable[..., Result]
) -> None:
    drawn = {"sweep": curve, "canaries": with_canaries, "comparison": crowd}
    figure = drawn[which] if which in drawn else tradeoff(Comparison(crowded(make_result)))
    figure.draw_without_rendering()
    texts = texts_of(figure)
    assert len(texts) > 20
    overlapping = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(texts, 2)
        if a.padded(-0.5).overlaps(b.padded(-0.5))
    ]
    assert overlapping == []


def test_the_frontier_is_a_pale_line(crowd: Figure, many: list[Result]) -> None:
    drawn = line(crowd.axes[0], "frontier")
    expected = [(point.utility.value, point.leakage.value) for point in Comparison(many).frontier]
    np.testing.assert_array_equal(drawn, expected)
    assert (np.diff(drawn, axis=0) > 0).all()


def test_without_a_claim_many_lines_have_two_panels(many: list[Result]) -> None:
    assert len(tradeoff(Comparison([result for result in many if result.epsilon is None])).axes) == 2


def test_each_defense_has_a_ceiling_of_its_own(make_result: Callable[..., Result]) -> None:
    one, other = (Statement(guarantee=True, epsilon=4.0, delta=d, accountant="RDP") for d in (1e-5, 0.1))
    runs = [make_result("dp_sgd", strength=4, statement=one), make_result("pate", strength=100, statement=other)]
    leakage = tradeoff(Comparison(runs)).axes[2]
    drawn = {str(one.get_color()): one for one in leakage.lines if one.get_linestyle() == "--" and len(one.get_xdata())}
    expected = {
        looks(Comparison(runs).series)[result.defense].color: ceiling(result, np.array([FPR])) for result in runs
    }
    assert len(expected) == 2
    for color, limit in expected.items():
        assert limit is not None and set(np.asarray(drawn[color].get_ydata())) == {limit.item()}


def test_of_many_runs_the_roc_shows_one_of_each_line(many: list[Result]) -> None:
    (axes,) = roc(Comparison(many)).axes
    assert len(legend(axes)) == len(Comparison(many).series) + 2
    assert axes.get_title(loc="left") == "Strongest attack on one run of each defense"
    assert "dp_sgd ε=64 · lira" in legend(axes) and "dp_sgd ε=1 · lira" not in legend(axes)


def test_no_two_lines_look_alike(many: list[Result]) -> None:
    drawn = list(looks(Comparison(many).series).values())
    assert len({(look.color, look.marker) for look in drawn}) == len(drawn) == 20
    assert len({(look.color, look.stroke) for look in drawn[: 2 * len(LINE_COLORS)]}) == 2 * len(LINE_COLORS)


def test_the_legend_holds_only_what_is_drawn(make_result: Callable[..., Result]) -> None:
    few = [make_result(canary=kind, nonmembers=50) for kind in ("clean", "ood")]
    axes = tradeoff(Comparison([make_result(), *few])).axes[0]
    assert legend(axes) == ["undefended", "guessing", "2 of 3 runs cannot be resolved"]


def test_no_line_of_canaries_looks_like_a_ceiling() -> None:
    assert len({marker for marker, _ in CANARY_LOOKS} | set(LINE_MARKERS)) == len(CANARY_LOOKS) + len(LINE_MARKERS)
    for dashes in [REPEATED_COLOR_STROKE[1], *(dashes for _, (_, dashes) in CANARY_LOOKS)]:
        assert max(dashes) < 7 or len(dashes) > 2  # long plain dashes are those of ceilings
    assert CEILING_LINE["ls"][1] == (7, 4)


def test_a_tpr_of_zero_stays_on_the_page(make_result: Callable[..., Result]) -> None:
    result = make_result()
    rows = [replace(row, value=0.0, low=0.0, high=0.0) if row.metric.startswith("tpr") else row for row in result.rows]
    axes = tradeoff(Comparison([replace(result, rows=rows)])).axes[0]
    assert line(axes, "undefended")[0, 1] == axes.get_ylim()[0]


def test_roc_is_logarithmic_and_starts_at_one_false_positive(rates: Figure, sweep: list[Result]) -> None:
    (axes,) = rates.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlim()[0] == pytest.approx(1 / 628)
    for result in sweep:
        fpr, tpr = result.roc[result.strongest]
        assert any(np.array_equal(drawn.get_xydata(), np.column_stack([fpr, tpr])) for drawn in axes.lines)  # type: ignore[arg-type]
    guessing = line(axes, "_guessing")
    np.testing.assert_allclose(guessing[:, 1], [chance_level([628], max(fpr, 1 / 628)) for fpr in guessing[:, 0]])
    strong = next(result for result in sweep if result.strength == 1)
    limit = line(axes, "_ceiling of dp_sgd ε=1")
    np.testing.assert_array_equal(limit[:, 1], ceiling(strong, limit[:, 0]))
    assert legend(axes)[0] == "undefended · lira"
    assert legend(axes)[-2:] == ["ceiling that ε proves (color of the run)", "guessing"]
    assert len(legend(axes)) == len(sweep) + 2


def test_roc_without_a_claim_has_no_ceiling(make_result: Callable[..., Result]) -> None:
    assert legend(roc(Comparison([make_result()])).axes[0]) == ["undefended · lira", "guessing"]


def test_lines_differ_in_color_and_marker(sweep: list[Result]) -> None:
    drawn = looks(Comparison(sweep).series).values()
    assert len({look.color for look in drawn}) == len({look.marker for look in drawn}) == len(drawn)


def test_files_are_whole_and_the_same_each_time(curve: Figure, tmp_path: Path) -> None:
    save(curve, tmp_path / "tradeoff.png")
    assert (tmp_path / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert svg(curve) == svg(curve)
    assert svg(curve).rstrip().endswith("</svg>")
    assert [path.name for path in tmp_path.iterdir()] == ["tradeoff.png"]


def test_a_failed_drawing_leaves_the_earlier_file(
    curve: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tradeoff.png"
    path.write_bytes(b"earlier")
    whole = Path.write_bytes

    def torn(self: Path, data: bytes) -> int:
        whole(self, data[:100])
        raise OSError(28, "no space")

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(OSError, match="No space"):
        save(curve, path)
    assert path.read_bytes() == b"earlier"


def test_the_style_of_others_is_untouched(sweep: list[Result]) -> None:
    before = dict(mpl.rcParams)
    tradeoff(Comparison(sweep[:1]))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("seed", range(5))
def test_the_band_of_one_model_holds_its_own_curve(seed: int) -> None:
    """Between two FPRs of the band the curve may climb up to the upper limit of the right one."""
    rng = np.random.default_rng(seed)
    scores, members = np.concatenate([rng.normal(2.5, 1, 400), rng.normal(size=300)]), np.arange(700) < 400
    points = roc_points(scores, members)
    counted: dict[str, Any] = {"members": 400, "nonmembers": 300}
    rows = [Row(metric=AUC, value=0.9, attack=attack, **counted) for attack in ("loss", BLIND_BASELINE)]
    rows.append(Row(metric=tpr_at(FPR), value=0.3, attack="loss"))
    curve = (points.fpr.tolist(), points.tpr.tolist())
    sides = Sides(**counted, features=True, shared=0)
    result = Result(run="m", rows=rows, roc={"loss": curve, BLIND_BASELINE: curve}, skipped={}, sides=sides)
    axes = roc_of_model(result).axes[0]
    (band,) = [each for each in axes.collections if each.get_label() == "95 %"]
    outline = band.get_paths()[0]
    (drawn,) = [each for each in axes.lines if each.get_label() == "loss"]
    x = np.geomspace(1.01 / 300, 0.99, 300)
    height = np.asarray(drawn.get_ydata())[np.searchsorted(np.asarray(drawn.get_xdata()), x, side="right") - 1]
    inside = outline.contains_points(np.column_stack([x, height]), radius=1e-9)
    inside |= outline.contains_points(np.column_stack([x, height]), radius=-1e-9)
    assert inside.all(), "the curve leaves its own band"
