"""What errors of the driver, the network and the database mean to whoever runs the program.

Codes are those of SQLSTATE (PostgreSQL, appendix A); the longest prefix in the table decides.
"""

from __future__ import annotations

import socket
from urllib.parse import unquote, urlsplit

import asyncpg

from artifactproxy.errors import BadRequest, Fault, IndexUnavailable

ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that the driver raises for reasons that are not ours."""
UNFIT = (UnicodeEncodeError, OverflowError)

_AWAY = ("index_away", "the index does not answer")
_BUSY = ("index_busy", "the index is too busy")
_SENTENCES = {
    "08": _AWAY,
    "25006": ("index_readonly", "the index can only be read"),
    "25P03": _AWAY,
    "28": ("index_refused", "the index refuses our login"),
    "3D000": ("index_refused", "the database of the index is missing"),
    "42501": ("index_refused", "the index does not allow this"),
    "42P01": ("index_damaged", "the index lacks a table"),
    "42703": ("index_damaged", "the index lacks a column"),
    "40": _BUSY,
    "53": _BUSY,
    "53100": ("index_full", "no space is left for the index"),
    "55": _BUSY,
    "57": _AWAY,
    "57014": ("index_slow", "the index takes too long"),
    "58": ("index_damaged", "the index could not be read or written"),
    "XX": ("index_damaged", "the index is damaged"),
}
_CONFLICTS = frozenset({"40001", "40P01"})
_CUT = frozenset({"57P01", "57P02", "57P03", "25P03"})
_READONLY = "25006"
_ASLEEP = frozenset({"57P03", "53300", "57P01", "57P02"})
_UNKNOWN_NAMES = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Again(Exception):
    """What a transaction stood on has changed meanwhile: it runs once more."""


def sqlstate(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


def index_fault(error: BaseException) -> Fault:
    """The public form of a driver's error."""
    if isinstance(error, UNFIT) or sqlstate(error)[:2] in ("22", "54"):
        return BadRequest("a name is not Unicode text, or a number is too large")
    if isinstance(error, Again):
        slug, sentence = _BUSY
    elif isinstance(error, TimeoutError):
        slug, sentence = _SENTENCES["57014"]
    elif isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        slug, sentence = _SENTENCES[_READONLY]
    elif code := sqlstate(error):
        known = (code, code[:2])
        slug, sentence = next(
            (_SENTENCES[each] for each in known if each in _SENTENCES),
            ("", "the index could not be read or written"),
        )
    else:
        slug, sentence = _AWAY
    return IndexUnavailable(sentence, code=slug)


def is_lost(error: BaseException) -> bool:
    """The connection is gone: what was asked may do on another."""
    code = sqlstate(error)
    if code:
        return code.startswith("08") or code in _CUT
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError) and not (
        isinstance(error, TimeoutError)
    )


def is_conflict(error: BaseException) -> bool:
    """Two transactions met, and this one was given up."""
    return isinstance(error, Again) or sqlstate(error) in _CONFLICTS


def is_readonly(error: BaseException) -> bool:
    """We talk to a server that was the primary, or is not yet."""
    return sqlstate(error) == _READONLY


def may_pass(error: BaseException) -> bool:
    """Whether a start that failed so is worth another attempt: nothing there yet, or not awake."""
    if isinstance(error, socket.gaierror):
        return error.errno not in _UNKNOWN_NAMES
    code = sqlstate(error)
    if code:
        return code in _ASLEEP or code.startswith("08")
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError) and not (
        isinstance(error, asyncpg.ClientConfigurationError)
    )


def refusal(error: BaseException, where: Where) -> IndexUnavailable:
    """Why the program does not start, and what to do about it."""
    code = sqlstate(error)
    if isinstance(error, asyncpg.ClientConfigurationError | ValueError):
        return stop("index.url is no address of a PostgreSQL database: postgresql://user@host:5432/name")
    if isinstance(error, socket.gaierror):
        return stop(f"the host {where.host} of index.url is unknown: correct it")
    if code.startswith("28"):
        return stop(f"{where} does not let in {where.user}: correct user and password in index.url")
    if code == "3D000":
        return stop(
            f"there is no database {where.database} on {where.host}:"
            f" create it (createdb -O {where.user} -E UTF8 -T template0 {where.database}), or correct index.url"
        )
    if code == "42501":
        return stop(
            f"{where.user} may not create tables in {where}: make it the owner of the database, or"
            f" run GRANT CREATE ON SCHEMA public TO {where.user} there"
        )
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched) or code == _READONLY:
        return stop(f"{where} can only be read: index.url must name a primary", "index_readonly")
    if code == "08P01" and "startup parameter" in str(error):
        return stop(f"{where} is a connection pooler: set index.pgbouncer: true")
    fault = index_fault(error)
    return stop(f"{fault.detail}: start PostgreSQL at {where}, or correct index.url", fault.code)


class Where:
    """An address for people: without its password."""

    def __init__(self, url: str) -> None:
        login, _, hosts = urlsplit(url).netloc.rpartition("@")
        self.host = hosts or "localhost"
        self.user = unquote(login.partition(":")[0]) or "our user"
        self.database = unquote(urlsplit(url).path.lstrip("/")) or self.user

    def __str__(self) -> str:
        return f"{self.host}/{self.database}"


def stop(sentence: str, code: str = "index_refused") -> IndexUnavailable:
    """A start that ends here: waiting would not help."""
    return IndexUnavailable(sentence, code=code, retry_after=None)
