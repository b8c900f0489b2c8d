"""One upload of a file to an S3, in a process of its own: `python -m bench.uploader VARIANT PORT FILE`.

Prints seconds, CPU seconds and growth of memory in MiB. The file is what a finished download leaves:
on disk and hashed already.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.watch import forget_peak, memory

PART = 8 * 2**20
AT_ONCE = 4
BUCKET, KEY = "bench", "blobs/bench"
KEYS = {"aws_access_key_id": "bench", "aws_secret_access_key": "benchbench", "region_name": "us-east-1"}


def ours(port: int, file: Path) -> Callable[[], None]:
    from artifactproxy.model import BlobRef
    from artifactproxy.ports import Intent
    from artifactproxy.stores.s3.options import S3Options
    from artifactproxy.stores.s3.store import S3Store

    class Nowhere:
        async def intend(self, intent: Intent) -> None: ...

        async def fulfil(self, ids: object) -> None: ...

        async def intents(self, before: float, limit: int) -> list[Intent]:
            del before, limit
            return []

    options = S3Options(
        BUCKET,
        endpoint=f"http://127.0.0.1:{port}",
        region="us-east-1",
        access_key="bench",
        secret_key="benchbench",
        addressing="path",
        part_size=PART,
        parts=AT_ONCE,
    )

    async def upload() -> None:
        store = S3Store(options, intents=Nowhere(), owner="bench", clock=time.time)
        await store.start()
        own = file.with_name(f"{file.name}.own")
        os.link(file, own)  # a put takes the file away
        started()
        await store.put(BlobRef("0" * 64, file.stat().st_size), own)
        finished()
        await store.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(upload())

    return run


def read_all(port: int, file: Path) -> Callable[[], None]:
    async def upload(client: Any) -> None:
        await client.put_object(Bucket=BUCKET, Key=KEY, Body=file.read_bytes())

    return _sdk(port, upload)


def parts(port: int, file: Path) -> Callable[[], None]:
    """`upload_part` as it comes."""

    async def upload(client: Any) -> None:
        begun = await client.create_multipart_upload(Bucket=BUCKET, Key=KEY)
        where = {"Bucket": BUCKET, "Key": KEY, "UploadId": begun["UploadId"]}
        fd, size = os.open(file, os.O_RDONLY), file.stat().st_size
        places = asyncio.Semaphore(AT_ONCE)

        async def part(number: int) -> dict[str, Any]:
            async with places:
                body = os.pread(fd, PART, number * PART)
                sent = await client.upload_part(**where, PartNumber=number + 1, Body=body)
                return {"PartNumber": number + 1, "ETag": sent["ETag"]}

        done = await asyncio.gather(*(part(number) for number in range(-(-size // PART))))
        await client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})
        os.close(fd)

    return _sdk(port, upload)


def _sdk(port: int, upload: Callable[[Any], Any]) -> Callable[[], None]:
    from aiobotocore.session import get_session

    async def work() -> None:
        async with get_session().create_client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", **KEYS
        ) as client:
            await client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)
            started()
            await upload(client)
            finished()

    def run() -> None:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(work())

    return run


def threads(port: int, file: Path) -> Callable[[], None]:
    """boto3's own transfer, as it comes."""

    def run() -> None:
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **KEYS)
        client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)
        started()
        with file.open("rb") as body:
            client.upload_fileobj(body, BUCKET, KEY)
        finished()

    return run


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


_began: dict[str, float] = {}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def started() -> None:
    forget_peak(os.getpid())
    _began.update(at=time.perf_counter(), cpu=_cpu(), resident=memory(os.getpid()).resident)


def finished() -> None:
    peak = _peak()
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - _began["at"],
                "cpu": _cpu() - _began["cpu"],
                "growth": peak - _began["resident"],
            }
        ),
        flush=True,
    )


def _peak() -> float:
    """MiB, of this process."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


VARIANTS = {"ours": ours, "read-all": read_all, "parts": parts, "threads": threads}

if __name__ == "__main__":
    VARIANTS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))()
