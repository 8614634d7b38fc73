"""Regenerates what the README's commands print, and the screenshots of their report: `make figures`.

The commands run in runs/.figures, so a second call only draws. Without Chromium the screenshots stay as they are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from browser import find, shots

REPOSITORY_ROOT = Path(__file__).parent.parent
README_FILE = REPOSITORY_ROOT / "README.md"
FIGURES_FOLDER = REPOSITORY_ROOT / "runs" / ".figures"
SHOWN_COMMANDS = re.compile(r"```bash\n(python [^\n]*)\n```\n\n```text\n.*?```", re.DOTALL)
SHIPPED_RUN = "dp_sgd ε=4"
"""The run that the README ships."""


def main() -> None:
    FIGURES_FOLDER.mkdir(parents=True, exist_ok=True)
    README_FILE.write_text(SHOWN_COMMANDS.sub(repeated, README_FILE.read_text(encoding="utf-8")), encoding="utf-8")
    if find() is None:
        print("no Chromium is installed; the screenshots in docs/img stay as they are", file=sys.stderr)
        return
    for path in shots(FIGURES_FOLDER / "reports" / "digits" / "report.html", REPOSITORY_ROOT / "docs" / "img"):
        print(path.relative_to(REPOSITORY_ROOT))


def repeated(shown: re.Match[str]) -> str:
    """A command of the README with what it prints now."""
    return f"```bash\n{shown[1]}\n```\n\n```text\n{excerpt(output(shown[1]))}```"


def output(command: str) -> str:
    """Printed output of a README command; an existing release is removed first."""
    _, script, *words = command.replace("mlp-dp_sgd-<hash>", shipped()).split()
    if script == "train.py":
        words.append("secret=figures")
    if "ship=" in command:
        shutil.rmtree(FIGURES_FOLDER / "released", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, REPOSITORY_ROOT / script, *words], cwd=FIGURES_FOLDER, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode()


def shipped() -> str:
    """The folder's name of the run that is shipped; anything before there are runs."""
    page = FIGURES_FOLDER / "reports" / "digits" / "report.json"
    if not page.exists():
        return "none"
    runs = json.loads(page.read_text(encoding="utf-8"))["runs"]
    return next(str(run["run"]) for run in runs if run["title"] == SHIPPED_RUN)


def excerpt(printed: str) -> str:
    """The lines up to the level of guessing; what flags mean and which files were written is left out."""
    lines = [line.rstrip() for line in printed.splitlines() if line.strip()]
    last = next((n for n, line in enumerate(lines) if line.startswith("guessing:")), None)
    return "\n".join(lines if last is None else [*lines[: last + 1], "…"]) + "\n"


if __name__ == "__main__":
    main()
