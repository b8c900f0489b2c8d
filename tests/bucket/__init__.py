"""An S3 bucket in this process that checks what real ones check, remembers every request, and fails
as it is told.

    async with Bucket() as bucket:
        bucket.rule("UploadPart", refuse(503, "SlowDown"), nth=(0, 1))
        store = S3Store(bucket.options(), ...)
        ...
        assert bucket.count("AbortMultipartUpload") == 1
"""

from .contents import Contents, Stored, Upload
from .rules import (
    Action,
    Rule,
    cut,
    delay,
    error_in_200,
    executed_then,
    executed_then_hang,
    executed_then_reset,
    flip,
    garbage,
    ignore,
    refuse,
    reset,
    stall,
    wrong_etag,
)
from .server import Bucket, Call
from .signing import Key

__all__ = [
    "Action",
    "Bucket",
    "Call",
    "Contents",
    "Key",
    "Rule",
    "Stored",
    "Upload",
    "cut",
    "delay",
    "error_in_200",
    "executed_then",
    "executed_then_hang",
    "executed_then_reset",
    "flip",
    "garbage",
    "ignore",
    "refuse",
    "reset",
    "stall",
    "wrong_etag",
]
