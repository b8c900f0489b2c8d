"""The two clients that speak with a bucket, and how they are set up."""

from __future__ import annotations

import ssl
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession

from artifactproxy.errors import StoreUnavailable
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.sources import SLICE

_KEEPALIVE = 15.0  # seconds; shorter than that of the usual servers


def control_config(options: S3Options, context: ssl.SSLContext, connections: int) -> AioConfig:
    """For the SDK, which makes the control calls. It repeats nothing by itself."""
    trusting = type("Session", (AIOHTTPSession,), {"_build_verify_context": lambda _: context})
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=options.connect,
        read_timeout=options.read,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation=options.checksums,
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": options.sign_payload, "addressing_style": options.addressing},
        proxies={},
        http_session_cls=trusting,
    )


def bodies_session(options: S3Options, context: ssl.SSLContext, connections: int) -> aiohttp.ClientSession:
    """Our own, for bodies in both directions."""
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=_KEEPALIVE, ssl=context)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.connect, sock_read=options.read),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=SLICE,
    )
    session._retry_connection = False  # noqa: SLF001  it would send a body again that is used up
    return session


def stay(params: dict[str, Any], **_: Any) -> None:
    """The SDK must not look for the bucket in other regions by itself: bodies would not follow it."""
    params.setdefault("context", {}).setdefault("s3_redirect", {})["redirected"] = True


def trust(ca: str) -> ssl.SSLContext:
    """The system's trust, plus the certificates of the file `ca`."""
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise StoreUnavailable(f"store.ca: {ca} holds no certificates that can be read") from error
    return context
