"""Headless Chromium for reports: a page in light, dark and print, what it asks for, and what it complains about."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from playwright.sync_api import ConsoleMessage, sync_playwright

PROGRAM_NAMES = ("chromium", "chromium-browser", "google-chrome")
FULL_HEIGHT = 16_000
"""Pixels of a page that a picture shows at most."""
A4_WIDTH = 794
"""Pixels of a sheet at 96 dots an inch."""


def find() -> str | None:
    """Path of the system's browser, None if there is none."""
    return next((path for name in PROGRAM_NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in one browser; complaints and addresses asked for stand in `errors` and `requests`.

    Args:
        program: path of the browser.
        width: of the window in pixels.
    """

    def __init__(self, program: str, width: int = 1100) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.width = width
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        self._page = self._browser.new_page()
        self._page.on("request", lambda request: self.requests.append(request.url))
        self._page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._page.on("console", self._note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.errors.append(message.text)

    def open(self, page: Path) -> None:
        """Loads a file and waits until all of it is there."""
        self.resize(self.width)
        self._page.goto(page.resolve().as_uri())

    def resize(self, width: int, height: int = 900) -> None:
        """Sets the size of the window in pixels."""
        self._page.set_viewport_size({"width": width, "height": height})

    def show(self, medium: Literal["screen", "print"] = "screen", scheme: Literal["light", "dark"] = "light") -> None:
        """Chooses screen or print, and a light or dark color scheme."""
        self._page.emulate_media(media=medium, color_scheme=scheme)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self._page.evaluate(script)

    def sheets(self) -> int:
        """The number of sheets on which the page is printed."""
        printed = self._page.pdf(prefer_css_page_size=True)
        return len(re.findall(rb"/Type\s*/Page\b", printed))

    def shoot(self, path: Path, height: int = FULL_HEIGHT) -> None:
        """Writes a PNG of the whole page, or of its upper part."""
        width, full = self.run("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(full, height)}
        self._page.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]

    def shoot_part(self, path: Path, heading: str) -> None:
        """Writes a PNG of the section of a heading, which is named by its id."""
        self._page.locator(f"section:has(> #{heading})").screenshot(path=path)


def shots(
    page: Path, folder: Path, looks: Sequence[str] = ("light", "dark", "print"), height: int = 2400
) -> list[Path]:
    """Screenshots `report-<look>.png` of the upper part of a page.

    Raises:
        FileNotFoundError: if there is no browser.
    """
    if (program := find()) is None:
        raise FileNotFoundError(f"none of {', '.join(PROGRAM_NAMES)} is installed; install Debian's chromium")
    with Browser(program) as browser:
        browser.open(page)
        for look in looks:
            browser.resize(A4_WIDTH if look == "print" else browser.width)
            browser.show("print" if look == "print" else "screen", "dark" if look == "dark" else "light")
            browser.run(f"document.body.style.padding = '{'16mm 14mm' if look == 'print' else ''}'")  # of the sheet
            browser.shoot(folder / f"report-{look}.png", height)
    return [folder / f"report-{look}.png" for look in looks]
