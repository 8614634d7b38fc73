"""Regenerates what the commands of README.md and of examples/hospital print, and the screenshots of their pages:
`make figures`.

The commands run in runs/.figures, so a second call only draws. Without Chromium the screenshots stay as they are, and
without the hospital's data, in ../shared/data/diabetes130, so does its page.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from browser import Browser, find, shots
from PIL import Image

REPOSITORY_ROOT = Path(__file__).parent.parent
IMAGES_FOLDER = REPOSITORY_ROOT / "docs" / "img"
FIGURES_FOLDER = REPOSITORY_ROOT / "runs" / ".figures"
HOSPITAL_DATA = REPOSITORY_ROOT.parent / "shared" / "data" / "diabetes130"
HOSPITAL_SECTIONS = ("verdict", "curve")
"""Sections of its report that the hospital's page shows, by their headings."""
HOSPITAL_WIDTH, CARD_HEIGHT, SHOWN_COLORS = 900, 1100, 256
"""Pixels of the window and of the upper part of a card, and colors of a picture."""
COMMAND_BLOCKS = re.compile(r"```bash\n([^\n]*)\n```(\n\n```text\n.*?```)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page whose commands run in a folder of their own.

    Args:
        path: of the page in the repository.
        folder: where its commands run.
        report: name of the report that holds the run to ship.
        shipped: title of that run, for `<hash>`.
    """

    path: Path
    folder: Path
    report: str
    shipped: str

    def rewrite(self) -> None:
        """Runs all commands of the page, and shows what they print now where it shows their output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (examples := self.folder / "examples").exists():
            examples.symlink_to(REPOSITORY_ROOT / "examples")
        shutil.rmtree(self.folder / "released", ignore_errors=True)  # neither is written over
        (self.folder / "reports" / self.report / "impact_assessment.md").unlink(missing_ok=True)
        text = COMMAND_BLOCKS.sub(self._repeated, self.path.read_text(encoding="utf-8"))
        self.path.write_text(text, encoding="utf-8")

    def _repeated(self, shown: re.Match[str]) -> str:
        printed = self._output(shown[1])
        return f"```bash\n{shown[1]}\n```" + (f"\n\n```text\n{excerpt(printed)}```" if shown[2] else "")

    def _output(self, command: str) -> str:
        command = command.replace("linear-dp_sgd-<hash>", self._run()).replace(
            "../shared", str(HOSPITAL_DATA.parents[1])
        )
        if command.startswith("python train.py") and "ship=" not in command:
            command += " secret=figures"
        command = command.replace("python ", f"{shlex.quote(sys.executable)} {REPOSITORY_ROOT}/", 1)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode()

    def _run(self) -> str:
        """The folder's name of the run that is shipped; anything before there is a report."""
        path = self.folder / "reports" / self.report / "report.json"
        if not path.exists():
            return "none"
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return next(str(run["run"]) for run in runs if run["title"] == self.shipped)


README_PAGE = Page(path=REPOSITORY_ROOT / "README.md", folder=FIGURES_FOLDER, report="digits", shipped="dp_sgd ε=4")
HOSPITAL_PAGE = Page(
    path=REPOSITORY_ROOT / "examples" / "hospital" / "README.md",
    folder=FIGURES_FOLDER / "hospital",
    report="diabetes130",
    shipped="dp_sgd ε=8 per person (≤ 2 records)",
)


def main() -> None:
    README_PAGE.rewrite()
    is_there = HOSPITAL_DATA.is_dir()
    if is_there:
        HOSPITAL_PAGE.rewrite()
    if (program := find()) is None:
        print("no Chromium is installed; the screenshots in docs/img stay as they are", file=sys.stderr)
        return
    paths = shots(README_PAGE.folder / "reports" / "digits" / "report.html", IMAGES_FOLDER)
    with Browser(program, width=HOSPITAL_WIDTH) as browser:
        for path in hospital_shots(browser) if is_there else ():
            shrink(path)
            paths.append(path)
    for path in paths:
        print(path.relative_to(REPOSITORY_ROOT))


def hospital_shots(browser: Browser) -> Iterator[Path]:
    """Screenshots of the hospital's report, by section, and of the card of its release as a page."""
    browser.open(HOSPITAL_PAGE.folder / "reports" / HOSPITAL_PAGE.report / "report.html")
    for section in HOSPITAL_SECTIONS:
        path = IMAGES_FOLDER / f"hospital-{section}.png"
        browser.shoot_part(path, section)
        yield path
    for card in (HOSPITAL_PAGE.folder / "released").glob("*/card.html"):
        browser.open(card)
        browser.shoot(IMAGES_FOLDER / "hospital-card.png", CARD_HEIGHT)
        yield IMAGES_FOLDER / "hospital-card.png"


def shrink(path: Path) -> None:
    """Writes a picture anew with fewer colors: text and lines need no more."""
    Image.open(path).convert("RGB").quantize(SHOWN_COLORS).save(path, optimize=True)


def excerpt(printed: str) -> str:
    """The lines up to the level of guessing, and what was decided; what flags mean and the files are left out."""
    lines = [line.rstrip() for line in printed.splitlines() if line.strip()]
    last = next((n for n, line in enumerate(lines) if line.startswith("guessing:")), None)
    if last is None:
        return "\n".join(lines) + "\n"
    decided = next((n for n, line in enumerate(lines) if line.startswith("choose:")), len(lines))
    return "\n".join([*lines[: last + 1], "…", *lines[decided:]]) + "\n"


if __name__ == "__main__":
    main()
