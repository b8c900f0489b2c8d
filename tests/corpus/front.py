"""nginx as docs/nginx.md shows it, in plain HTTP, with a pool of one connection to us and a log of what it saw."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.nginx import documented, free_port
from tests.needs import require

_WHOLE = """\
{user}daemon off; worker_processes 1; pid {folder}/nginx.pid;
events {{}}
http {{
    log_format seen '$request_method $status "$upstream_status" $request_uri';
    access_log {folder}/access.log seen;
{temporary}
    client_header_timeout 2s; client_body_timeout 2s;
    lingering_time 200ms; lingering_timeout 100ms;
    upstream pool {{ server 127.0.0.1:{port}; keepalive 1; }}
{server}
}}
"""
_SEEN = re.compile(r'(\S*) (\d+) "([^"]*)" (.*)')


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as nginx understood it; `upstream` is our status, "-" if it never asked us."""

    method: str
    status: int
    upstream: str
    target: str


@dataclass(slots=True)
class Front:
    port: int
    folder: Path
    _read: int = 0

    async def saw(self, count: int) -> list[Seen]:
        """Its next `count` requests. A connection that lingers is logged a moment after its answer."""
        seen: list[Seen] = []
        async with asyncio.timeout(60):
            while len(seen) < count:
                seen += self.news()
                await asyncio.sleep(0.001)
        return seen

    def news(self) -> list[Seen]:
        """What it logged since the last call."""
        text = (self.folder / "access.log").read_bytes()
        whole = text[self._read : text.rfind(b"\n") + 1].decode("latin-1")
        self._read += len(whole)
        found = [_SEEN.fullmatch(line) for line in whole.splitlines()]
        return [Seen(m[1], int(m[2]), m[3], m[4]) for m in found if m]


@asynccontextmanager
async def nginx(folder: Path, behind: int) -> AsyncIterator[Front]:
    """In front of the program on port `behind`."""
    folder.mkdir()
    front = Front(free_port(), folder)
    own, _ = documented()
    server = own.replace("listen 443 ssl;", f"listen 127.0.0.1:{front.port};")
    server = server.replace("http://127.0.0.1:8080", "http://pool")
    server = re.sub(r"(?m)^ *ssl_.*\n", "", server)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root; " if os.geteuid() == 0 else ""
    text = _WHOLE.format(user=user, folder=folder, temporary=temporary, port=behind, server=server)
    (folder / "nginx.conf").write_text(text)
    process = await asyncio.create_subprocess_exec(
        *(require("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "error.log")
    )
    try:
        await _listens(front, process)
        yield front
    finally:
        process.terminate()
        await process.wait()


async def _listens(front: Front, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            except OSError:
                assert process.returncode is None, (front.folder / "error.log").read_text()
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
