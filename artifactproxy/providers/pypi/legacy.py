"""The older project document, `pypi/<name>[/<version>]/json`: kept as it is, but for file URLs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from artifactproxy.errors import UpstreamBroken
from artifactproxy.model import ArtifactKey, Promise
from artifactproxy.providers.pypi import jsonpage, names
from artifactproxy.providers.pypi.addresses import Address, Addresses
from artifactproxy.providers.pypi.page import clean_hashes, clean_int, clean_time, digests, posix

_Entry = dict[str, Any]


def _read(body: bytes, url: str) -> tuple[_Entry, Addresses]:
    document = jsonpage.parse(body)
    if not isinstance(document.get("info"), dict):
        raise UpstreamBroken("upstream's project document has no info", code="bad_index")
    return document, Addresses(url)


def _lists(document: _Entry) -> Iterator[tuple[_Entry, str]]:
    """Each list of files as (its holder, its key there)."""
    if isinstance(document.get("urls"), list):
        yield document, "urls"
    releases = document.get("releases")
    if isinstance(releases, dict):
        yield from ((releases, version) for version in releases if isinstance(releases[version], list))


def _address(entry: object, addresses: Addresses) -> Address | None:
    link = entry.get("url") if isinstance(entry, dict) else None
    address = addresses.read(link) if isinstance(link, str) else None
    return address if address and names.is_distribution(address.filename) else None


def promises(key: ArtifactKey, body: bytes, url: str) -> list[Promise]:
    """What the document says about files. Raises `UpstreamBroken` if it is none."""
    document, addresses = _read(body, url)
    found: dict[str, Promise] = {}
    for holder, name in _lists(document):
        for entry in holder[name]:
            address = _address(entry, addresses)
            if address is None:
                continue
            found.setdefault(address.path, _promise(key, entry, address))
    return list(found.values())


def _promise(key: ArtifactKey, entry: _Entry, address: Address) -> Promise:
    project = key.path.split("/")[1]
    hashes = entry.get("digests")
    released = posix(clean_time(entry.get("upload_time_iso_8601")))
    return Promise(
        key=ArtifactKey(key.repo, address.path),
        digests=digests(clean_hashes(hashes.items() if isinstance(hashes, dict) else ())),
        size=clean_int(entry.get("size")),
        url=address.url,
        taught_by=key.path,
        released=released,
        released_from="upload_time_iso_8601" if released is not None else "",
        purl=names.purl(project, names.split(address.filename, project)[1]),
    )


def render(body: bytes, base: str, hidden: frozenset[str], url: str) -> bytes:
    """The document with our file URLs (absolute: it has no stable address of its own to be relative
    to), less hidden files and the releases that lost all of theirs."""
    document, addresses = _read(body, url)
    for holder, name in list(_lists(document)):
        kept = []
        for entry in holder[name]:
            address = _address(entry, addresses)
            if address is None or address.filename in hidden:
                continue
            kept.append({**entry, "url": f"{base}/{address.path}"})
        if holder[name] and not kept and holder is not document:
            del holder[name]
        else:
            holder[name] = kept
    if hidden:
        _repoint(document)
    return jsonpage.write(document)


def _repoint(document: _Entry) -> None:
    """Make `info` speak of a version that is still there; what we know of the other goes."""
    info, releases = document["info"], document.get("releases")
    if not isinstance(releases, dict) or info.get("version") in releases:
        return
    left = {v: files for v, files in releases.items() if names.canonical_version(v) and files}
    stable = [v for v in left if not names.is_prerelease(v)] or list(left)
    newest = max(stable, key=names.order, default="")
    if newest:
        info.update(version=newest, requires_dist=None, requires_python=None)
        document["urls"] = left[newest]
