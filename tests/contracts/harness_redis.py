"""Leases and bulletins in a real Redis. Every box signs in as a user of its own, who may do what is
needed below a prefix of its own and nothing else; without that user its backend is broken."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.redis import RedisCoordinator
from artifactproxy.coordination.redis_bulletin import RedisBulletin
from tests.servers import redis

RIGHTS = (
    "+eval +evalsha +get +set +del +pexpire +time +zadd +zrange +zrangebyscore +zremrangebyrank "
    "+zremrangebyscore +publish +subscribe +ping +select"
).split()
"""Everything that we ask of Redis, scripts included."""

SLACK = {"budget": 2.0, "connect": 5.0, "rest": 0.05, "lease": 2.0, "renew": 0.2}

_HOLDER = """
import asyncio, sys
from artifactproxy.coordination.options import RedisOptions
from artifactproxy.coordination.redis import RedisCoordinator

async def main():
    url, prefix, key = sys.argv[1:]
    options = RedisOptions(url, prefix=prefix, budget=2.0, connect=5.0, lease=1.0, renew=0.2)
    coordinator = RedisCoordinator(options)
    await coordinator.start()
    lease = await coordinator.acquire(key, wait=5)
    print("held" if lease else "refused", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


class Tenant:
    """One prefix of the shared server and the user to whom it belongs."""

    def __init__(self) -> None:
        self.server = redis.shared()
        self.prefix = self.server.fresh_prefix()
        self.user = secrets.token_hex(8)
        secret = secrets.token_hex(8)
        own = (f">{secret}", f"~{self.prefix}*", f"&{self.prefix}*")
        self.server.ask("ACL", "SETUSER", self.user, "on", *own, *RIGHTS)
        self.url = self.server.url.replace("redis://", f"redis://{self.user}:{secret}@")

    def options(self, **over: Any) -> RedisOptions:
        return RedisOptions(**{"url": self.url, "prefix": self.prefix, **SLACK, **over})

    def break_(self) -> None:
        """Its connections end, and there will be no new ones."""
        self.server.ask("ACL", "DELUSER", self.user)


def redis_coordinators(root: Path) -> Any:
    from tests.contracts.harness import Coordinators

    del root
    tenant = Tenant()

    @asynccontextmanager
    async def open_(address: str = "") -> AsyncIterator[RedisCoordinator]:
        coordinator = RedisCoordinator(tenant.options(), address=address, poll=0.001, poll_max=0.01)
        await coordinator.start()
        try:
            yield coordinator
        finally:
            await coordinator.close()

    def holder(key: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HOLDER, tenant.url, tenant.prefix, key]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return Coordinators(open=open_, holder=holder, break_backend=tenant.break_)


@asynccontextmanager
async def redis_bulletins(tenant: Tenant, **options: Any) -> AsyncIterator[RedisBulletin]:
    bulletin = RedisBulletin(tenant.options(**options))
    await bulletin.start()
    try:
        yield bulletin
    finally:
        await bulletin.close()
