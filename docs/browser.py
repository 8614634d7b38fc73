"""Headless Chromium as far as reports need it: open a page, look at it in light, dark and print, and press its buttons.

Speaks the Chrome DevTools Protocol over a pipe, so that nothing has to be installed besides the browser.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--remote-debugging-pipe", "--hide-scrollbars"),
)
PATIENCE = 240.0
"""Seconds to wait for an answer: a busy machine is slow."""


def find() -> str | None:
    """The browser's program, None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in one browser; what it complains about and asks for is kept in `errors` and `requests`.

    Args:
        program: what `find` found.
        width: of the window in pixels.
    """

    def __init__(self, program: str, width: int = 1100):
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.width = width
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        its_input, self._to = os.pipe()
        self._from, its_output = os.pipe()

        def connect() -> None:
            for own, its in ((its_input, 3), (its_output, 4)):
                os.dup2(own, its)
                os.set_inheritable(its, True)

        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._profile.name}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=connect,
        )  # fmt: skip
        os.close(its_input)
        os.close(its_output)
        self._buffer, self._count, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def open(self, page: Path) -> None:
        """Loads a file and waits until it stands."""
        self.resize(self.width)
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self.run("document.readyState") != "complete":
            time.sleep(0.05)

    def resize(self, width: int, height: int = 900) -> None:
        """Sets the size of the window in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def show(self, medium: str = "screen", scheme: str = "light") -> None:
        """Chooses screen or print, and a light or dark color scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["exception"]["description"])
        return told["result"].get("value")

    def shoot(self, path: Path, height: int | None = None) -> None:
        """Writes a PNG of the whole page, or of its upper part."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or 16_000), "scale": 1}
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(told["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        """Sends a command of the protocol and returns what it answers.

        Raises:
            RuntimeError: if it fails.
            TimeoutError: if no answer comes.
        """
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self._note(answer.get("method"), answer.get("params", {}))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _note(self, event: str | None, told: Any) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"]["text"])
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(str(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def _read(self) -> Any:
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], PATIENCE)[0]:
                raise TimeoutError(f"the browser did not answer within {PATIENCE:.0f} s")
            if not (piece := os.read(self._from, 1 << 20)):
                raise RuntimeError("the browser has ended")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def shots(
    page: Path, folder: Path, looks: Sequence[str] = ("light", "dark", "print"), height: int = 2400
) -> list[Path]:
    """Screenshots `report-<look>.png` of the upper part of a page.

    Raises:
        FileNotFoundError: if there is no browser.
    """
    if (program := find()) is None:
        raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed; install Debian's chromium")
    with Browser(program) as browser:
        browser.open(page)
        for look in looks:
            browser.resize(794 if look == "print" else browser.width)  # A4 at 96 dots an inch
            browser.show("print" if look == "print" else "screen", "dark" if look == "dark" else "light")
            browser.run(f"document.body.style.padding = '{'16mm 14mm' if look == 'print' else ''}'")  # of the sheet
            browser.shoot(folder / f"report-{look}.png", height)
    return [folder / f"report-{look}.png" for look in looks]
