"""Exit codes and one-line errors of both commands."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

DONE, SOME_FAILED, BAD_INPUT, CLAIM_VIOLATED, GATE_EXCEEDED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def call(main: Callable[[], object]) -> NoReturn:
    """Runs a command and exits: 0 done, 1 some runs failed, 2 bad input in one line, 130 interrupted.

    Bad input is a ValueError, an OSError or an error of Hydra's; anything else is a fault of this program and keeps
    its traceback. `HYDRA_FULL_ERROR=1` keeps it always.
    """
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints and exits before the cause gets here
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; finished models are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if verbose or not is_bad_input(error):
            traceback.print_exc()
            sys.exit(SOME_FAILED)
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(DONE)


def is_bad_input(error: BaseException) -> bool:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(innermost(error), (ValueError, OSError, HydraException, OmegaConfBaseException))


def one_line(error: BaseException) -> str:
    """What went wrong, without what it went wrong in."""
    cause = innermost(error)
    text = str(cause)
    if isinstance(cause, OSError) and cause.strerror and cause.filename:
        text = f"{cause.filename}: {cause.strerror}"
    return " ".join(text.split()) or type(cause).__name__


def innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not type(error.__cause__).__name__.startswith("_Remote"):
        error = error.__cause__
    return error
