"""Replicas as processes of their own, which can be killed, stopped and started again.

They share a database, a Redis and a bucket as those of `tests/faults/replicas.py` do.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.chaos import Chaos
from tests.faults.machine import Running, metric, program
from tests.faults.replicas import Servers, checked, servers_for, write_configuration
from tests.house_proxy import Got
from tests.servers.process import free_port


@dataclass(slots=True)
class Reading:
    """A client that has begun to read: `got` once it has all there is to get."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[Got] | None = None

    async def read(self, replica: Running, path: str) -> Got:
        try:
            async with replica.client.get(replica.base + path) as answer:
                body = bytearray()
                try:
                    async for chunk in answer.content.iter_any():
                        body += chunk
                        self.began.set()
                except aiohttp.ClientError:
                    return Got(answer.status, answer.headers.copy(), None)
                return Got(answer.status, answer.headers.copy(), bytes(body))
        except aiohttp.ClientError:
            return Got(0, {}, None)
        finally:
            self.began.set()

    async def got(self) -> Got:
        assert self.task is not None
        return await self.task


async def reading(replica: Running, path: str) -> Reading:
    """Returns once its first bytes have come."""
    found = Reading()
    found.task = asyncio.create_task(found.read(replica, path))
    try:
        async with asyncio.timeout(20):
            await found.began.wait()
    except TimeoutError:
        found.task.cancel()
        raise
    return found


@dataclass(slots=True)
class Processes:
    """`all[n]` is None while that one does not run."""

    folder: Path
    chaos: Chaos
    servers: Servers
    ports: list[int]
    options: dict[str, object]
    all: list[Running | None]
    _stacks: list[AsyncExitStack]

    def __getitem__(self, number: int) -> Running:
        found = self.all[number]
        assert found is not None
        return found

    def living(self) -> list[Running]:
        return [replica for replica in self.all if replica is not None]

    async def start(self, number: int) -> None:
        folder, address = self.folder / f"r{number}", f"http://127.0.0.1:{self.ports[number]}"
        write_configuration(folder, self.chaos, self.servers, address, **self.options)  # type: ignore[arg-type]
        env = {"ARTIFACTPROXY_LISTEN": address.removeprefix("http://")}
        self.all[number] = await self._stacks[number].enter_async_context(program(folder, env=env))

    async def stop(self, number: int) -> int:
        """As an operator does it; its exit code."""
        replica, self.all[number] = self[number], None
        code = await replica.stop()
        await self._stacks[number].aclose()
        return code

    async def kill(self, number: int) -> None:
        replica, self.all[number] = self[number], None
        os.kill(replica.pid, signal.SIGKILL)
        await replica.ended()
        await self._stacks[number].aclose()

    async def total(self, name: str, **labels: str) -> float:
        """A metric, over all that live."""
        return sum([await metric(replica, name, **labels) for replica in self.living()])

    async def quiet(self) -> None:
        """Until no download runs anywhere."""
        async with asyncio.timeout(30):
            while await self.total("fills") or await self.total("temp_bytes"):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def processes(
    folder: Path, chaos: Chaos, count: int = 3, **options: object
) -> AsyncIterator[Processes]:
    """`options` as of `write_configuration`. At the end all are stopped in order and `fsck` finds
    nothing."""
    async with servers_for() as servers, AsyncExitStack() as stack:
        stacks = [await stack.enter_async_context(AsyncExitStack()) for _ in range(count)]
        ports = [free_port() for _ in range(count)]
        found = Processes(folder, chaos, servers, ports, options, [None] * count, stacks)
        await found.start(0)  # it makes the schema
        await asyncio.gather(*(found.start(number) for number in range(1, count)))
        yield found
        left = [number for number, replica in enumerate(found.all) if replica is not None]
        assert [await found.stop(number) for number in left] == [0] * len(left)
        await checked(folder / "r0", chaos, servers)
