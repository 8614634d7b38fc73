"""Page of a report: one HTML file that needs nothing else, with its figures and numbers in files beside it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from palisade.evaluation.figures.style import INK, MUTED, PAPER, save
from palisade.targets.files import write

Entry = dict[str, Any]
"""An entry of a section, as report.json holds it and the page shows it: texts by name."""
TEMPLATES = Path(__file__).parent


def render(content: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    """The page, whose only script is its own, which sorts tables.

    Args:
        content: what the template `report.html.j2` and the sections that it names read.
        drawings: SVG by name, to be shown inline in the page's own colors.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=unbroken,
    )  # fmt: skip
    figures = {name: inline(drawing, name) for name, drawing in drawings.items()}
    return environment.get_template("report.html.j2").render(
        **content, **script(), figures=figures, contents_of=contents
    )


def write_files(
    folder: Path, texts: Mapping[str, str], drawings: Mapping[str, str], figures: Mapping[str, Figure]
) -> list[Path]:
    """Writes a page with what lies beside it, each file whole or not at all.

    Args:
        folder: where to; made if it is missing.
        texts: files by name, the page among them.
        drawings: the SVG of each figure.
        figures: by name.

    Returns:
        The files, each figure as PNG; its SVG stands beside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**texts, **{f"{name}.svg": drawing for name, drawing in drawings.items()}}.items():
        write(folder / name, text)
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
    return [folder / name for name in (*texts, *(f"{name}.png" for name in figures))]


def contents(body: str) -> list[tuple[str, str]]:
    """The sections of a page, by id and heading."""
    return re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body)


def unbroken(value: Any) -> Any:
    """Keeps a number and its percent sign on one line."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def script() -> dict[str, str]:
    """The only script of a page, and the hash by which the page lets no other run."""
    text = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return {"script": text, "script_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}


def inline(drawing: str, prefix: str) -> str:
    """An SVG file as a part of a page: without its header, with ids of its own and the page's colors."""
    drawing = drawing[max(drawing.find("<svg"), 0) :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing)
    drawing = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", drawing)
    for color, variable in ((INK, "ink"), (MUTED, "muted"), (PAPER, "paper")):
        drawing = drawing.replace(color, f"var(--{variable})")
    return drawing
