"""The page on serving is right: commands run, unit and container file are sound, numbers were measured."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from commands import call, commands_of
from test_tables import COLUMN_SCHEMA

from palisade.serving.bodies import RowForm
from palisade.serving.domain import DomainSettings, domain_of
from palisade.serving.settings import PASSWORD_VARIABLE, SECONDS_TO_READ, SECONDS_TO_SEND, SECONDS_TO_SEND_HEAD

DOCS_FOLDER = Path(__file__).parents[2] / "docs"
PAGE_TEXT = (DOCS_FOLDER / "serving.md").read_text(encoding="utf-8")
CONTAINER_STEPS = {"FROM", "COPY", "RUN", "USER", "WORKDIR", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", PAGE_TEXT, re.DOTALL)
    assert match is not None
    return match[1]


def test_every_command_about_keys_works(tmp_path: Path) -> None:
    listed = commands_of(DOCS_FOLDER / "serving.md")
    assert len(listed) == 4
    (tmp_path / "released" / "digits-mlp-none").mkdir(parents=True)
    (tmp_path / "released" / "digits-mlp-none" / "card.json").write_text("{}")
    for _, script, *words in listed:
        done = call(script, *words, folder=tmp_path, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_schema_is_one(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(block("yaml"))
    assert domain_of(DomainSettings(schema=str(tmp_path / "schema.yaml")), RowForm(COLUMN_SCHEMA, 10)) is not None


def test_the_unit_is_accepted_by_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    unit = tmp_path / "palisade@.service"
    unit.write_text(block("ini").replace("/opt/palisade/bin/palisade", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "palisade" not in done.stderr, done.stderr


def test_the_container_runs_as_nobody_and_by_its_pins() -> None:
    lines = block("dockerfile").replace("\\\n", " ").splitlines()
    steps = {line.split()[0]: line for line in lines}
    assert set(steps) == CONTAINER_STEPS and lines[0].startswith("FROM python:3.11")
    assert "-c /tmp/install/constraints.txt" in steps["RUN"] and "[serve]" in steps["RUN"]
    assert steps["USER"].split()[1] not in ("0", "root") and lines.index(steps["USER"]) < lines.index(steps["CMD"])
    assert yaml.safe_load(steps["ENTRYPOINT"].partition(" ")[2]) == ["palisade", "serve"]


def test_numbers_of_the_page_stand_where_they_were_measured() -> None:
    measured = (DOCS_FOLDER / "performance.md").read_text(encoding="utf-8").split("behind memguard")
    for attack, share in (("lira  ", "55.9 %"), ("votes, 1 query", "12.8 %"), ("votes, 5 queries", "24.2 %")):
        assert re.search(rf"^ {attack} .* 31 .*{share}", measured[0], re.MULTILINE) and share in PAGE_TEXT
    assert re.search(r"^ votes, 17 queries .* 31 .*37\.3 %", measured[0], re.MULTILINE) and "37.3 %" in PAGE_TEXT
    assert re.search(r"^ lira  .* 31 .*13\.8 %", measured[1], re.MULTILINE) and "MemGuard 13.8 %" in PAGE_TEXT
    private = (DOCS_FOLDER / "location30.md").read_text(encoding="utf-8")
    assert re.search(r"dp_sgd, ε = 16 .* 8\.3 %", private) and "ε = 16 8.3 %" in PAGE_TEXT
    assert f"within\n{SECONDS_TO_SEND_HEAD} seconds (head) and {SECONDS_TO_SEND} (body)" in PAGE_TEXT
    assert f"its answers for {SECONDS_TO_READ} seconds" in PAGE_TEXT
    assert PASSWORD_VARIABLE in PAGE_TEXT


def test_what_a_budget_is_worth_follows_from_the_measured_rates() -> None:
    """Pool of 4,000, half of them members; of votes, the number of copies that finds most."""
    votes = [(1, 0.128), (5, 0.242), (17, 0.373)]
    attacks = {"scores": [(1, 0.559)], "labels": votes, "MemGuard": [(1, 0.138), *votes], "DP-SGD": [(1, 0.083)]}
    table = PAGE_TEXT.split("## What a budget is worth")[1]
    for answers, rates in attacks.items():
        cells = next(line for line in table.splitlines() if line.startswith(f"| {answers}")).split("|")[2:-1]
        stated = [float(cell.split()[0].strip(",").replace(",", "")) for cell in cells]
        counted = [
            max(0.5 * min(4000, budget // queries) * rate for queries, rate in rates)
            for budget in (10, 100, 1000, 10**4, 10**5)
        ]
        assert stated == pytest.approx(counted, rel=0.02, abs=0.06), answers
