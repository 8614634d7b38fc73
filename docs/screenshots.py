"""Regenerates the screenshots of the report, from a sweep over scikit-learn's digits: `make figures`.

The runs stay in runs/.figures, so a second call only draws. Without Chromium the screenshots stay as they are.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from browser import find, shots

ROOT = Path(__file__).parent.parent
RUNS = "runs/.figures"


def main() -> None:
    if find() is None:
        print("no Chromium is installed; the screenshots in docs/img stay as they are", file=sys.stderr)
        return
    for command in (
        ["train.py", "-m", "experiment=quickstart", "secret=figures", f"runs={RUNS}"],
        ["evaluate.py", "data=digits", "attack=quick", f"root={RUNS}", "name=figures"],
    ):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    for path in shots(ROOT / "reports" / "figures" / "report.html", ROOT / "docs" / "img"):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
