"""Files that anyone can get: read from a folder or downloaded once, and never used before their checksum is right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from palisade.data.decompression import BROKEN, opened
from palisade.data.places import place


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of a public data set, known by its checksum.

    Args:
        name: its path in a user's folder; there it may also lie as `<name>.xz`.
        checksum: of its content, such as `md5:8d4f…` or `sha256:9272…`.
        url: where its publisher offers it, alone or in an archive.
        archive: checksum of the archive at `url` (.zip or .tar.gz), or None if the file is offered alone.
        member: its path in that archive; None takes `name`.
    """

    name: str
    checksum: str
    url: str
    archive: str | None = None
    member: str | None = None

    def read(self, root: str | None) -> bytes:
        """The content: from the folder `root`, or else from the user's cache, into which it is downloaded once.

        Raises:
            ValueError: if the file is not the published one.
            OSError: if it cannot be downloaded.
        """
        path = self._path(root)
        try:
            with opened(path) if path.name == f"{self._base}.xz" else path.open("rb") as file:
                content = file.read()
        except (*BROKEN, ValueError) as error:
            raise ValueError(f"{path} is no .xz file ({error}); delete it, and set data.root=null") from None
        algorithm, published = self.checksum.split(":")
        if (found := hashlib.new(algorithm, content).hexdigest()) != published:
            raise ValueError(
                f"{path} has {algorithm} {found[:12]}…, the published file has {published[:12]}…; "
                "delete it, and set data.root=null to download it afresh"
            )
        return content

    @property
    def _base(self) -> str:
        return Path(self.name).name

    def _path(self, root: str | None) -> Path:
        if root is not None:
            stored = place("data.root", root) / self.name
            for path in (stored, stored.with_name(f"{stored.name}.xz")):
                if path.is_file():
                    return path
        return self._download()

    def _download(self) -> Path:
        import pooch
        import requests

        pooch.get_logger().setLevel("WARNING")
        extract = pooch.Unzip if self.url.endswith(".zip") else pooch.Untar
        member = self.member or self.name
        try:
            paths = pooch.retrieve(
                self.url,
                known_hash=self.archive or self.checksum,
                path=pooch.os_cache("palisade"),
                processor=extract(members=[member]) if self.archive else None,
            )
            return Path(paths[0] if self.archive else paths)
        except requests.RequestException as error:
            reason = f"no answer from {self.url} ({type(error).__name__})"
        except (ValueError, OSError) as error:  # pooch's word for another checksum, or a cache that cannot be written
            reason = f"{self.url} is not the published file, or cannot be stored ({type(error).__name__})"
        raise OSError(f"{self.name}: {reason}; put the file into a folder and set data.root=<folder>")
