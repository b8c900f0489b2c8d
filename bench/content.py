"""Files for the origin: random, and made new by a stamp at their end so that no two fills are alike."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from bench.model import MIB

_STAMP = 32  # bytes


class Blob:
    """One origin file whose content changes with every `renew`, without hashing the whole again."""

    def __init__(self, path: Path, size: int, *, sparse: bool = False) -> None:
        self.path = path
        self.size = size
        self._prefix = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            left = size - _STAMP
            while left:
                step = min(left, MIB)
                chunk = bytes(step) if sparse else os.urandom(step)
                self._prefix.update(chunk)
                left -= step
                if sparse:
                    file.seek(step, os.SEEK_CUR)
                else:
                    file.write(chunk)
        self.sha256 = ""
        self.renew()

    def renew(self) -> str:
        """New content; returns its sha256."""
        stamp = os.urandom(_STAMP)
        with self.path.open("r+b") as file:
            file.seek(self.size - _STAMP)
            file.write(stamp)
            file.truncate(self.size)
        digest = self._prefix.copy()
        digest.update(stamp)
        self.sha256 = digest.hexdigest()
        return self.sha256


def cold_paths(*blobs: Blob) -> list[str]:
    """An origin path for each blob that nobody has asked for yet."""
    return [f"/as/{secrets.token_hex(8)}/{blob.path.name}/file.bin" for blob in blobs]


def promise(root: Path, *blobs: Blob) -> str:
    """Write the index page of a new project whose files are these blobs, with digests; returns its name."""
    name = f"bench{secrets.token_hex(8)}"
    links = []
    for number, blob in enumerate(blobs, 1):
        file = f"{name}-{number}.0-py3-none-any.whl"
        links.append(f'<a href="/as/{name}/{blob.path.name}/{file}#sha256={blob.sha256}">{file}</a><br>')
    page = root / "simple" / name / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<!DOCTYPE html><html><body>\n" + "\n".join(links) + "\n</body></html>\n")
    return name
