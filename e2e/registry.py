"""The public registry read directly, as the independent witness of what the proxy must deliver."""

from __future__ import annotations

import hashlib
import re
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import unescape
from urllib.parse import urldefrag, urljoin, urlsplit

from packaging.utils import parse_sdist_filename, parse_wheel_filename

from artifactproxy.providers._base import PublicOrigins
from e2e import trust

_LINK = re.compile(r"<a\s([^>]*)>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""([a-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class File:
    """One link of a project page. `path` is where the proxy must have it."""

    url: str
    sha256: str
    uploaded: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> str:
        parts = urlsplit(self.url)
        return f"packages/{parts.netloc}{parts.path}"

    @property
    def version(self) -> str:
        read = parse_wheel_filename if self.name.endswith(".whl") else parse_sdist_filename
        return str(read(self.name)[1])


class Registry:
    """The ecosystem's public registry; its address is found out, never written down."""

    def __init__(self) -> None:
        self.index = PublicOrigins().repository("pkg:pypi/pip") + "simple/"
        self._context = trust.context()
        self._pages: dict[str, dict[str, File]] = {}

    def fetch(self, url: str, accept: str = "*/*") -> bytes:
        """Tried again where the network fails: this is the witness, not what is tested."""
        for wait in (1.0, 4.0, 0.0):
            try:
                return self._fetched(url, accept)
            except urllib.error.HTTPError:
                raise
            except OSError:
                if not wait:
                    raise
                time.sleep(wait)
        raise RuntimeError("not reached")

    def _fetched(self, url: str, accept: str) -> bytes:
        request = urllib.request.Request(url, headers={"Accept": accept, "Accept-Encoding": "identity"})
        with urllib.request.urlopen(request, timeout=60, context=self._context) as answer:
            body: bytes = answer.read()
            return body

    def page(self, project: str) -> dict[str, File]:
        """The files of a project by name, as HTML that also tells upload times where it can."""
        if project not in self._pages:
            url = f"{self.index}{project}/"
            html = self.fetch(url, "application/vnd.pypi.simple.v1+html, text/html;q=0.1").decode()
            self._pages[project] = {file.name: file for file in _files(html, url)}
        return self._pages[project]

    def pages(self, projects: set[str]) -> dict[str, dict[str, File]]:
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(sorted(projects), pool.map(self.page, sorted(projects)), strict=True))

    def expected(self, paths: list[str]) -> dict[str, File]:
        """What the registry says about the files at these paths of the proxy."""
        of = {path: _project(path) for path in paths}
        self.pages(set(of.values()))
        return {path: self.page(project)[path.rpartition("/")[2]] for path, project in of.items()}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _project(path: str) -> str:
    name = path.rpartition("/")[2]
    read = parse_wheel_filename if name.endswith(".whl") else parse_sdist_filename
    return str(read(name)[0])


def _files(html: str, page: str) -> list[File]:
    files = []
    for tag in _LINK.findall(html):
        attributes = {
            name.lower(): unescape(double or single) for name, double, single in _ATTRIBUTE.findall(tag)
        }
        url, fragment = urldefrag(urljoin(page, attributes["href"]))
        digest = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        files.append(File(url, digest, attributes.get("data-upload-time", "")))
    return files
