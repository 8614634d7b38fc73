"""Serve a release behind HTTP, or manage the keys of those who may ask."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the clone's folder holds names, such as `evaluate`, that are other people's packages too
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent.resolve()]

import hydra
from omegaconf import DictConfig

from palisade.command_words import plain_words
from palisade.commandline import call

SERVE_USAGE = "python serve.py released/<name> [key=value …]"


def main() -> None:
    """Entry point of `serve.py`: the word without `=` is the folder of the release.

    Raises:
        ValueError: if there are several such words, or a setting is wrong.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until the server hears reloads, one would end it
    words = sys.argv[1:]
    folders = [word for word in words if "=" not in word and not word.startswith("-")]
    if len(folders) > 1:
        raise ValueError(f"{' '.join(folders)}: expected one release; {SERVE_USAGE}")
    named = plain_words([f"release={folder}" for folder in folders])
    sys.argv[1:] = [*named, *(word for word in words if word not in folders)]
    composed()


@hydra.main(version_base="1.3", config_path="conf", config_name="serve")
def composed(config: DictConfig) -> None:
    """Serves, or manages keys, by the configuration that Hydra composed."""
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(config, resolve=True)
    call(lambda: serve_release(settings))


def serve_release(plain: dict[str, Any]) -> None:
    """A server, or what `keys=` asks for, by plain settings.

    Raises:
        ValueError: if one is wrong, or the extra `serve` is not installed.
    """
    from palisade.data.settings import validated
    from palisade.serving.settings import ServingSettings

    os.umask(0o077)  # what a server writes is its operator's alone
    settings = validated(ServingSettings, "", plain)
    if settings.keys is not None:
        from palisade.serving.keys import manage

        print(manage(settings))
        return
    try:
        from palisade.serving.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"serve.py needs {error.name}; install palisade-privacy[serve]") from None
    serve(settings)


if __name__ == "__main__":
    call(main)
