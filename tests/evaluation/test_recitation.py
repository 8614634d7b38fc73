"""The report's words and pictures on what language models give back."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.extraction import recitation_figures
from palisade.evaluation.figures.style import INK_COLOR, LINE_COLORS
from palisade.evaluation.measuring.exposure import EXPOSURE_COLUMNS, exposed_csv
from palisade.evaluation.report.recitation import recitations, sentences, tables
from palisade.evaluation.report.run_report import summary, write
from palisade.evaluation.report.sections import exposed
from palisade.evaluation.result import Result, Row


def pair(metric: str, inside: float, outside: float) -> list[Row]:
    return [
        Row(metric=metric, group="members", value=inside, low=inside / 2, high=inside * 1.5),
        Row(metric=metric, group="nonmembers", value=outside, low=outside / 2, high=outside * 1.5),
    ]


RECITED_ROWS = [
    *pair("extracted_greedy@4+10", 0.02, 0.002),
    *pair("extracted_greedy@8+10", 0.12, 0.004),
    *pair("secret_exposure@16 copies", 9.9, 1.4),
    *pair("secret_exposure@1 copies", 2.0, 1.5),
    *pair("secret_extracted@16 copies", 0.5, 0.0),
    *pair("repeated@20 characters, as it is", 0.0, 0.0),
    *pair("longest_substring@20 characters, as it is", 4.0, 3.0),
    *pair("repeated@20 characters, in capitals", 0.4, 0.0),
    *pair("texts_refused", 1.0, 0.026),
    *pair("tokens_refused", 0.7, 0.011),
    Row(metric="secret_exposure_limit", value=9.97),
]


def test_words_count_texts_beside_those_that_were_not_used() -> None:
    words = sentences(RECITED_ROWS)
    assert words[0].startswith(
        "Given the first 8 tokens, the model goes on word by word for 10 more with 120 (60 to 180)"
    )
    assert "with 4 (2 to 6) of 1,000 that it was not" in words[0]
    assert "400 (200 to 600) of 1,000 texts that it was trained on, and with 0" in words[3] and "capitals" in words[3]
    assert [sentence.split(" in the")[0] for sentence in words[4:6]] == [
        "A secret that stood once", "A secret that stood 16 times"
    ]  # fmt: skip
    assert "9.9 bits" in words[5] and "outright for 500" in words[5] and "10.0 here" in words[6]
    assert "1,000 (500 to 1,500)" in words[-1] and "26 (13 to 39) of 1,000 that were not" in words[-1]
    assert "1.1 % of the tokens" in words[-1] and len(words) == 9
    assert sentences([row for row in RECITED_ROWS if row.group == "members"]) == []


def test_reports_on_classifiers_hold_none_of_it(make_result: Callable[..., Result]) -> None:
    plain = make_result()
    assert recitations([plain]) == [] and recitation_figures(Comparison([plain])) == {}
    assert "recited" not in summary(Comparison([plain]), "evaluate")
    texts = make_result(rows=[*plain.rows, *RECITED_ROWS])
    assert recitation_figures(Comparison([texts])).keys() == {"extraction", "secrets"}
    assert len(summary(Comparison([texts]), "evaluate")["recited"][0]["sentences"]) == 9


def test_how_to_read_numbers_is_told_once(make_result: Callable[..., Result]) -> None:
    plain = make_result()
    runs = [make_result(run=name, rows=[*plain.rows, *RECITED_ROWS]) for name in ("one", "two")]
    assert [len(entry["sentences"]) for entry in recitations(runs)] == [9, 6], "and the same numbers twice"


def test_several_runs_stand_in_tables_members_beside_others(make_result: Callable[..., Result], tmp_path: Path) -> None:
    plain = make_result()
    filtered = [row for row in RECITED_ROWS if not row.metric.startswith("secret")]
    bare = [row for row in RECITED_ROWS if "refused" not in row.metric and "@4+10" not in row.metric]
    runs = [
        replace(plain, rows=[*plain.rows, *bare]),
        make_result("l2", strength=0.1, rows=[*plain.rows, *filtered]),
        make_result("l2", strength=0.2),
    ]
    texts, secrets, refused = tables(runs)
    assert texts["pairs"][:3] == ["next 10 tokens, given 8", "next 50 characters, given 20", "the same in capitals"]
    assert [row["labels"] for row in texts["rows"]] == [["undefended"], ["l2 0.1"]]
    assert texts["rows"][0]["pairs"][:3] == [["120 [60–180]", "4 [2–6]"], ["0 [0–0]"] * 2, ["400 [200–600]", "0 [0–0]"]]
    assert [row["labels"] for row in secrets["rows"]] == [["undefended", "1"], ["undefended", "16"]]
    assert secrets["rows"][1]["pairs"] == [["9.9 [5.0–14.9]", "1.4 [0.7–2.1]"], ["500 [250–750]", "0 [0–0]"]]
    assert secrets["rows"][0]["pairs"][1] == ["–", "–"] and "10.0 here" in secrets["notes"][0]
    assert refused["rows"] == [
        {"labels": ["l2 0.1"], "pairs": [["1,000 [500–1,500]", "26 [13–39]"], ["70.0 %", "1.1 %"]]}
    ]
    assert tables(runs[1:]) == [], "one run is told in sentences"
    write(Comparison(runs), tmp_path, "evaluate")
    section = (tmp_path / "report.html").read_text(encoding="utf-8").split('id="recited"')[1].split("</section>")[0]
    assert section.count("<table") == 3 and section.count("What a model completes that never saw") == 1
    assert "120 [60–180]" in section and "Given the first" not in section


def test_pictures_take_the_colors_of_the_others_and_bands_begin_where_intervals_do(
    make_result: Callable[..., Result],
) -> None:
    plain = make_result()
    sides = [("members", 0.3, 0.0, 0.6), ("nonmembers", 0.0, 0.0, 0.1)]
    rows = [
        Row(metric=f"extracted_greedy@{prefix}+10", group=group, value=value, low=low, high=high)
        for prefix in (4, 8)
        for group, value, low, high in sides
    ]
    runs = [make_result("l2", rows=[*plain.rows, *rows]), replace(plain, rows=[*plain.rows, *rows])]
    axes = recitation_figures(Comparison(runs))["extraction"].axes[0]
    colors = {str(line.get_label()).split(",")[0]: line.get_color() for line in axes.lines}
    assert colors == {"undefended": INK_COLOR, "l2": LINE_COLORS[0]}
    heights = [area.get_paths()[0].get_extents() for area in axes.collections]
    assert [(box.y0, box.y1) for box in heights] == [(0.0, 0.6), (0.0, 0.1)] * 2


def test_a_prompt_that_suffices_has_a_column_where_there_is_one(make_result: Callable[..., Result]) -> None:
    plain = make_result()
    prefixes: list[int | None] = [None] * len(plain.exposed["record"])
    nothing = make_result(exposed={**plain.exposed, "prefix": prefixes})
    (entry,) = exposed(Comparison([nothing]))
    assert entry["mark"] == "" and {len(line) for line in entry["most"]} == {3}
    prefixes = [5] * len(prefixes)
    (entry,) = exposed(Comparison([make_result(exposed={**plain.exposed, "prefix": prefixes})]))
    assert "prompt" in entry["mark"] and {line[1] for line in entry["most"]} == {"5"}


def test_exposed_texts_name_the_prompt_that_suffices(make_result: Callable[..., Result]) -> None:
    plain = make_result()
    records = len(plain.exposed["record"])
    prefixes = [3 if record % 2 else None for record in range(records)]
    texts = make_result(exposed={**plain.exposed, "prefix": prefixes})
    lines = list(csv.DictReader(io.StringIO(exposed_csv([texts]))))
    assert tuple(lines[0]) == (*EXPOSURE_COLUMNS, "prefix")
    place = {int(record): position for position, record in enumerate(plain.exposed["record"])}
    assert all(line["prefix"] == ("3" if place[int(line["record"])] % 2 else "") for line in lines)
    assert tuple(csv.DictReader(io.StringIO(exposed_csv([plain]))).fieldnames) == EXPOSURE_COLUMNS
    assert np.isin(["3", ""], [line["prefix"] for line in lines]).all()


def test_texts_stand_in_the_list_on_request_alone(make_result: Callable[..., Result]) -> None:
    plain = make_result()
    texts = {plain.run: {int(record): f"text {record}" for record in plain.exposed["record"][1:]}}
    lines = list(csv.DictReader(io.StringIO(exposed_csv([plain], texts=texts))))
    first = str(plain.exposed["record"][0])
    assert all(line["text"] == ("" if line["record"] == first else f"text {line['record']}") for line in lines)


def test_the_page_shows_words_and_pictures(make_result: Callable[..., Result], tmp_path: Path) -> None:
    plain = make_result()
    texts = make_result(rows=[*plain.rows, *RECITED_ROWS])
    write(Comparison([texts]), tmp_path, "evaluate")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page.split('id="recited"')[1].split("</section>")[0]
    assert "9.9 bits" in section and section.count("<svg") == 2
