"""A registry as it is usually written, to be beaten: spool, then hash, then store.

`python -m bench.spooler PORT FOLDER`; with BENCH_BUCKET in the environment blobs go to that bucket. It takes
a push as a registry does (POST, then PUT), and serves nothing. A competent one: it writes and reads in a thread,
in large pieces, uploads in parts, several at once, with the SDK told neither to hash nor to sum up what it
sends; and 201 means durable here too. It records nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.model import MIB

PART, AT_ONCE = 8 * MIB, 4
"""As artifactproxy has them."""
_BATCH = 512 * 1024  # bytes written at a time


class Spooler:
    def __init__(self, folder: Path, client: Any = None, bucket: str = "") -> None:
        self._folder, self._client, self._bucket = folder, client, bucket
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / "blobs").mkdir(exist_ok=True)

    async def begin(self, request: web.Request) -> web.Response:
        place = f"/v2/{request.match_info['name']}/blobs/uploads/{secrets.token_hex(8)}"
        return web.Response(status=202, headers={"Location": place})

    async def push(self, request: web.Request) -> web.Response:
        wanted = request.query["digest"].removeprefix("sha256:")
        path = self._folder / "tmp" / secrets.token_hex(8)
        try:
            await self._spool(request, path)
            if await asyncio.to_thread(_sha256, path) != wanted:
                return web.Response(status=400, text="other bytes")
            if self._client is None:
                await asyncio.to_thread(_settle, path, self._folder / "blobs" / wanted)
            else:
                await self._upload(path, wanted)
        finally:
            path.unlink(missing_ok=True)
        return web.Response(status=201)

    async def _spool(self, request: web.Request, path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            batch: list[bytes] = []
            size = 0
            async for piece in request.content.iter_any():
                batch.append(piece)
                size += len(piece)
                if size >= _BATCH:
                    await asyncio.to_thread(file.write, b"".join(batch))
                    batch, size = [], 0
            await asyncio.to_thread(file.write, b"".join(batch))

    async def _upload(self, path: Path, key: str) -> None:
        where = {"Bucket": self._bucket, "Key": key}
        begun = await self._client.create_multipart_upload(**where)
        where["UploadId"] = begun["UploadId"]
        fd = os.open(path, os.O_RDONLY)
        places = asyncio.Semaphore(AT_ONCE)

        async def part(number: int) -> dict[str, Any]:
            async with places:
                body = await asyncio.to_thread(os.pread, fd, PART, number * PART)
                sent = await self._client.upload_part(**where, PartNumber=number + 1, Body=body)
                return {"PartNumber": number + 1, "ETag": sent["ETag"]}

        try:
            count = -(-path.stat().st_size // PART)
            done = await asyncio.gather(*(part(number) for number in range(count)))
            await self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})
        finally:
            os.close(fd)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(path: Path, name: Path) -> None:
    """Durable under its name."""
    for each in (path, name.parent):
        fd = os.open(each, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        if each is path:
            path.rename(name)


async def serve(port: int, folder: Path) -> None:
    bucket = os.environ.get("BENCH_BUCKET", "")
    if not bucket:
        await _listen(port, Spooler(folder))
        return
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    config = AioConfig(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        parameter_validation=False,
        s3={"payload_signing_enabled": False, "addressing_style": "path"},
        max_pool_connections=64,
    )
    async with get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=os.environ["BENCH_ENDPOINT"],
        aws_access_key_id=os.environ["BENCH_ACCESS"],
        aws_secret_access_key=os.environ["BENCH_SECRET"],
        config=config,
    ) as client:
        await _listen(port, Spooler(folder, client, bucket))


async def _listen(port: int, spooler: Spooler) -> None:
    app = web.Application(client_max_size=1 << 40)

    async def alive(_: web.Request) -> web.Response:
        return web.Response()

    app.router.add_get("/v2/", alive)
    app.router.add_post("/v2/{name:.+}/blobs/uploads/", spooler.begin)
    app.router.add_put("/v2/{name:.+}/blobs/uploads/{id}", spooler.push)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
