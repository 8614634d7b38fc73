"""The report: self-contained, escaped, and the same numbers as the rows."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.style import INK_COLOR
from palisade.evaluation.measuring.exposure import Exposure
from palisade.evaluation.protocol import PROTOCOL_VERSION
from palisade.evaluation.report.page import inline, render
from palisade.evaluation.report.run_report import page_of, summary, tidy_csv, write
from palisade.evaluation.report.sections import EPSILON_BOUNDS
from palisade.evaluation.result import RESULT_COLUMNS, Result
from palisade.targets import RESULTS_VERSION

CALLED_COMMAND = "python evaluate.py data=digits name='a<b'"
FIGURE_NAMES = ("tradeoff", "roc", "exposure")
FILE_NAMES = (
    "results.csv", "exposed.csv", "report.html", "report.json", "tradeoff.png", "roc.png", "exposure.png",
)  # fmt: skip
NEEDS_WEIGHTS = "needs the weights; threat=white_box grants them"
VOID_TAGS = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers what tests ask for."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(results: list[Result]) -> str:
    """The report without its figures, which take long to draw."""
    return render(
        page_of(Comparison(results), summary(Comparison(results), CALLED_COMMAND)), {"tradeoff": "", "roc": ""}
    )


@pytest.fixture(scope="module")
def written(sweep: list[Result], canaries: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "new" / "digits"
    reasons = {
        "population": "needs population records; the split has none",
        "one": NEEDS_WEIGHTS,
        "other": NEEDS_WEIGHTS,
    }
    skipped = [replace(result, skipped=reasons) for result in [*sweep, *canaries]]
    assert write(Comparison(skipped), folder, CALLED_COMMAND) == [folder / name for name in FILE_NAMES]
    return folder


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "report.html").read_text()


def test_all_files_and_nothing_half_written(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [*FILE_NAMES, *(f"{name}.svg" for name in FIGURE_NAMES)]
    )


@pytest.mark.usefixtures("undrawn")
def test_what_was_not_measured_is_left_out(make_result: Callable[..., Result], tmp_path: Path) -> None:
    paths = write(Comparison([make_result(exposed={}, audit={}, needs={})]), tmp_path, CALLED_COMMAND)
    assert not any("expos" in path.name for path in [*paths, *tmp_path.iterdir()])
    html = (tmp_path / "report.html").read_text()
    assert 'id="exposure"' not in html and 'id="evidence"' not in html and 'id="canaries"' not in html
    Page(html)


def test_the_page_is_self_contained(html: str) -> None:
    tags = Page(html).tags
    assert not re.search("https?://", html)
    assert not any(tag in ("link", "iframe", "object") for tag, _ in tags)
    assert "@import" not in html
    for _, attributes in tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_the_page_has_a_language_headers_and_alternatives(html: str) -> None:
    tags = Page(html).tags
    assert ("html", {"lang": "en"}) in tags
    assert [sum(tag == landmark for tag, _ in tags) for landmark in ("header", "nav", "main", "footer", "h1")] == [
        1
    ] * 5
    assert all("aria-labelledby" in attributes for tag, attributes in tags if tag == "section")
    named = [attributes for _, attributes in tags if attributes.get("role") == "region"]
    assert named and all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in named)
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    pictures = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    assert len(pictures) == 3 and all(len(attributes["aria-label"] or "") > 40 for attributes in pictures)
    assert sum(tag == "svg" for tag, _ in tags) == 3
    for feature in ("prefers-color-scheme: dark", "@media print"):
        assert feature in html


def test_only_the_own_script_may_run_and_nothing_may_be_loaded(html: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html


def test_sections_stand_in_the_order_of_reading(html: str) -> None:
    body = html[html.index("<main>") : html.index("</main>")]
    order = (
        *("verdict", "released", "attackers", "leakage", "roc", "exposure", "groups", "canaries", "utility"),
        *("statements", "evidence", "curve", "runs", "flags", "skipped", "reproduce", "glossary"),
    )
    assert tuple(re.findall(r'<h2 id="(.+?)"', body)) == order
    assert tuple(re.findall(r'<a href="#(.+?)"', html[html.index("<nav") : html.index("</nav>")])) == order


def test_what_was_released_is_said(html: str, make_result: Callable[..., Result], tmp_path: Path) -> None:
    section = html[html.index('id="released"') : html.index('id="attackers"')]
    assert "digits: 1,797 records of 10 classes" in section and "no column names persons" in section
    assert "1,258 in the pool" in section and "180 of the attacker&#8217;s own" in section
    assert "keyed with the secret" in section and "none was found for these runs" in section
    assert "hmac-sha256:0a1b" in html[html.index('id="reproduce"') :]
    result = make_result()
    facts = {**result.dataset, "persons": 600, "published": True, "checksum": "sha256:77", "canaries": 50}
    content = summary(
        Comparison([replace(result, dataset=facts)]), CALLED_COMMAND, releases={result.run: "released/digits-mlp-none"}
    )
    shipped = render(page_of(Comparison([result]), content), {"tradeoff": "", "roc": ""})
    for words in ("600; all records of one share a fate", "<code>sha256:77</code>, the published one"):
        assert words in shipped
    assert "50 of the pool are canaries" in shipped
    assert "<code>released/digits-mlp-none</code> by the recipe of undefended" in shipped
    bare = page([replace(result, dataset={})])
    assert "hash of the data</th><td>" not in bare and '<th scope="row">data</th><td>digits</td>' in bare
    Page(bare)


def test_how_to_reproduce_names_versions_and_hashes(written: Path, html: str) -> None:
    section = html[html.index('id="reproduce"') :]
    reproduction = json.loads((written / "report.json").read_text())["reproduce"]
    digest = hashlib.sha256((written / "results.csv").read_bytes()).hexdigest()
    assert reproduction["sha256"] == {"results.csv": digest} and f"sha256:{digest}" in section
    for name in ("python", "palisade", "torch", "opacus", "numpy"):
        assert f"{name} {reproduction['versions'][name]}" in section
    assert f"version {PROTOCOL_VERSION}" in section and f"version {RESULTS_VERSION}" in section
    assert "mlp-dp_sgd-4" in section and "optimizer:" in section


def test_every_term_is_explained(html: str) -> None:
    section = html[html.index('id="glossary"') :]
    for term in ("membership inference attack", "false accusations (FPR)", "shadow model", "ceiling", "exposure"):
        assert f"<dt>{term}</dt>" in section


def test_ids_of_the_page_are_its_own(html: str) -> None:
    tags = Page(html).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = re.findall(r'(?:href="#|url\(#)([^")]+)', html)
    assert links and set(links) <= set(ids)


def test_the_verdict_has_its_scope(html: str) -> None:
    text = html.replace("\u00a0", " ")
    sentence = r"<p>Black-box, 15 shadow models that know the defense, by the best attack \(lira\): of 1,000 people"
    counts = (
        r" who were in, \d+ \(\d+ to \d+\) are found while 10 of 1,000 who were not are accused; guessing finds 10\."
    )
    sentences = re.findall(sentence + counts, text)
    assert len(sentences) == 3
    assert "<h3>Best protected within 5 points of the best accuracy: dp_sgd" in text
    assert "<h3>Undefended</h3>" in text and "<h3>Best protected: dp_sgd ε=1</h3>" in text
    assert "no better than guessing within its interval, which proves nothing" in text
    assert "Scope: internal." in text


@pytest.mark.parametrize(
    ("how", "models", "words"),
    [
        ("bernoulli", 16, "black-box, 15 shadow models that know the defense"),
        ("bernoulli", 2, "black-box, 1 shadow model that know"),
        ("complementary", 16, "black-box, 14 shadow models"),
        (
            "fixed",
            16,
            "black-box, by the best attack (lira): of 1,000 people who were in, 77 (66 to 87) are found while",
        ),
    ],
)
def test_shadows_are_counted_without_the_target(
    make_result: Callable[..., Result], how: str, models: int, words: str
) -> None:
    result = make_result(models=models)
    result = replace(result, config={**result.config, "membership": {"how": how}})
    (verdict,) = summary(Comparison([result]), "")["verdicts"]
    assert words.lower() in verdict["sentence"].lower()


def test_the_best_protected_is_where_attacks_find_least(make_result: Callable[..., Result]) -> None:
    runs = [make_result("l2", strength=x, separation=s) for x, s in ((0.1, 0.4), (0.2, 0.2), (0.3, 0.3))]
    assert [verdict["heading"] for verdict in summary(Comparison(runs), "")["verdicts"]] == ["Best protected: l2 0.2"]


def test_claims_flags_and_skipped_attacks_are_reported(html: str) -> None:
    assert "(ε = 3.99, δ = 0.000834)-differential privacy per record (add/remove one record)" in html
    assert "no formal guarantee; gradients were clipped, without noise" in html
    assert "m of them cost up to m·ε and m·δ" in html
    assert "needs population records; the split has none" in html and "All runs</span>" in html
    assert html.count(NEEDS_WEIGHTS) == 1 and "<dt>one, other</dt>" in html
    assert "excludes hardly any attack" in html and "one false positive is already more than" in html
    assert "python evaluate.py data=digits name=&#39;a&lt;b&#39;" in html


def test_every_attack_tells_what_it_needs(html: str) -> None:
    assert '<td class="needs">top-k, true label, shadows (IN and OUT)</td>' in html
    assert '<td class="number">any / 1</td>' in html and '<td class="number">1 / 1</td>' in html


def test_both_numbers_of_each_defense_tried_on_canaries(html: str) -> None:
    section = html[html.index('id="canaries"') : html.index('id="utility"')].replace("\u00a0", " ")
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", section)
    values = {name: re.findall(r"<td.*?>(.*?)</td>", cells) for name, cells in rows}
    assert list(values) == ["undefended", "dp_sgd ε=4", "l2 0.001"]
    assert [values["undefended"][i] for i in (1, 3, 4, 5)] == ["0.738", "0.992", "98.0 %", "label_noise"]
    assert values["undefended"][0].startswith("7.7 %") and values["undefended"][2].startswith("85.9 %")


def test_verdicts_are_about_all_records(html: str, canaries: list[Result]) -> None:
    section = html[html.index('id="verdict"') : html.index('id="released"')]
    assert "canaries" not in section
    alone = summary(Comparison(canaries), "")["verdicts"]
    assert [verdict["heading"] for verdict in alone][:2] == [
        "Undefended with label_noise canaries",
        "Undefended with ood canaries",
    ]


def test_the_most_exposed_records_are_named(html: str, sweep: list[Result]) -> None:
    section = html[html.index('id="exposure"') : html.index('id="groups"')]
    exposed = Exposure.from_json(sweep[-1].exposed)
    trained = int((exposed.models > 0).sum())
    assert f"{exposed.mostly_exposed:,} of {trained:,} records are found (lira) in more than" in section
    for i in exposed.order[:10]:
        assert f'<td class="number">{exposed.record[i]}</td><td class="number">{exposed.label[i]}</td>' in section
    assert section.count("<tbody>") == 3 and section.count("<tr>") == 3 * 11


def test_a_guard_is_explained(make_result: Callable[..., Result], make_guarded: Callable[..., Result]) -> None:
    bare = make_result(separation=1.2)
    runs = [bare, make_guarded(bare, "memguard", None, 0.7), make_guarded(bare, "topk", 3, 1.1)]
    html = page(runs)
    text = " ".join(html.split())
    assert "<strong>Guards:</strong> none + memguard, none + topk. A guard changes a model&#8217;s answers" in text
    assert "adds nothing to ε" in text and "protects nobody once the weights leak" in text
    assert "<strong>No formal guarantee:</strong> undefended, none + memguard, none + topk." in text
    assert "<dt>masked, not protected</dt>" in text and "judge them without it" in text
    assert "guard: {name: topk, strength: 3}" in html and "guard: {name: memguard, strength: null}" in html
    assert "Guards:" not in page([bare])
    Page(html)


def test_white_box_results_behind_a_guard_hold_if_the_weights_leak(make_result: Callable[..., Result]) -> None:
    result = make_result(guard="memguard")
    rows = [replace(row, access="white_box") if row.attack == "lira" else row for row in result.rows]
    html = page([replace(result, rows=rows)])
    assert '<td class="attack">lira\nif the weights leak</td>' in html
    assert '<th scope="row">lira\nif the weights leak</th>' in html and '<th scope="row">loss</th>' in html
    assert "White-box (if the weights leak), 15 shadow models" in html
    assert "if the weights leak" not in page([replace(make_result(), rows=rows)])


def test_the_page_of_many_runs(many: list[Result], make_result: Callable[..., Result]) -> None:
    html = page(many)
    Page(html)
    assert "pale line is the frontier" in html and "one of each defense is drawn" in html.replace("\n", " ")
    assert (
        '<tr class=" opens">' in html
        and "Every attack on the other 55 runs" in html
        and "Passed over, since what looks like less leakage" not in html
    )
    assert "pale line is" not in page([make_result()]) and "one of each defense" not in page([make_result()])


def test_claims_stand_beside_bounds_and_ceilings(html: str) -> None:
    section = html[html.index('id="evidence"') : html.index('id="curve"')]
    assert section.count('<th scope="row">') == 6  # five ε of the sweep and a fleet with canaries
    for words, assumption in EPSILON_BOUNDS.values():
        assert f'<th scope="col" class="number">{words}</th>' in section and assumption.replace("&", "&amp;") in section
    assert (
        "A low bound proves nothing:" in section
        and "even a perfect attack could refute\nany of these claims" in section
    )
    assert "violated" not in section


def test_a_violated_claim_cannot_be_overlooked(
    make_result: Callable[..., Result], make_violated: Callable[..., Result]
) -> None:
    html = page([make_violated()])
    assert '<p class="alarm"><strong>Claim violated: dp_sgd ε=1.</strong>' in html
    assert html.count('<tr class="violated">') == 2 and '<div class="card verdict violated">' in html
    assert '<dt class="alarmed">CLAIM VIOLATED</dt>' in html
    weak = make_result("l2", strength=0.1, separation=2.0)  # leaks more than those that must not be released
    content = summary(Comparison([make_result(), weak, make_violated(), make_violated(2.0)]), "")
    assert [run["violated"] for run in content["runs"]] == [False, True, True, False]
    headings = [verdict["heading"] for verdict in content["verdicts"]]
    assert headings == [
        "Claim refuted: dp_sgd ε=1",
        "Claim refuted: dp_sgd ε=2",
        "Undefended",
        "Best protected, though no less was found than undefended: l2 0.1",
    ]
    assert [verdict["refuted"] for verdict in content["verdicts"]] == [True, True, False, False]
    assert content["verdicts"][0]["sentence"].startswith("The claim of dp_sgd ε=1 is refuted: ε is above ")
    Page(html)


@pytest.mark.usefixtures("undrawn")
def test_a_hostile_name_is_text(make_result: Callable[..., Result], tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    result = make_result(data=hostile, skipped={hostile: hostile}, guard=hostile)
    write(Comparison([result]), tmp_path, hostile)
    html = (tmp_path / "report.html").read_text()
    assert html.count("<script") == 1 and "&lt;script&gt;" in html
    Page(html)


def test_json_is_strict_and_holds_the_rows(written: Path, sweep: list[Result]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads((written / "report.json").read_text(), parse_constant=refuse)
    assert content["scope"] == "internal" and content["reproduce"]["command"] == CALLED_COMMAND
    runs = {run["run"]: run for run in content["runs"]}
    for result in sweep:
        run = runs[result.run]
        assert run["rows"] == [vars(row) for row in result.rows]
        assert run["statement"]["sentence"] == result.statement.sentence()
        expected = "inf" if result.epsilon == math.inf else result.epsilon
        assert run["statement"]["epsilon"] == expected


def test_csv_has_the_columns_and_round_trips(written: Path, sweep: list[Result], canaries: list[Result]) -> None:
    lines = list(csv.DictReader(io.StringIO((written / "results.csv").read_text())))
    assert tuple(lines[0]) == RESULT_COLUMNS
    rows = [row for result in [*sweep, *canaries] for row in result.tidy()]
    assert len(lines) == len(rows)
    texts = {tuple(line.values()) for line in lines}
    for row in rows:
        assert tuple("" if row[name] is None else str(row[name]) for name in RESULT_COLUMNS) in texts
    assert {line["epsilon"] for line in lines if line["strength"] == "inf"} == {"inf"}
    assert {line["epsilon"] for line in lines if line["defense"] in ("none", "l2")} == {""}
    assert {line["attack"] for line in lines if line["metric"] == "test_accuracy"} == {""}
    assert any(line["group"] == "class=3" for line in lines) and any(line["model"] == "15" for line in lines)


def test_csv_quotes_what_needs_it(make_result: Callable[..., Result]) -> None:
    text = tidy_csv([make_result(data='a,"b"\nc')])
    assert next(csv.DictReader(io.StringIO(text)))["data"] == 'a,"b"\nc'


def test_runs_that_differ_write_nothing(sweep: list[Result], tmp_path: Path) -> None:
    other = replace(sweep[0], config={**sweep[0].config, "trainer": {"epochs": 3}})
    with pytest.raises(ValueError, match=r"trainer\.epochs=40"):
        write(Comparison([sweep[1], other]), tmp_path / "report", CALLED_COMMAND)
    assert list(tmp_path.iterdir()) == []


def test_unresolved_runs_still_have_a_report(make_result: Callable[..., Result]) -> None:
    html = page([make_result(nonmembers=50), make_result("l2", strength=0.1, roc={})]).replace("\u00a0", " ")
    assert "<dt>AUC</dt><dd>0.738 [0.713–0.763]</dd>" in html
    meanings = (
        "at 1 % false accusations it cannot be measured what attacks find. The best attack (lira) ranks members above"
    )
    assert f"{meanings} non-members with an AUC of 0.738 [0.713–0.763]; guessing has 0.5." in html
    Page(html)
    none = page([make_result(roc={}), make_result("l2", strength=0.1, roc={})])
    assert "No attack could run; the reasons stand under" in none
    Page(none)


def test_auc_decides_where_no_run_can_be_resolved(make_result: Callable[..., Result]) -> None:
    few = [make_result("l2", strength=x, separation=s, nonmembers=50) for x, s in ((0.1, 0.4), (0.2, 0.2))]
    assert [verdict["heading"] for verdict in summary(Comparison(few), "")["verdicts"]] == ["Best protected: l2 0.2"]
    # Beside a run that can be resolved the others are not comparable.
    runs = [*few, make_result("l2", strength=0.3, separation=0.9)]
    assert [verdict["heading"] for verdict in summary(Comparison(runs), "")["verdicts"]] == ["Best protected: l2 0.3"]


def test_inline_figures_take_the_page_colors() -> None:
    drawing = f'<?xml?><svg xmlns="x"><metadata>m</metadata><g id="a" fill="{INK_COLOR}" clip-path="url(#a)"/></svg>'
    assert inline(drawing, "p") == '<svg><g id="p-a" fill="var(--ink)" clip-path="url(#p-a)"/></svg>'
