"""Everything is palisade.…: in a clone and from a wheel, beside other people's modules of the same names."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import palisade
import palisade.attacks

REPOSITORY_ROOT = Path(__file__).parents[2]
OWN_NAMES = {
    "attacks",
    "conf",
    "data",
    "datamodules",
    "defenses",
    "evaluation",
    "targets",
    "train",
    "evaluate",
    "commandline",
    "fields",
}
SOURCE_FILES = sorted(
    path
    for path in REPOSITORY_ROOT.rglob("*.py")
    if not path.relative_to(REPOSITORY_ROOT).parts[0].startswith(".")
    and path.relative_to(REPOSITORY_ROOT).parts[0] not in ("build", "runs")
)
TINY_SETTINGS = (
    "data=digits",
    "network=linear",
    "fleet.models=2",
    "fleet.workers=1",
    "trainer.epochs=1",
    "secret=same",
)
CLASHING_MODULE = 'raise RuntimeError("somebody\'s own module was imported")\n'


def imported(source: str) -> set[str]:
    """First parts of the names of all modules that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names


def test_no_module_of_its_own_is_imported_under_a_bare_name() -> None:
    assert not [path for path in SOURCE_FILES if imported(path.read_text(encoding="utf-8")) & OWN_NAMES]


def test_a_bare_name_would_be_seen() -> None:
    assert imported("import targets.fleet\nfrom attacks import LiRA\nfrom .data import x") == {"targets", "attacks"}


def test_public_names_are_loaded_when_they_are_used() -> None:
    code = (
        "import sys, palisade, palisade.evaluation.measuring.measure, palisade.evaluation.report.run_report;"
        " palisade.LiRA, palisade.tpr_at_fpr; sys.exit(bool({'torch', 'sklearn'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for package in (palisade, palisade.attacks):
        assert set(package.__all__) == set(package.MODULES_BY_NAME) == set(dir(package))
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        with pytest.raises(AttributeError, match="no attribute 'LIRA'"):
            package.LIRA  # noqa: B018


def weights(folder: Path) -> dict[str, str]:
    """Digests of all models of the one run below a folder, by their places."""
    files = sorted((folder / "runs").glob("*/*/models/*.safetensors"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel of this project is installed, and nothing else."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, copied(place / "source")], check=True
    )
    (built,) = place.glob("palisade_privacy-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", place / "installed", built], check=True)
    return place / "installed"


def bytecode_settings() -> dict[str, str]:
    """The environment, but new interpreters keep the bytecode that others after them need."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def copied(place: Path) -> Path:
    """The files of this project as they are, without what is built or trained in it: setuptools leaves files behind."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "reports", "released", "build", "*.egg-info", "tests")
    shutil.copytree(REPOSITORY_ROOT, place, ignore=ignored)
    return place


def test_wheel_trains_and_attacks_what_a_clone_does(wheel: Path, tmp_path: Path) -> None:
    """In a folder that holds a user's own attacks/, train.py and evaluate.py, which stay theirs."""
    theirs, clone = tmp_path / "theirs", tmp_path / "clone"
    (theirs / "attacks").mkdir(parents=True)
    clone.mkdir()
    for name in ("attacks/__init__.py", "train.py", "evaluate.py", "targets.py"):
        (theirs / name).write_text(CLASHING_MODULE)
    environment = {**bytecode_settings(), "OMP_NUM_THREADS": "1"}
    installed = {**environment, "PYTHONPATH": str(wheel)}
    for words in (("train", *TINY_SETTINGS), ("evaluate", "data=digits", "attack=loss")):
        done = subprocess.run(
            [wheel / "bin" / "palisade", *words], cwd=theirs, env=installed, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (theirs / "reports" / "digits" / "report.html").exists()
    assert "palisade evaluate data=digits attack=loss" in (theirs / "reports" / "digits" / "report.json").read_text()
    subprocess.run(
        [sys.executable, REPOSITORY_ROOT / "train.py", *TINY_SETTINGS], cwd=clone, env=environment, check=True
    )
    assert weights(theirs) == weights(clone) and len(weights(clone)) == 2


def test_entry_scripts_leave_the_clones_folder_off_the_path(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(
        "import importlib.util\n"
        "from palisade.targets.networks import MLP\n"
        "taken = [name for name in ('train', 'attacks', 'targets') if importlib.util.find_spec(name)]\n"
        "assert not taken, taken\n"
        "class Net(MLP):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__(shape=shape, classes=classes, hidden=[4])\n"
    )
    words = ("network._target_=probe.Net", "data=digits", "fleet.models=1", "trainer.epochs=1")
    environment = {**bytecode_settings(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, REPOSITORY_ROOT / "train.py", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 0), (["trian"], 2)], ids=str)
def test_console_command(words: list[str], code: int, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from palisade.commandline import console

    monkeypatch.setattr(sys, "argv", ["palisade", *words])
    with pytest.raises(SystemExit) as ended:
        console()
    out, err = capsys.readouterr()
    assert ended.value.code == code
    assert ("train" in out and "evaluate" in out) if code == 0 else "trian" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("train", "-m", "data=digits", "nonsense=1"),
        ("train", "data=nonsense"),
        ("evaluate", "nonsense=1"),
    ],
    ids=" ".join,
)
def test_console_command_refuses_bad_input_in_one_line_as_the_scripts_of_a_clone_do(words: tuple[str, ...]) -> None:
    console = [sys.executable, "-c", "from palisade.commandline import console; console()"]
    commands = ([*console, *words], [sys.executable, str(REPOSITORY_ROOT / f"{words[0]}.py"), *words[1:]])
    first, second = (subprocess.run(command, capture_output=True, text=True) for command in commands)
    assert first.returncode == second.returncode == 2
    assert first.stderr == second.stderr
    assert first.stderr.startswith("error: ") and len(first.stderr.splitlines()) == 1


def test_console_command_refuses_an_option_that_is_none() -> None:
    console = [sys.executable, "-c", "from palisade.commandline import console; console()", "train", "--nonsense"]
    done = subprocess.run(console, capture_output=True, text=True)
    assert done.returncode == 2 and "--nonsense" in done.stderr.splitlines()[-1]
