"""What this machine needs to reach the internet, for everything here that goes there directly."""

from __future__ import annotations

import os
import ssl

_FILES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")


def authorities() -> str:
    """The PEM file of authorities that this machine is told to trust, "" for the system's own."""
    return next((os.environ[name] for name in _FILES if os.environ.get(name)), "")


def context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authorities() or None)


def environment() -> dict[str, str]:
    """For a client that goes out directly."""
    found = {name: os.environ[name] for name in _PROXIES if os.environ.get(name)}
    if authorities():
        found["SSL_CERT_FILE"] = authorities()
    return found
