"""What may go wrong with one request to the bucket, what is done about it, and how it is told.

Within this room a request ends in an answer, in `Answered` (the bucket said no) or in `Unreached`
(no usable answer came); only faults of `errors` leave it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

from artifactproxy.errors import StoreAway, StoreFull, StoreUnavailable
from artifactproxy.stores.s3.options import S3Options

_AGAIN = frozenset(
    {
        "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "IncompleteBody",
        "OperationAborted", "ConditionalRequestConflict", "Throttling", "ThrottlingException",
        "RequestLimitExceeded", "TooManyRequests", "XMinioServerNotInitialized", "BandwidthLimitExceeded",
    }
)  # fmt: skip
_RENEW = frozenset(
    {
        "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "SignatureDoesNotMatch",
        "InvalidToken", "TokenRefreshRequired", "RequestExpired",
    }
)  # fmt: skip
_FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"})
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9_.-]{1,80})\s*</Code>")


class Answered(Exception):
    """The bucket refused: status and the code of its error document ("" if it sent none)."""

    def __init__(self, operation: str, status: int, code: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{operation}: {status} {code}")
        self.operation = operation
        self.status = status
        self.code = code
        self.headers = headers

    @property
    def kind(self) -> str:
        return self.code or str(self.status)


class Unreached(Exception):
    """No usable answer: `kind` is `resolve`, `connect`, `tls`, `timeout`, `broken` or `garbage`. What was asked for may
    have been done."""

    def __init__(self, operation: str, kind: str) -> None:
        super().__init__(f"{operation}: {kind}")
        self.operation = operation
        self.kind = kind


class Keyless(Exception):
    """There are no credentials to sign with."""


class Cure(Enum):
    """What may help."""

    AGAIN = "the same once more, later"
    RENEW = "fresh credentials"
    SHIFT = "the time of the server"
    NONE = ""


def cure_of(trouble: Answered | Unreached) -> Cure:
    if isinstance(trouble, Unreached):
        return Cure.AGAIN
    if trouble.code in _RENEW:
        return Cure.RENEW
    if trouble.code == "RequestTimeTooSkewed":
        return Cure.SHIFT
    if is_full(trouble) or trouble.status == 501:
        return Cure.NONE
    passing = trouble.status == 429 or trouble.status >= 500
    return Cure.AGAIN if passing or trouble.code in _AGAIN else Cure.NONE


def is_full(trouble: Answered) -> bool:
    return trouble.code in _FULL or trouble.status == 507


def is_absent(trouble: Answered) -> bool:
    """Whether this says, for certain, that there is no such object in a bucket that is there."""
    return trouble.status == 404 and trouble.code == "NoSuchKey"


def code_in(document: bytes) -> str:
    """The code of an error document, "" if it is none."""
    found = _CODE.search(document)
    return found[1].decode() if found else ""


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Whatever of this room is raised inside leaves as a fault; `doing` ends "could not ..."."""
    try:
        yield
    except Answered as trouble:
        raise fault_of(trouble, doing) from trouble
    except Unreached as trouble:
        raise StoreAway(f"the bucket does not answer ({trouble.kind})") from trouble
    except Keyless as trouble:
        raise StoreAway("there are no credentials for the bucket", retry_after=30.0) from trouble


def fault_of(trouble: Answered, doing: str) -> StoreUnavailable:
    if is_full(trouble):
        return StoreFull("no space is left for blobs")
    return StoreAway(f"the blob store could not {doing}: the bucket answered {trouble.kind}")


_SILENT = {
    "resolve": "the host of {where} is not known: check store.endpoint and the resolver of this machine",
    "connect": "nothing can be reached at {where}: check store.endpoint and the network",
    "tls": "{where} shows a certificate that is not trusted, or of another name: set store.ca or store.endpoint",
    "plain": "{where} does not speak TLS: write http:// in store.endpoint, or name the port that does",
    "timeout": "{where} does not answer in time: check store.endpoint and the network",
    "broken": "{where} breaks off: check store.endpoint (http or https) and the network",
    "garbage": "{where} does not speak S3: check store.endpoint",
}


def sentence(trouble: Answered | Unreached | Keyless, options: S3Options) -> str:
    """What is wrong at the start, and how to mend it."""
    where = options.endpoint or "the S3 endpoint of its region"
    bucket = f"bucket {options.bucket!r}"
    if isinstance(trouble, Keyless):
        return (
            f"there are no credentials for {bucket}: set store.access_key and store.secret_key, "
            "or give the program some of the SDK's own kind (environment, profile, role)"
        )
    if isinstance(trouble, Unreached):
        return _SILENT[trouble.kind].format(where=where)
    return _refused(trouble, options, where, bucket)


_MENDED = {
    "AuthorizationHeaderMalformed": "{where} expects another region than {region!r}: set store.region to it",
    "IllegalLocationConstraintException": "{where} expects another region than {region!r}: set store.region to it",
    "NoSuchBucket": "{bucket} does not exist at {where}: create it, or set store.bucket",
    "InvalidBucketName": "{bucket} is no name that S3 allows: set store.bucket",
    "InvalidAccessKeyId": "{where} does not know the access key: set store.access_key",
    "SignatureDoesNotMatch": "{where} does not accept the signature: check store.secret_key (and store.region)",
    "RequestTimeTooSkewed": "the clock of this machine and that of {where} differ too much: set the clock",
}
_MOVED = "{bucket} is not at {where}: set store.endpoint or store.region to where it is"
_ENDED = "the credentials for {bucket} have ended ({kind}): renew them"
_DENIED = (
    "{where} refuses access to {bucket} ({kind}): its policy must allow to list the bucket and to get, put "
    "and delete objects and to abort uploads below store.prefix"
)
_OTHER = "{where} answered {status} {kind} for {bucket}: check store.endpoint and store.bucket"


def _refused(trouble: Answered, options: S3Options, where: str, bucket: str) -> str:
    region = trouble.headers.get("x-amz-bucket-region", "")
    if region and region != options.region and trouble.status in (301, 307, 400, 403):
        return f"{bucket} is in the region {region!r}: set store.region to it"
    if trouble.status in (301, 307):
        text = _MOVED
    elif trouble.code in _MENDED:
        text = _MENDED[trouble.code]
    elif trouble.code in _RENEW:
        text = _ENDED
    else:
        text = _DENIED if trouble.status == 403 else _OTHER
    return text.format(
        where=where, bucket=bucket, region=options.region, kind=trouble.kind, status=trouble.status
    )
