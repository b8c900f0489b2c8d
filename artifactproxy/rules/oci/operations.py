"""A request under `/v2/` as a typed operation: what it names and what it wants done with it.

Read once, from the judged path behind the address of a registry's API (`.../v2/`), and used by all
who judge or answer it: no second reading may disagree with the first. Names may contain slashes and
the words of the protocol, so a path is read from its end. Reference: OCI distribution specification
1.1, "Endpoints".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from artifactproxy.errors import BadPath, Fault, MethodRefused, NotServed
from artifactproxy.model import Digest, Right
from artifactproxy.rules.oci.names import digest_of, is_name, is_session, is_tag
from artifactproxy.rules.paths import canonical_path, decode_segment, judge_path

PAGE_MAX: Final = 1000  # entries of one page, whatever is asked for

_PARAMETERS: Final = frozenset({"artifactType", "digest", "from", "last", "mount", "n", "ns"})


@dataclass(frozen=True, slots=True)
class Page:
    """`n` entries that sort after `last`; n None: as many as the registry likes."""

    n: int | None = None
    last: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Whether this is a registry, and whether one has to log in."""


@dataclass(frozen=True, slots=True)
class Catalog:
    page: Page = Page()


@dataclass(frozen=True, slots=True)
class Tags:
    name: str
    page: Page = Page()


@dataclass(frozen=True, slots=True)
class Referrers:
    """Manifests whose subject is `digest`, of one artifact type unless that is empty."""

    name: str
    digest: Digest
    artifact_type: str = ""
    page: Page = Page()


@dataclass(frozen=True, slots=True)
class Manifest:
    """By tag or by digest, never both; only by digest is it the same for ever."""

    name: str
    tag: str = ""
    digest: Digest | None = None

    @property
    def reference(self) -> str:
        return str(self.digest) if self.digest is not None else self.tag


@dataclass(frozen=True, slots=True)
class Blob:
    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Uploads:
    """Where uploads begin: a session, with `digest` the whole blob at once, with `mount` one that the
    repository `origin` has ("": any that the caller may read)."""

    name: str
    digest: Digest | None = None
    mount: Digest | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session; `digest` is said when it is closed."""

    name: str
    session: str
    digest: Digest | None = None


Target = Ping | Catalog | Tags | Referrers | Manifest | Blob | Uploads | Upload

METHODS: Final[dict[type[Target], tuple[str, ...]]] = {
    Ping: ("GET", "HEAD"),
    Catalog: ("GET", "HEAD"),
    Tags: ("GET", "HEAD"),
    Referrers: ("GET", "HEAD"),
    Manifest: ("GET", "HEAD", "PUT", "DELETE"),
    Blob: ("GET", "HEAD", "PUT", "DELETE"),
    Uploads: ("POST",),
    Upload: ("GET", "HEAD", "PATCH", "PUT", "DELETE"),
}
"""What the protocol knows; a PUT of a blob under its digest is the monolithic push in one request."""

READING: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Operation:
    """`ns` is the registry that a mirror's client is really after, "" for none."""

    method: str
    target: Target
    ns: str = ""

    @property
    def name(self) -> str:
        """The repository that is read or written, "" where there is none."""
        return "" if isinstance(self.target, Ping | Catalog) else self.target.name

    @property
    def writes(self) -> bool:
        """Whether it takes the right to push. All of an upload does, its status too; an upload session
        tells who may ask about it by nothing but its name."""
        return isinstance(self.target, Uploads | Upload) or self.method not in READING

    @property
    def right(self) -> Right:
        """What it takes. An upload is cancelled by whoever may push."""
        if not self.writes:
            return Right.READ
        deleting = self.method == "DELETE" and not isinstance(self.target, Upload)
        return Right.DELETE if deleting else Right.PUSH

    @property
    def reads_also(self) -> str:
        """A second repository whose content is handed out: that of a mount."""
        return self.target.origin if isinstance(self.target, Uploads) else ""


def operation_of(method: str, path: str, query: str = "") -> Operation:
    """Read the path behind `/v2/` (percent-encoded, no leading slash) and the query behind `?`.

    Raises `BadPath` (`name_invalid`, `digest_invalid`, `pagination_number_invalid`, ...) for what is
    malformed, `NotServed` for what is no address of a registry or cannot be there, `MethodRefused`.
    """
    judge_path(path)
    parameters = _read(query)
    target = target_of(canonical_path(path), parameters, reading=method in READING)
    methods = METHODS[type(target)]
    if method not in methods:
        raise MethodRefused(f"this address of a registry does not take {method}", allow=", ".join(methods))
    return Operation(method, target, parameters.get("ns", ""))


