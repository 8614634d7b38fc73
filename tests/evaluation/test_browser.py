"""The report in headless Chromium: it renders, complains about nothing, loads nothing, sorts, prints, and fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.browser import Browser, find
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.report.run_report import write
from palisade.evaluation.result import Result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="no Chromium is installed; Debian's package is chromium"),
]

PANEL_SCRIPT = "document.getElementById('{}').parentElement"
FIGURE_HEIGHTS_SCRIPT = "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height)"
OVERHANG_SCRIPT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PRINTED_WIDTH = 688
"""Width of a sheet of A4 at 96 dots an inch, without its margins."""


@pytest.fixture(scope="module")
def page(sweep: list[Result], canaries: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(Comparison([*sweep, *canaries]), folder, "python evaluate.py data=digits")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    with Browser(str(find())) as opened:
        opened.open(page)
        yield opened


def rows(browser: Browser, section: str) -> list[list[str]]:
    """The cells of a section's first table, row by row."""
    table = PANEL_SCRIPT.format(section) + ".querySelector('tbody').rows"
    result: list[list[str]] = browser.run(f"[...{table}].map(row => [...row.cells].map(cell => cell.textContent))")
    return result


def press(browser: Browser, section: str, column: int) -> str | None:
    """Presses a button in the head of a section's first table by keyboard focus; returns how the column is sorted."""
    button = PANEL_SCRIPT.format(section) + f".querySelectorAll('th button')[{column}]"
    browser.run(f"{button}.focus(); document.activeElement.click()")
    sorted_by: str | None = browser.run(f"{button}.parentElement.getAttribute('aria-sort')")
    return sorted_by


def test_the_page_renders_without_complaints_and_loads_nothing(browser: Browser, page: Path, tmp_path: Path) -> None:
    heights = browser.run(FIGURE_HEIGHTS_SCRIPT)
    assert len(heights) == 3 and min(heights) > 200
    browser.shoot(tmp_path / "page.png", 1000)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert browser.errors == [] and browser.requests == [page.as_uri()]


def test_nothing_may_be_loaded_even_if_asked_for(browser: Browser) -> None:
    known = len(browser.errors)
    browser.run("document.body.append(Object.assign(new Image(), {src: 'https://example.org/a.png'})), 0")
    browser.run("new Promise(done => setTimeout(done, 50)), 0")
    assert any("Content Security Policy" in error for error in browser.errors[known:])
    del browser.errors[known:]


def test_tables_sort_by_number_and_word(browser: Browser) -> None:
    assert press(browser, "evidence", 1) == "ascending"
    claimed = [float(row[1]) for row in rows(browser, "evidence")]
    assert claimed == sorted(claimed) and len(claimed) == 6
    assert press(browser, "evidence", 1) == "descending"
    assert [float(row[1]) for row in rows(browser, "evidence")] == claimed[::-1]
    assert press(browser, "evidence", 0) == "ascending"
    assert rows(browser, "evidence")[0][0] == "dp_sgd ε=1"
    heads = PANEL_SCRIPT.format("evidence") + ".querySelectorAll('th[aria-sort]').length"
    assert browser.run(heads) == 1


def test_what_is_missing_comes_last_and_infinity_is_a_number(browser: Browser) -> None:
    for way in ("ascending", "descending"):
        assert press(browser, "runs", 1) == way
        epsilons = [row[1] for row in rows(browser, "runs")]
        assert epsilons[-1] == "–" and epsilons.index("∞") < epsilons.index("–")
    assert epsilons[0] == "∞"


def test_attacks_sort_within_their_run(browser: Browser) -> None:
    before = rows(browser, "leakage")
    press(browser, "leakage", 3)
    after = rows(browser, "leakage")
    assert after[0] == before[0] and len(after[0]) == 1
    assert sorted(after[1:]) == sorted(before[1:])
    assert [float(row[3][:5]) for row in after[1:]] == sorted(float(row[3][:5]) for row in before[1:])


@pytest.mark.parametrize(("medium", "scheme", "width"), [("screen", "light", 400), ("print", "light", PRINTED_WIDTH)])
def test_nothing_hangs_over_the_edge(browser: Browser, medium: str, scheme: str, width: int) -> None:
    browser.show(medium, scheme)
    browser.resize(width)
    assert browser.run(OVERHANG_SCRIPT) <= 0
    cut = "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth + 1).length"
    if medium == "print":
        assert browser.run(cut) == 0
    browser.resize(browser.width)
    browser.show()


def test_what_is_folded_is_printed(browser: Browser) -> None:
    folded = "document.querySelectorAll('details:not([open])').length"
    before = browser.run(folded)
    assert before > 0
    assert browser.run(f"dispatchEvent(new Event('beforeprint')), {folded}") == 0
    assert browser.run(f"dispatchEvent(new Event('afterprint')), {folded}") == before


def test_dark_mode_is_dark_and_print_is_not(browser: Browser) -> None:
    color = "getComputedStyle(document.body).backgroundColor"
    colors = []
    for medium, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        browser.show(medium, scheme)
        colors.append(browser.run(color))
    browser.show()
    assert colors == ["rgb(255, 255, 255)", "rgb(21, 24, 28)", "rgb(255, 255, 255)"]


def test_words_stand_out_from_their_ground(browser: Browser) -> None:
    """WCAG 2.1 asks for a contrast of 4.5."""
    script = """(() => {
      const light = c => { const f = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
      const of = (kind, value) => { const probe = document.createElement("i");
        probe.style.color = `var(--${value})`; document.body.append(probe);
        const told = light(getComputedStyle(probe).color); probe.remove(); return told; };
      return ["ink", "muted", "note", "alarm", "link"].flatMap(word => ["paper", "card"].map(ground => {
        const [a, b] = [of("word", word), of("ground", ground)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }));
    })()"""
    for scheme in ("light", "dark"):
        browser.show("screen", scheme)
        assert min(browser.run(script)) >= 4.5
    browser.show()
