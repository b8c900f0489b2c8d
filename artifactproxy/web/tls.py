"""TLS on the listener: a certificate and its key from two PEM files, followed as they change.

A renewed certificate is used from the next handshake on; connections that are open keep theirs.
Files that do not work together are refused, with a warning, and the old pair stays in use.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Literal

from artifactproxy.errors import ConfigError
from artifactproxy.ports import Observer

LOOK_SECONDS = 1.0  # at most this often a handshake looks at the files

_Stamp = tuple[tuple[int, int, int], ...]


class PairRefused(ConfigError):
    """`which` key of the configuration is at fault; the text is a sentence about its file."""

    def __init__(self, which: Literal["cert", "key"], sentence: str) -> None:
        super().__init__(sentence)
        self.which = which


class _Encrypted(Exception):
    """OpenSSL asks for a passphrase, which nobody is there to type."""


class Certificate:
    """`context` is for the listener and stays the same; what it shows is the newest good pair.

    Raises `PairRefused` if there is none at the start.
    """

    def __init__(self, cert: Path, key: Path, observer: Observer) -> None:
        self._files = (cert, key)
        self._observer = observer
        self._stamp = self._stamp_now()
        self._looked = time.monotonic()
        self._current = self.context = context_of(cert, key)
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read the files again, whether or not they have changed."""
        self._stamp = self._stamp_now()
        try:
            self._current = context_of(*self._files)
        except PairRefused as refused:
            self._observer.warning("certificate_refused", error=str(refused), action="the one in use is kept")
        else:
            self._observer.notice("certificate_loaded", file=str(self._files[0]))

    def follow(self, cert: Path, key: Path) -> None:
        """Use these files from now on, and read them. Raises `PairRefused` and keeps the others."""
        context = context_of(cert, key)
        self._files = (cert, key)
        self._stamp, self._current = self._stamp_now(), context
        self._observer.notice("certificate_loaded", file=str(cert))

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called in every handshake, also in those that name no server."""
        del name, context
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            if self._stamp_now() != self._stamp:
                self.reload()
        connection.context = self._current

    def _stamp_now(self) -> _Stamp:
        """What tells that a file was replaced or written to; zeros while it is not there."""
        return tuple(_stamp(path) for path in self._files)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def context_of(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this pair, HTTP/1.1 only. Raises `PairRefused`."""
    _judge_pem("cert", cert, b"CERTIFICATE-----", "certificate")
    _judge_pem("key", key, b"PRIVATE KEY-----", "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_passphrase)
    except _Encrypted:
        raise PairRefused("key", f"{key} is encrypted; store the key without a passphrase") from None
    except ssl.SSLError as error:
        raise _refusal(error, cert, key) from error
    except OSError as error:
        raise PairRefused("cert", f"cannot read {cert} and {key}: {error.strerror}") from error
    return context


def _judge_pem(which: Literal["cert", "key"], path: Path, mark: bytes, what: str) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise PairRefused(which, f"cannot read {path}: {error.strerror}") from error
    if b"-----BEGIN " not in text or mark not in text:
        raise PairRefused(which, f"{path} holds no {what} in PEM form")


def _passphrase() -> str:
    raise _Encrypted


def _refusal(error: ssl.SSLError, cert: Path, key: Path) -> PairRefused:
    reason = error.reason or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return PairRefused("key", f"{key} is not the key of the certificate in {cert}")
    if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return PairRefused("cert", f"{cert} is too weak for this machine's OpenSSL: {reason}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except OSError:
        return PairRefused("cert", f"the certificate in {cert} cannot be read: {reason}")
    return PairRefused("key", f"the key in {key} cannot be read: {reason}")
