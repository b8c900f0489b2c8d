"""Faults as answers: the one place where an error becomes a status, headers and a page."""

from __future__ import annotations

import math

from artifactproxy.engine.answer import Answer, Bytes
from artifactproxy.errors import BadRange, Fault, MethodRefused, Unauthorized, UpstreamAbsent, UpstreamFault
from artifactproxy.hosted.refusals import Refused
from artifactproxy.model import Header
from artifactproxy.ports import Outcome
from artifactproxy.providers._base import Page
from artifactproxy.rules.http import safe_header


def error_answer(fault: Fault, page: Page, outcome: Outcome) -> Answer:
    """`outcome` is filled in with what the log should know, the private cause included."""
    headers: list[Header] = [
        ("Content-Type", page.media_type),
        ("Cache-Control", "no-store"),
        ("X-Proxy-Error", safe_header(fault.code)),
    ]
    if fault.retry_after is not None:
        headers.append(("Retry-After", str(max(0, math.ceil(fault.retry_after)))))
    if isinstance(fault, BadRange):
        headers.append(("Content-Range", f"bytes */{fault.size}"))
    if isinstance(fault, MethodRefused):
        headers.append(("Allow", fault.allow))
    if isinstance(fault, Refused):
        headers.extend(fault.headers)
    if isinstance(fault, Unauthorized):
        headers.append(("WWW-Authenticate", safe_header(fault.challenge)))
    outcome.result = "absent" if isinstance(fault, UpstreamAbsent) else "error"
    outcome.error = fault.code
    outcome.reason = outcome.reason or fault.detail
    if fault.__cause__ is not None:
        outcome.cause = f"{type(fault.__cause__).__name__}: {fault.__cause__}"
    if isinstance(fault, UpstreamFault) and fault.upstream_status and not isinstance(fault, UpstreamAbsent):
        headers.append(("Cache-Status", f"artifactproxy; fwd=miss; fwd-status={fault.upstream_status}"))
    if isinstance(fault, UpstreamFault):
        outcome.upstream_status = fault.upstream_status or 0
    return Answer(fault.status, headers, Bytes(page.body), outcome, page.reason)


def plain_page(fault: Fault) -> Page:
    """For faults that no repository's clients have a language for."""
    return Page(f"{fault.detail}\n".encode(), "text/plain; charset=utf-8")
