"""From the driver's exceptions to our faults: one table, before and after the head.

Sentences are public: they name the upstream's host, never a path, a query or a credential.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl

import aiohttp

from artifactproxy.errors import (
    UpstreamBlocked,
    UpstreamBroken,
    UpstreamFault,
    UpstreamSlow,
    UpstreamUnreachable,
)

# Words by which the parser says that it could not tell where the message ends.
_FRAMING = re.compile(r"content-length|transfer-encoding|chunk", re.IGNORECASE)

BEFORE_HEAD = (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError)
IN_BODY = (aiohttp.ClientError, OSError, asyncio.TimeoutError, aiohttp.http_exceptions.HttpProcessingError)


# Once connected nothing is exchanged before TLS, so these ended a handshake.
_IN_HANDSHAKE = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)

_OUR_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

# The first row whose types match decides.
_TABLE: tuple[tuple[tuple[type[Exception], ...], type[UpstreamFault], str, str], ...] = (
    (
        (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError),
        UpstreamBroken,
        "tls",
        "{} offers no TLS that can be trusted",
    ),
    ((aiohttp.ClientConnectorDNSError,), UpstreamUnreachable, "upstream_dns", "{} cannot be resolved"),
    (
        (aiohttp.ClientProxyConnectionError,),
        UpstreamUnreachable,
        "upstream_refused",
        "the egress proxy towards {} is unreachable",
    ),
    (
        (aiohttp.ClientHttpProxyError,),
        UpstreamUnreachable,
        "upstream_refused",
        "the egress proxy does not let us reach {}",
    ),
    (
        (aiohttp.ConnectionTimeoutError,),
        UpstreamSlow,
        "connect_timeout",
        "{} took too long to accept a connection",
    ),
    (
        (asyncio.TimeoutError,),
        UpstreamSlow,
        "first_byte",
        "{} took too long to send a response head",
    ),
    ((aiohttp.ClientConnectorError,), UpstreamUnreachable, "upstream_refused", "{} refuses connections"),
    (
        (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError),
        UpstreamBlocked,
        "bad_location",
        "the address named for {} is not a valid URL",
    ),
    ((ValueError,), UpstreamBlocked, "bad_request", "the request for {} cannot be written as HTTP"),
    ((Exception,), UpstreamBroken, "no_answer", "{} closed the connection before a response head"),
)


def before_head(exc: Exception, host: str) -> UpstreamFault:
    """What kept us from a response head; `exc` is one of `BEFORE_HEAD`."""
    if isinstance(exc, aiohttp.ClientConnectorError) and isinstance(exc.os_error, _IN_HANDSHAKE):
        exc = ssl.SSLError(str(exc.os_error))
    if isinstance(exc, aiohttp.ClientResponseError) and not isinstance(exc, aiohttp.ClientHttpProxyError):
        code = "bad_framing" if _FRAMING.search(exc.message) else "bad_head"
        return UpstreamBroken(f"{host} sent a response head that breaks HTTP", code=code)
    kind, code, sentence = next(
        (kind, code, sentence) for types, kind, code, sentence in _TABLE if isinstance(exc, types)
    )
    return kind(sentence.format(host), code=code)


def is_ours(exc: Exception) -> bool:
    """Whether this machine could not make a connection, whatever upstream would have said."""
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    return isinstance(cause, OSError) and cause.errno in _OUR_SHORTAGES


def in_body(exc: Exception, host: str) -> UpstreamFault:
    """What ended a body early; `exc` is one of `IN_BODY`."""
    fault = UpstreamBroken(f"{host} ended the body before it was complete", code="short_body")
    fault.__cause__ = exc
    return fault
