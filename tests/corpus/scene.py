"""An instance with small limits for one case of part E, and raw requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.house_proxy import Proxy, proxied

AUDIT = "/npm/-/npm/v1/security/audits"


@dataclass
class Scene:
    folder: Path
    chaos: Chaos

    @asynccontextmanager
    async def proxy(self, *, top: str = "", extra: str = "", remote: str = "") -> AsyncIterator[Proxy]:
        npm = f"npm:\n  provider: npm\n  upstream: {self.chaos.origin}/npm/\n"
        async with proxied(
            self.folder, self.chaos.origin, top=top, extra=extra, remote=remote, remotes=npm
        ) as proxy:
            body = self.chaos.script("/held.bin", ok(), size=5000)
            assert (await proxy.get("/files/held.bin")).body == body.bytes()
            await proxy.settled()
            yield proxy
            await proxy.check()
            for path, source in (("/files/held.bin", "cache"), ("/files/fresh.bin", "remote")):
                body = self.chaos.script(path.removeprefix("/files"), ok(), size=5000)
                got = await proxy.get(path)
                assert (got.status, got.source, got.body) == (200, source, body.bytes())
            await proxy.check()


async def raw(proxy: Proxy, request: bytes, *, seconds: float = 10) -> bytes:
    """All that comes back until the connection ends, which it does within `seconds`."""
    reader, writer = await connect(proxy)
    writer.write(request)
    got = b""
    try:
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                got += part
    except ConnectionError:
        pass
    writer.close()
    return got


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(proxy.base.rpartition(":")[2]))


def post(path: str, body: bytes, *fields: str) -> bytes:
    head = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body)}",
        *fields,
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
