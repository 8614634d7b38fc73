"""The console command, exit codes and one-line errors."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NoReturn

from palisade.command_words import nearest_keys, plain_words

SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
NO_SETTING = (
    "A setting of an option needs that option: canary=label_noise for canary.count, attack=lira for attack.lira;"
    " palisade <command> --help shows those of a command"
)
NO_MERGE = "Error merging override"
"""Start of Hydra's message where a value stands for a whole group and is none of its options."""
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL_REMEDY = "make room, and the same command goes on from there"
NO_MEMORY = "can't allocate memory"
"""PyTorch's message where NumPy raises MemoryError."""
EXIT_DONE, EXIT_SOME_FAILED, EXIT_BAD_INPUT, EXIT_CLAIM_VIOLATED, EXIT_GATE_EXCEEDED, EXIT_INTERRUPTED = (
    0,
    1,
    2,
    3,
    4,
    130,
)


COMMAND_HELP = {
    "train": "train a run, a sweep or a release",
    "evaluate": "attack runs, or a model that exists already",
    "serve": "serve a release behind HTTP, or manage the keys of those who may ask",
    "schema": "print a schema of a table's columns, to be edited",
    "members": "write the rows that a run or a release was trained on, for one's own audit",
}
COMMAND_MODULES = {
    "train": "palisade.train",
    "evaluate": "palisade.evaluate",
    "serve": "palisade.serve",
    "schema": "palisade.data.schema",
    "members": "palisade.targets.members",
}


HELP_EXAMPLES = """\
A first curve, on data that come along:
  palisade train -m experiment=quickstart
  palisade evaluate data=digits

Your own table, under differential privacy, and the model to ship:
  palisade train data=csv data.path=people.csv data.label=income defense=dp_sgd defense.epsilon=3
  palisade evaluate data=csv data.path=people.csv choose.max_tpr=0.05
  palisade train ship=runs/people/<run>

A model that exists already:
  palisade evaluate audit=outputs members=in.npz nonmembers=out.npz

plan=true says what a command would do, and everything that is wrong with it; names with blanks or other signs need no
quotes but the shell's: data.label="income (USD)". All settings: palisade <command> --help"""


def console() -> NoReturn:
    """`palisade <command> …`, which equals `python <command>.py …` in a clone."""
    name, words = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in COMMAND_HELP:
        sys.argv = [f"palisade {name}", *words]
        call(import_module(COMMAND_MODULES[name]).main)
    if name in ("--help", "-h"):
        lines = [f"  {command:10} {purpose}" for command, purpose in COMMAND_HELP.items()]
        print("palisade <command> [key=value …]", "", *lines, "", HELP_EXAMPLES, sep="\n")
        sys.exit(EXIT_DONE)
    print(f"error: palisade {name} is no command; choose one of {', '.join(COMMAND_HELP)}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


def command_line(script: str) -> str:
    """This command as a shell takes it, for reports that say how they were made.

    Args:
        script: the entry script in a clone, such as `evaluate.py`.
    """
    installed = sys.argv[0].startswith("palisade ")
    return shlex.join([*(sys.argv[0].split() if installed else ("python", script)), *sys.argv[1:]])


def call(main: Callable[[], object]) -> NoReturn:
    """Runs a command and exits: 0 done, 1 some runs failed, 2 bad input in one line, 130 interrupted or stopped.

    Bad input is a ValueError, an OSError, too little memory or an error of Hydra's; anything else is a fault of this
    program and keeps its traceback. `HYDRA_FULL_ERROR=1` keeps it always.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler that stops a job: as Ctrl-C
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints and exits before the cause gets here
    sys.argv[1:] = plain_words(sys.argv[1:])
    try:
        main()
    except KeyboardInterrupt as interrupt:
        done = str(interrupt) or "finished models stay"
        print(f"interrupted: {done}; the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        several = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        if SHOW_TRACEBACKS or not all(map(is_bad_input, several)):
            traceback.print_exc()
            sys.exit(EXIT_SOME_FAILED)
        print(*(f"error: {one_line(each)}" for each in several), sep="\n", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    sys.exit(EXIT_DONE)


def is_bad_input(error: BaseException) -> bool:
    """True for an error that a user can correct."""
    return any(True for _ in bad_inputs(error))


def one_line(error: BaseException) -> str:
    """The message of an error in one line, by its innermost cause that a user can correct."""
    cause = [error, *bad_inputs(error)][-1]
    text = str(cause)
    if isinstance(cause, OSError) and cause.strerror:
        named = f"{cause.filename}: " if cause.filename else ""
        if cause.errno in DISK_FULL_ERRNOS:
            text = f"{named}{cause.strerror}; {DISK_FULL_REMEDY}"
        elif named:
            text = f"{named}{cause.strerror}; choose another place, or change its permissions"
    if isinstance(cause, MemoryError) or NO_MEMORY in text:
        text = f"not enough memory ({text}); choose a smaller network, batch or data set"
    if is_of_hydra(cause):
        text = f"the settings cannot be composed ({text}); give a group one of its names, such as data=digits"
    if text.startswith(NO_MERGE):
        text = f"{text}: these settings have no other options; set single ones, such as fleet.models=64"
    text = text.split("Config search path")[0]  # Hydra adds where it looked
    if nearest := nearest_keys(text):
        text = f"{nearest}. {NO_SETTING}"
    return " ".join(text.split()) or type(cause).__name__


def bad_inputs(error: BaseException) -> Iterator[BaseException]:
    """Errors that a user can correct, from the outermost in; Hydra's wording of OmegaConf's errors."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    kinds = (ValueError, OSError, MemoryError, HydraException, OmegaConfBaseException)
    correctable = [
        cause for cause in causes(error) if isinstance(cause, kinds) or NO_MEMORY in str(cause) or is_of_hydra(cause)
    ]
    clear = [cause for cause in correctable if not isinstance(cause, OmegaConfBaseException)]
    yield from clear or correctable


def is_of_hydra(error: BaseException) -> bool:
    """True for an error in Hydra's own code, as a number in place of a name raises it."""
    innermost = list(traceback.walk_tb(error.__traceback__))[-1:]
    own = any(str(frame.f_globals.get("__name__")).startswith("hydra.") for frame, _ in innermost)
    return own and isinstance(error, (TypeError, AttributeError, AssertionError))


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and so on; a worker's printed traceback is no cause."""
    cause: BaseException | None = error
    while cause is not None and type(cause).__name__ != "_RemoteTraceback":
        yield cause
        cause = cause.__cause__
