"""JSON pages of the simple repository API (PEP 691, 700), and the older project document.

Documents come from anywhere: depth, numbers, duplicate keys and `NaN` are survived; an entry that is
malformed is left out, a document without its main list is refused.
"""

from __future__ import annotations

import json
import math
from typing import Any

from artifactproxy.errors import UpstreamBroken
from artifactproxy.providers._hosts import is_text
from artifactproxy.providers.pypi import names
from artifactproxy.providers.pypi.addresses import Addresses
from artifactproxy.providers.pypi.page import (
    File,
    Hashes,
    Listing,
    Project,
    clean_api_version,
    clean_hashes,
    clean_int,
    clean_text,
    clean_time,
    clean_urls,
    fragment_hashes,
)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def parse(body: bytes) -> dict[str, Any]:
    """The document's object. Raises `UpstreamBroken` (`bad_index`)."""
    try:
        text = body.decode("utf-8-sig")
        document = json.loads(text, parse_float=_finite, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UpstreamBroken("upstream's index is not valid JSON", code="bad_index") from error
    if not isinstance(document, dict):
        raise UpstreamBroken("upstream's index is not a JSON object", code="bad_index")
    return document


def write(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def _entries(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise UpstreamBroken(f"upstream's index has no list of {key}", code="bad_index")
    return [entry for entry in entries if isinstance(entry, dict)]


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def read_project(body: bytes, name: str, url: str) -> Project:
    """The project page `name` (normalised) fetched from `url`."""
    document = parse(body)
    addresses = Addresses(url)
    files = [f for f in (_file(e, addresses) for e in _entries(document, "files")) if f]
    meta, status = _mapping(document.get("meta")), _mapping(document.get("project-status"))
    versions = document.get("versions")
    return Project(
        name=name,
        files=files,
        versions=[v for v in versions if is_text(v)] if isinstance(versions, list) else None,
        api_version=clean_api_version(meta.get("api-version")),
        status=clean_text(status.get("status"), 64) or "",
        status_reason=clean_text(status.get("reason")) or "",
        tracks=clean_urls(_list(meta.get("tracks"))),
        alternates=clean_urls(_list(document.get("alternate-locations"))),
        serial=clean_int(meta.get("_last-serial")),
    )


def _file(entry: dict[str, Any], addresses: Addresses) -> File | None:
    filename, link = entry.get("filename"), entry.get("url")
    if not isinstance(filename, str) or not filename or not isinstance(link, str):
        return None
    address = addresses.read(link)
    if (
        address is None
        or clean_text(filename, 512) != filename
        or not names.is_distribution(address.filename)
    ):
        return None
    yanked = entry.get("yanked")
    gpg_sig = entry.get("gpg-sig")
    return File(
        filename=filename,
        address=address,
        hashes=clean_hashes(_mapping(entry.get("hashes")).items()) or fragment_hashes(address.fragment),
        requires_python=clean_text(entry.get("requires-python")) or None,
        yanked=(clean_text(yanked) or True) if isinstance(yanked, str) else yanked is True,
        core_metadata=_metadata(entry.get("core-metadata", entry.get("dist-info-metadata"))),
        gpg_sig=gpg_sig if isinstance(gpg_sig, bool) else None,
        size=clean_int(entry.get("size")),
        upload_time=clean_time(entry.get("upload-time")),
        provenance=next(iter(clean_urls([entry.get("provenance")])), None),
    )


def _metadata(value: object) -> bool | Hashes | None:
    if isinstance(value, bool):
        return value
    return clean_hashes(value.items()) if isinstance(value, dict) else None


def read_listing(body: bytes) -> Listing:
    document = parse(body)
    spelled = (entry.get("name") for entry in _entries(document, "projects"))
    meta = _mapping(document.get("meta"))
    return Listing(
        [n for n in spelled if isinstance(n, str) and names.PROJECT.fullmatch(n)],
        clean_api_version(meta.get("api-version")),
        clean_int(meta.get("_last-serial")),
    )


def _meta(api_version: str, serial: int | None) -> dict[str, Any]:
    meta: dict[str, Any] = {"api-version": api_version}
    if serial is not None:
        meta["_last-serial"] = serial
    return meta


def write_project(project: Project, up: str) -> bytes:
    """The page; `up` leads from it to the repository's root (`../../`). PEP 700 makes sizes part of
    version 1.1, so a page without them says 1.0 but keeps upload times, which clients read anyway."""
    complete = all(file.size is not None for file in project.files)
    meta = _meta((project.api_version or "1.1") if complete else "1.0", project.serial)
    if complete and meta["api-version"] == "1.0":
        meta["api-version"] = "1.1"
    if project.tracks:
        meta["tracks"] = project.tracks
    document: dict[str, Any] = {
        "meta": meta,
        "name": project.name,
        "versions": project.known_versions(),
        "files": [_entry(file, up) for file in project.files],
    }
    if project.status:
        status = {"status": project.status}
        document["project-status"] = status | (
            {"reason": project.status_reason} if project.status_reason else {}
        )
    if project.alternates:
        document["alternate-locations"] = project.alternates
    return write(document)


def _entry(file: File, up: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": file.filename,
        "url": up + file.address.path,
        "hashes": file.hashes,
        "yanked": file.yanked,
    }
    if file.requires_python is not None:
        entry["requires-python"] = file.requires_python
    if file.core_metadata is not None:
        # An object without a hash would promise one; PEP 714 names both keys.
        advertised = file.core_metadata if file.core_metadata != {} else True
        entry["core-metadata"] = entry["dist-info-metadata"] = advertised
    if file.gpg_sig is not None:
        entry["gpg-sig"] = file.gpg_sig
    if file.size is not None:
        entry["size"] = file.size
    if file.upload_time:
        entry["upload-time"] = file.upload_time
    if file.provenance:
        entry["provenance"] = file.provenance
    return entry


def write_listing(listing: Listing) -> bytes:
    meta = json.dumps(_meta(listing.api_version or "1.0", listing.serial), separators=(",", ":"))
    projects = ",".join([f'{{"name":"{name}"}}' for name in listing.names])
    return f'{{"meta":{meta},"projects":[{projects}]}}'.encode("ascii")
