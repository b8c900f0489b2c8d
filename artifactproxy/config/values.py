"""Checks of single values: addresses, hosts, networks, secrets. Each returns the canonical form.

Every function raises ValueError with a sentence that fits after the key and never repeats a
secret. URLs follow RFC 3986; a host is a name, an IPv4 address or an IPv6 address in brackets.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

PUBLIC = "public"
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*"
)
_URL_BYTES = re.compile(r"[!-~]+")
_SECRET_SENTENCE = (
    "is a secret and is not written here; "  # noqa: S105  a sentence, not a secret
    "write {env: NAME} to take it from the environment or {file: PATH} to read it from a file"
)


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is kept; never the secret."""

    source: Literal["env", "file"]
    name: str

    def shown(self) -> dict[str, str]:
        return {self.source: self.name}


def secret(written: object) -> SecretRef:
    if isinstance(written, SecretRef):
        return written
    if not isinstance(written, dict) or len(written) != 1:
        raise ValueError(_SECRET_SENTENCE)
    source, name = next(iter(written.items()))
    if source not in ("env", "file") or not isinstance(name, str) or not name:
        raise ValueError(_SECRET_SENTENCE)
    return SecretRef(source, name)


def is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        return _is_address(text[1:-1], 6)
    if re.fullmatch(r"[0-9.]+", text):
        return _is_address(text, 4)
    return _HOST_NAME.fullmatch(text.lower()) is not None


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def split_port(text: str) -> tuple[str, int | None]:
    """`host` or `host:port`. Raises ValueError if it is neither."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", text, re.ASCII)
    if match is None or not is_host(match[1]) or int(match[2] or 0) > 65535:
        raise ValueError(f"{text!r} is not a host or host:port")
    return match[1].lower(), int(match[2]) if match[2] else None


def listen(written: object) -> str:
    """HOST:PORT; port 0 lets the system choose."""
    sentence = "must be HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080"
    if not isinstance(written, str):
        raise ValueError(sentence)  # noqa: TRY004  pydantic collects ValueErrors
    try:
        host, port = split_port(written)
    except ValueError:
        raise ValueError(sentence) from None
    if port is None:
        raise ValueError(sentence)
    return f"{host}:{port}"


def host_port(written: str) -> str:
    host, port = split_port(written)
    return host if port is None else f"{host}:{port}"


def file_host(written: str) -> str:
    """`host`, `host:port` or `scheme://host[:port]`."""
    if "://" not in written:
        return host_port(written)
    parts = _url(written)
    if parts.path not in ("", "/"):
        raise ValueError(f"{written!r} must be a host, host:port or scheme://host[:port], without a path")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def upstream(written: str) -> str:
    """An upstream base address, ending in `/`, or the word `public`."""
    if written == PUBLIC:
        return written
    parts = _url(written)
    path = parts.path if parts.path.endswith("/") else parts.path + "/"
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def public_url(written: str) -> str:
    """The address that clients use, without a trailing slash."""
    parts = _url(written)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def object_prefix(written: str) -> str:
    """What the keys of a bucket begin with, ending in `/`."""
    text = written.strip("/")
    if not re.fullmatch(r"[\w.=+-]+(?:/[\w.=+-]+)*", text, re.ASCII) and text:
        raise ValueError("may hold letters, digits, . _ - = + and slashes between them")
    return f"{text}/" if text else ""


def dsn(written: object) -> object:
    """The address of a database: plain where it holds no password, else a secret."""
    if not isinstance(written, str):
        return None if written is None else secret(written)
    parts = _split(written)
    if parts.password is not None or "password=" in parts.query:
        raise ValueError(
            "holds a password; write the whole address as {env: NAME} or {file: PATH}, or leave the password out"
        )
    return written


def judge_dsn(text: str, schemes: tuple[str, ...]) -> None:
    """An address that was looked up: one of these schemes, and a host or a socket."""
    parts = _split(text)
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a valid address") from None
    if "@" in parts.path:  # else the begin of the password would be taken for a port, and shown
        raise ValueError("is not a valid address: in a user or password write / as %2F, ? as %3F, # as %23")
    return parts


def proxy_url(written: str) -> str:
    parts = _url(
        written, secrets="is written into the address; write the whole address as {env: NAME} or {file: PATH}"
    )
    if parts.path not in ("", "/"):
        raise ValueError("must be scheme://host:port without a path")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def proxy_url_resolved(text: str) -> str:
    """A proxy address that came out of a secret: user and password are allowed in it."""
    userinfo, at, rest = text.partition("://")[2].rpartition("@")
    scheme = text.partition("://")[0]
    bare = proxy_url(f"{scheme}://{rest}")
    return bare.replace("://", f"://{userinfo}{at}", 1)


def _url(written: str, *, secrets: str = "belongs in `auth`, not in the address") -> SplitResult:
    if not _URL_BYTES.fullmatch(written) or "\\" in written:
        raise ValueError("must not contain blanks, backslashes or characters outside ASCII")
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError:
        raise ValueError("is not a valid address") from None
    if "@" in parts.netloc:
        raise ValueError("a user or password " + secrets)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not is_host(f"[{host}]" if ":" in host else host):
        raise ValueError("must be an http or https address such as https://files.example/")
    if "?" in written or "#" in written:
        raise ValueError("must not have a query or a fragment")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("has an empty or zero port")
    if not {".", ".."}.isdisjoint(unquote(parts.path).split("/")):
        raise ValueError("must not have dot segments in its path")
    return parts


def network(written: str) -> str:
    try:
        return str(ipaddress.ip_network(written))
    except ValueError:
        raise ValueError(f"{written!r} is not a network such as 10.0.0.0/8 or fd00::/8") from None
