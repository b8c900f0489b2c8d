"""Signature Version 4 seen from the server: everything is computed again with botocore's own signer."""

from __future__ import annotations

import calendar
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .replies import Refusal, iso_date

SKEW_SECONDS = 900
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<credential>[^,]+), ?"
    r"SignedHeaders=(?P<signed>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(slots=True)
class Key:
    """A secret; with `token` for a session, which may have `ended`."""

    secret: str
    token: str = ""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Signed:
    """A request as it came; header names in lower case, `target` in the bytes of the wire."""

    method: str
    scheme: str
    target: str
    headers: Mapping[str, str]


def verify(request: Signed, keys: Mapping[str, Key], region: str, now: float) -> None:
    """Raise a `Refusal` unless one of the keys has signed this."""
    query = dict(parse_qsl(urlsplit(request.target).query, keep_blank_values=True))
    if "X-Amz-Signature" in query:
        _verify_query(request, query, keys, region, now)
    elif "authorization" in request.headers:
        _verify_header(request, keys, region, now)
    else:
        raise Refusal(403, "AccessDenied", "nobody signed this")


def _verify_header(request: Signed, keys: Mapping[str, Key], region: str, now: float) -> None:
    match = _HEADER.fullmatch(request.headers["authorization"])
    if match is None:
        raise Refusal(400, "AuthorizationHeaderMalformed")
    stamp = request.headers.get("x-amz-date", "")
    if "x-amz-content-sha256" not in request.headers:
        raise Refusal(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    if abs(_moment(stamp) - now) > SKEW_SECONDS:
        times = {"RequestTime": stamp, "ServerTime": iso_date(now)}
        raise Refusal(403, "RequestTimeTooSkewed", "", **times)
    signed = match["signed"].split(";")
    loose = {n for n in request.headers if n == "host" or n.startswith("x-amz-")} - set(signed)
    if loose:
        raise Refusal(403, "AccessDenied", f"not signed: {', '.join(sorted(loose))}")
    token = request.headers.get("x-amz-security-token", "")
    credentials = _credentials(match["credential"], stamp, token, keys, region)
    signer = S3SigV4Auth(credentials, "s3", region)
    _compare(signer, _aws(request, signed, request.target), stamp, match["signature"])


def _verify_query(
    request: Signed, query: Mapping[str, str], keys: Mapping[str, Key], region: str, now: float
) -> None:
    stamp, life = query.get("X-Amz-Date", ""), int(query.get("X-Amz-Expires", "0"))
    if not 1 <= life <= 7 * 86400:
        raise Refusal(400, "AuthorizationQueryParametersError", "X-Amz-Expires must be between 1 and 604800")
    began = _moment(stamp)
    if began > now + SKEW_SECONDS:
        raise Refusal(403, "AccessDenied", "Request is not yet valid")
    if began + life < now:
        raise Refusal(403, "AccessDenied", "Request has expired")
    token = query.get("X-Amz-Security-Token", "")
    credentials = _credentials(query.get("X-Amz-Credential", ""), stamp, token, keys, region)
    path, _, rest = request.target.partition("?")
    unsigned = "&".join(part for part in rest.split("&") if not part.startswith("X-Amz-Signature="))
    signer = S3SigV4QueryAuth(credentials, "s3", region)
    aws = _aws(request, query.get("X-Amz-SignedHeaders", "").split(";"), f"{path}?{unsigned}")
    _compare(signer, aws, stamp, query["X-Amz-Signature"])


def _credentials(
    credential: str, stamp: str, token: str, keys: Mapping[str, Key], region: str
) -> Credentials:
    access, _, scope = credential.partition("/")
    if scope != f"{stamp[:8]}/{region}/s3/aws4_request":
        raise Refusal(400, "AuthorizationHeaderMalformed", f"expecting region '{region}'", Region=region)
    key = keys.get(access)
    if key is None:
        raise Refusal(403, "InvalidAccessKeyId")
    if key.ended:
        raise Refusal(400, "ExpiredToken")
    if token != key.token:
        raise Refusal(400, "InvalidToken")
    return Credentials(access, key.secret, key.token or None)


def _aws(request: Signed, signed: list[str], target: str) -> AWSRequest:
    missing = set(signed) - set(request.headers)
    if missing:
        raise Refusal(403, "SignatureDoesNotMatch", f"signed but not sent: {', '.join(sorted(missing))}")
    headers = {name: request.headers[name] for name in signed}
    return AWSRequest(request.method, f"{request.scheme}://{request.headers['host']}{target}", headers)


def _compare(signer: Any, aws: AWSRequest, stamp: str, signature: str) -> None:
    aws.context["timestamp"] = stamp
    if "X-Amz-Content-SHA256" not in aws.headers and isinstance(signer, S3SigV4Auth):
        raise Refusal(403, "SignatureDoesNotMatch", "x-amz-content-sha256 is not signed")
    canonical = signer.canonical_request(aws)
    wanted = signer.signature(signer.string_to_sign(aws, canonical), aws)
    if not hmac.compare_digest(wanted, signature):
        raise Refusal(403, "SignatureDoesNotMatch", "", CanonicalRequest=canonical)


def _moment(stamp: str) -> float:
    try:
        return float(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")))
    except ValueError:
        raise Refusal(403, "AccessDenied", "no valid X-Amz-Date") from None
