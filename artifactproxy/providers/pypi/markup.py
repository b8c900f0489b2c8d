"""HTML pages of the simple repository API (PEP 503): read them, write them anew.

The reader takes links and a few marks out of a page in one forward pass, following the WHATWG
tokenisation where servers stray from well-formed markup; whatever follows an unterminated tag or
comment is not read. It never backtracks over more than one attribute, so hostile pages cost no more than
honest ones. The writer makes a new page from the model; not a byte of upstream's markup survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape, unescape
from urllib.parse import urljoin, urlsplit

from artifactproxy.errors import UpstreamBroken
from artifactproxy.providers.pypi import names
from artifactproxy.providers.pypi.addresses import Addresses
from artifactproxy.providers.pypi.page import (
    File,
    Hashes,
    Listing,
    Project,
    clean_api_version,
    clean_text,
    clean_time,
    clean_urls,
    fragment_hashes,
)

Attributes = dict[str, str]

_OPENING = re.compile(
    r"<((?:a|meta|base|title|h1|h2|script|style|textarea)(?=[\s/>])|!--)", re.IGNORECASE | re.ASCII
)
_ATTRIBUTE = re.compile(
    r"""[\s/]*+(?:(>)|([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|(["'])|([^\s>]++)|))?+)""",
    re.ASCII,
)
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_CLOSING = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("title", "h1", "h2", "script", "style", "textarea")
}
_INDEX_HEADING = re.compile(
    r"\blinks for\b|\bsimple (?:package )?(?:index|repository)\b|\bindex of\b|\bdirectory listing\b",
    re.IGNORECASE,
)
_PREFERRED_HASHES = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")


@dataclass(slots=True)
class Marks:
    """What a page says about itself: named metas, and its title and headings."""

    metas: list[tuple[str, str]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    base: str = ""

    def note(self, element: str, attributes: Attributes, text: str, position: int) -> int:
        """Take in the element whose start tag ends at `position`; returns where to read on, -1 if
        the document ends within it."""
        if element == "base":
            self.base = self.base or attributes.get("href", "")
        elif element == "meta":
            name = attributes.get("name", "").lower()
            self.metas.append((name, attributes.get("content", "")))
        else:
            end = _CLOSING[element].search(text, position)
            if end is None:
                return -1
            if element in {"title", "h1", "h2"}:
                self.headings.append(_unescaped(text[position : end.start()][:500]))
            return end.end()
        return position

    def all(self, name: str) -> list[str]:
        return [content for key, content in self.metas if key == name]

    def first(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    def is_index(self) -> bool:
        """Whether a page without a single usable link still calls itself a simple page."""
        if any(name.startswith("pypi:") for name, _ in self.metas):
            return True
        return any(_INDEX_HEADING.search(heading) for heading in self.headings)


def anchors(text: str, marks: Marks) -> Iterator[tuple[Attributes, str]]:
    """Attributes and text of each `<a>`; fills `marks` on the way."""
    position = 0
    while position >= 0 and (opening := _OPENING.search(text, position)):
        element = opening[1].lower()
        if element == "!--":
            position = text.find("-->", opening.end() - 2)  # `<!-->` is a whole comment
            continue
        attributes, position = _attributes(text, opening.end())
        if position < 0:
            return
        if element == "a":
            end = text.find("<", position)
            yield attributes, _unescaped(text[position : end if end >= 0 else None]).strip()
        else:
            position = marks.note(element, attributes, text, position)


def _attributes(text: str, position: int) -> tuple[Attributes, int]:
    """Attributes of a tag and where it ends; -1 when the document ends before it does."""
    found: Attributes = {}
    while match := _ATTRIBUTE.match(text, position):
        end, name, double, single, unclosed, bare = match.groups()
        if end:
            return found, match.end()
        if unclosed:
            break
        position = match.end()
        value = double if double is not None else single if single is not None else bare or ""
        name = name.lower()
        if name not in found:
            found[name] = _reference(value) if name == "href" else _unescaped(value)
    return found, -1


def _unescaped(text: str) -> str:
    if "&" not in text:
        return text
    try:
        return unescape(text)
    except ValueError:  # a number of more digits than Python converts
        return text


def _reference(text: str) -> str:
    """Only complete references: `?a=1&copy=2` in an address is no copyright sign."""
    return _REFERENCE.sub(lambda m: unescape(m[0]), text) if "&" in text else text


def decode(body: bytes) -> str:
    return body.decode("utf-8-sig", errors="replace")


def read_project(body: bytes, name: str, url: str) -> Project:
    """The project page `name` (normalised) fetched from `url`. Raises `UpstreamBroken` for a page
    that lists no file and does not call itself a project page either."""
    marks = Marks()
    links = list(anchors(decode(body), marks))
    addresses = Addresses(_base(marks, url))
    files = [f for f in (_file(a, addresses) for a, _ in links) if f]
    if not files and not marks.is_index():
        raise UpstreamBroken("upstream sent some web page instead of a project page", code="unexpected_html")
    return Project(
        name=name,
        files=files,
        api_version=clean_api_version(marks.first("pypi:repository-version")),
        status=clean_text(marks.first("pypi:project-status"), 64) or "",
        status_reason=clean_text(marks.first("pypi:project-status-reason")) or "",
        tracks=clean_urls(marks.all("pypi:tracks")),
        alternates=clean_urls(marks.all("pypi:alternate-locations")),
    )


def _base(marks: Marks, url: str) -> str:
    try:
        return urljoin(url, marks.base) if marks.base else url
    except ValueError:
        return url


def _file(attributes: Attributes, addresses: Addresses) -> File | None:
    address = addresses.read(attributes.get("href", ""))
    if address is None or not names.is_distribution(filename := address.filename):
        return None
    get = attributes.get
    yanked = clean_text(get("data-yanked"))
    return File(
        filename=filename,
        address=address,
        hashes=fragment_hashes(address.fragment),
        requires_python=clean_text(get("data-requires-python")) or None,
        yanked=False if yanked is None else (yanked.strip() or True),
        core_metadata=_metadata(get("data-core-metadata", get("data-dist-info-metadata"))),
        gpg_sig={"true": True, "false": False}.get(get("data-gpg-sig", "").lower()),
        upload_time=clean_time(get("data-upload-time")),
        provenance=next(iter(clean_urls([get("data-provenance")])), None),
    )


def _metadata(text: str | None) -> bool | Hashes | None:
    """PEP 658: `true`, or one hash. An empty or unknown value advertises nothing."""
    if text is None:
        return None
    if text.lower() == "true":
        return True
    return fragment_hashes(text) or None


def read_listing(body: bytes, url: str) -> Listing:
    """All projects that link to their page below `url`. Raises `UpstreamBroken` for a page that has
    none and does not call itself an index."""
    marks = Marks()
    folder = urlsplit(url).path
    folder = folder[: folder.rfind("/") + 1]
    found = []
    for attributes, text in anchors(decode(body), marks):
        href = attributes.get("href", "")
        last = href.rstrip("/").rpartition("/")[2]
        name = text if names.PROJECT.fullmatch(text) else last
        if name is last and not names.PROJECT.fullmatch(last):
            continue
        if name != last and names.normalised(last) != names.normalised(name):
            continue
        if href.endswith("/") and ("/" not in href[:-1] or _is_below(href, folder, url, marks)):
            found.append(name)
    if not found and not marks.is_index():
        raise UpstreamBroken("upstream sent some web page instead of a project list", code="unexpected_html")
    return Listing(found, clean_api_version(marks.first("pypi:repository-version")))


def _is_below(href: str, folder: str, url: str, marks: Marks) -> bool:
    if not href.startswith(folder):
        try:
            href = urlsplit(urljoin(_base(marks, url), href)).path
        except ValueError:
            return False
    return href.startswith(folder) and "/" not in href[len(folder) :].rstrip("/")


def write_project(project: Project, up: str) -> str:
    """The page; `up` leads from it to the repository's root (`../../`)."""
    metas = [("pypi:repository-version", project.api_version or "1.0")]
    metas += [("pypi:project-status", project.status)] if project.status else []
    metas += [("pypi:project-status-reason", project.status_reason)] if project.status_reason else []
    metas += [("pypi:tracks", url) for url in project.tracks]
    metas += [("pypi:alternate-locations", url) for url in project.alternates]
    title = f"Links for {escape(project.name)}"
    links = "".join(_anchor(f, up) for f in project.files)
    return _document(metas, title, f"<h1>{title}</h1>\n{links}")


def _anchor(file: File, up: str) -> str:
    algorithm = next((a for a in _PREFERRED_HASHES if a in file.hashes), next(iter(file.hashes), ""))
    fragment = f"#{algorithm}={file.hashes[algorithm]}" if algorithm else ""
    extra = ""
    if file.requires_python is not None:
        extra += _attribute("data-requires-python", file.requires_python)
    if file.core_metadata is not None and file.core_metadata is not False:
        value = _metadata_text(file.core_metadata)
        extra += _attribute("data-core-metadata", value) + _attribute("data-dist-info-metadata", value)
    if file.yanked is not False:
        extra += _attribute("data-yanked", file.yanked if isinstance(file.yanked, str) else "")
    if file.gpg_sig is not None:
        extra += _attribute("data-gpg-sig", "true" if file.gpg_sig else "false")
    if file.upload_time:
        extra += _attribute("data-upload-time", file.upload_time)
    if file.provenance:
        extra += _attribute("data-provenance", file.provenance)
    href = escape(f"{up}{file.address.path}{fragment}")
    return f'<a href="{href}"{extra}>{escape(file.filename)}</a><br>\n'


def _attribute(name: str, value: str) -> str:
    return f' {name}="{escape(value)}"'


def _metadata_text(value: bool | Hashes) -> str:
    if isinstance(value, dict):
        for algorithm in _PREFERRED_HASHES:
            if algorithm in value:
                return f"{algorithm}={value[algorithm]}"
    return "true"


def write_listing(listing: Listing) -> str:
    links = "".join(f'<a href="{names.normalised(n)}/">{n}</a>\n' for n in listing.names)
    metas = [("pypi:repository-version", listing.api_version or "1.0")]
    return _document(metas, "Simple index", links)


def _document(metas: list[tuple[str, str]], title: str, content: str) -> str:
    head = "".join(f'<meta name="{name}" content="{escape(value)}">\n' for name, value in metas)
    return (
        f'<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n{head}<title>{title}</title>\n'
        f"</head>\n<body>\n{content}</body>\n</html>\n"
    )