def target_of(path: str, parameters: dict[str, str], *, reading: bool = True) -> Target:
    """Of a canonical path; raises as `operation_of`. `reading`: a tag that cannot be is only missing."""
    if path == "":
        return Ping()
    if path == "_catalog":
        return Catalog(_page(parameters))
    name, kind, last = _split(path)
    if not is_name(name):
        raise _invalid("name_invalid", "a repository cannot be called this")
    if kind == "manifests":
        return _manifest(name, last, reading=reading)
    if kind == "blobs":
        return Blob(name, _digest(last))
    if kind == "tags":
        return Tags(name, _page(parameters))
    if kind == "referrers":
        return Referrers(name, _digest(last), parameters.get("artifactType", ""), _page(parameters))
    if last:
        return _upload(name, last, parameters)
    return _uploads(name, parameters)


def _split(path: str) -> tuple[str, str, str]:
    """Name, word of the protocol, what stands behind it. An address of uploads begins with `blobs`."""
    parts = path.split("/")
    if parts[-2:] == ["blobs", "uploads"]:
        return "/".join(parts[:-2]), "uploads", ""
    if parts[-3:-1] == ["blobs", "uploads"]:
        return "/".join(parts[:-3]), "uploads", parts[-1]
    if len(parts) >= 3 and parts[-2] in ("manifests", "blobs", "referrers") and parts[-1]:
        return "/".join(parts[:-2]), parts[-2], parts[-1]
    if parts[-2:] == ["tags", "list"]:
        return "/".join(parts[:-2]), "tags", ""
    raise NotServed("no address of a registry's API", code="not_served")


def _manifest(name: str, text: str, *, reading: bool) -> Manifest:
    reference = decode_segment(text)
    if ":" in reference:
        return Manifest(name, digest=_digest(text))
    if not is_tag(reference):
        if reading:
            raise NotServed("no tag can be called this", code="manifest_unknown")
        raise _invalid("tag_invalid", "a tag cannot be called this")
    return Manifest(name, tag=reference)


def _uploads(name: str, parameters: dict[str, str]) -> Uploads:
    digest, mount, origin = (parameters.get(key, "") for key in ("digest", "mount", "from"))
    if origin and not is_name(origin):
        raise _invalid("name_invalid", "a repository to mount from cannot be called this")
    return Uploads(
        name, _digest(digest) if digest else None, _digest(mount) if mount else None, origin if mount else ""
    )


def _upload(name: str, session: str, parameters: dict[str, str]) -> Upload:
    if not is_session(session):
        raise NotServed("there is no such upload", code="blob_upload_unknown")
    digest = parameters.get("digest")
    return Upload(name, session, None if digest is None else _digest(digest))


def _digest(text: str) -> Digest:
    digest = digest_of(decode_segment(text))
    if digest is None:
        raise _invalid(
            "digest_invalid", "a digest is sha256: and 64, or sha512: and 128 lower-case hex digits"
        )
    return digest


def _page(parameters: dict[str, str]) -> Page:
    """Raises `BadPath` for an `n` that is no number; a large one is cut to `PAGE_MAX`."""
    text = parameters.get("n")
    if text is None:
        return Page(None, parameters.get("last", ""))
    if not (text.isascii() and text.isdigit()):
        raise _invalid("pagination_number_invalid", "n is the number of entries of a page")
    n = min(int(text[:20]), PAGE_MAX) if text.strip("0") else 0
    return Page(n, parameters.get("last", ""))


def _read(query: str) -> dict[str, str]:
    """The parameters that registries know, decoded once. A plus stays one: nothing here holds blanks,
    and media types do hold plusses. Raises `BadPath` for one that is given twice."""
    found: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        name = decode_segment(name)
        if name not in _PARAMETERS:
            continue
        if name in found:
            raise BadPath(f"{name} is given twice")
        found[name] = decode_segment(value)
    return found


def _invalid(code: str, detail: str) -> Fault:
    return BadPath(detail, code=code)
