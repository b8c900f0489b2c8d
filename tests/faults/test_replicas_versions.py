"""N04: replicas of neighbouring versions side by side. What is not known is passed over."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import Told, UpstreamHead
from artifactproxy.rules.peers import HEAD, PATH, write_head
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok
from tests.faults.machine import metric, until
from tests.faults.replicas import Replicas, load, replica, replicas
from tests.faults.test_redis_leases import lease_of
from tests.needs import needs
from tests.servers import postgres

pytestmark = needs("postgres", "redis-server")

SIZE = 3_000_000


async def test_n04_another_version_works_in_the_same_redis(tmp_path: Path, chaos: Chaos) -> None:
    """Its keys are not ours, its messages are skipped, and further members of ours are as well."""
    async with replicas(tmp_path, chaos, 3) as cl:
        prefix, ask = cl.servers.prefix, cl.servers.redis.ask
        heard: list[str] = []
        cl[0].engine.parts.bulletin.listen("changed", heard.append)  # type: ignore[union-attr]

        def tell(number: int, **members: object) -> None:
            said = {"v": 1, "from": "their-next-version", "n": number, "topic": "changed", "text": "[]"}
            ask("PUBLISH", f"{prefix}v1:bulletin", json.dumps(said | members))
            ask("PUBLISH", f"{prefix}v2:bulletin", json.dumps(said | members))

        def theirs(turn: int) -> None:
            for kind in ("lease", "bulletin", "new"):
                ask("SET", f"{prefix}v2:{kind}:{turn}", f"{{{turn}}} another form", "PX", "60000")
            ask("SET", lease_of(cl, f"load-{turn}.bin").replace(":v1:", ":v2:"), "held", "PX", "60000")
            tell(3 * turn, v=2, text='["of another form"]')
            tell(3 * turn + 1, urgent=True, trace={"id": turn}, text=f'[["files", "new-{turn}.bin", ""]]')
            tell(3 * turn + 2, topic="a-topic-of-theirs")

        async with load(cl) as running:
            for turn in range(10):
                await asyncio.to_thread(theirs, turn)
                await running.more(3)
        running.is_right()
        assert set(running.asked()) <= {0, 1}, "their leases are not ours"
        await until(lambda: sum("new-" in text for text in heard) == 10)
        assert not any("another form" in text for text in heard)
        assert len(ask("KEYS", f"{prefix}v2:*")) == 40, "nobody touched theirs"
        await cl.next_is_right()


class Elder:
    """A process of another version that fills: it has the lease, and answers in its own words."""

    def __init__(self, body: Oracle, **members: object) -> None:
        self.body = body
        self.members = members
        self.asked = 0
        self.address = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.path == PATH
        self.asked += 1
        size = self.body.size
        head = UpstreamHead(
            200, {"etag": self.body.etag}, size, framed=True, url="http://elsewhere.example/f.bin"
        )
        said = json.loads(write_head(head, Told("abc-f1", ended=True))) | self.members
        return web.Response(body=self.body.bytes(), headers={HEAD: json.dumps(said)})

    @asynccontextmanager
    async def leading(self, cl: Replicas, value: str = "{token}/1 {address}") -> AsyncIterator[str]:
        """While it holds the lease of f.bin; yields the name of that."""
        runner = web.ServerRunner(web.Server(self.answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        name = lease_of(cl, "f.bin")
        held = value.format(token=secrets.token_hex(8), address=self.address)
        cl.servers.redis.ask("SET", name, held, "PX", "60000")
        try:
            yield name
        finally:
            cl.servers.redis.ask("DEL", name)
            await runner.cleanup()


async def test_n04_unknown_members_of_a_peers_head_are_skipped(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with replicas(tmp_path, chaos, 1) as cl:
        elder = Elder(body, novel={"a": [1]}, parts=7, because="of a later version")
        async with elder.leading(cl) as name:
            asking = asyncio.create_task(cl[0].get("/files/f.bin"))
            await until(lambda: elder.asked > 0)
            assert (await asking).body == body.bytes()
            assert chaos.hits("/f.bin") == 0, "it was followed"
            cl.servers.redis.ask("DEL", name)  # it ends without having stored anything
            await cl.settled()
        got = await cl[0].get("/files/f.bin")
        assert (got.source, got.body == body.bytes()) == ("cache", True)
        assert chaos.hits("/f.bin") == 0


@pytest.mark.parametrize(
    ("members", "value"),
    [
        ({"v": 2}, "{token}/1 {address}"),
        ({"kind": "novelty"}, "{token}/1 {address}"),
        ({"status": "fine"}, "{token}/1 {address}"),
        ({}, "v2 {token} {address}"),
        ({}, "{token}/1 quic://{address}"),
    ],
    ids=["version", "kind", "type", "lease", "address"],
)
async def test_n04_who_is_not_understood_is_done_without(
    tmp_path: Path, chaos: Chaos, members: dict[str, object], value: str
) -> None:
    body = chaos.script("/f.bin", ok(), size=SIZE)
    async with replicas(tmp_path, chaos, 1, limits={"takeover_wait": "500ms", "store_retry": "1s"}) as cl:
        async with Elder(body, **members).leading(cl, value):
            got = await cl[0].get("/files/f.bin")
            assert (got.status, got.source, got.body == body.bytes()) == (200, "remote", True)
            assert chaos.hits("/f.bin") == 1
            noticed = ("peer_errors_total", "redis_errors_total")
            assert sum([await metric(cl[0], name) for name in noticed]) > 0
            await cl.settled()
        assert (await cl[0].get("/files/f.bin")).source == "cache"


def a_step_further(database: str, steps: int = 1) -> None:
    """What the next version does to the schema: it only adds."""
    server = postgres.shared()
    for table in ("entries", "promises", "blobs"):
        server.sql(f"ALTER TABLE {table} ADD COLUMN novelty_{steps} text DEFAULT 'new'", database)
    columns = server.sql(
        "SELECT string_agg(column_name, ',') FROM information_schema.columns WHERE table_name = 'steps'",
        database,
    )
    assert set(columns.split(",")) >= {"number", "name"}, columns
    server.sql("INSERT INTO steps (number, name) SELECT max(number) + 1, 'novelty' FROM steps", database)


async def test_n04_the_schema_is_one_step_ahead(tmp_path: Path, chaos: Chaos) -> None:
    """Who runs goes on, who is started starts; two steps are refused with what to do."""
    held = chaos.script("/held.bin", ok(), size=SIZE)
    async with replicas(tmp_path, chaos, 2) as cl:
        assert (await cl[0].get("/files/held.bin")).body == held.bytes()
        await cl.settled()
        database = cl.servers.database.rpartition("/")[2]
        async with load(cl, 4) as running:
            await running.more(5)
            await asyncio.to_thread(a_step_further, database)
            async with AsyncExitStack() as stack:
                made = replica(tmp_path / "later", chaos, cl.servers, cl[0].client)
                later = await stack.enter_async_context(made)
                assert (await later.get("/files/held.bin")).source == "cache"
                await running.more(5)
                await later.settled()
        running.is_right()
        await cl.next_is_right()
        await asyncio.to_thread(a_step_further, database, 2)
        with pytest.raises(IndexUnavailable, match="newer version"):
            async with replica(tmp_path / "refused", chaos, cl.servers, cl[0].client):
                pass
        await cl.next_is_right("/still.bin")
        await asyncio.to_thread(
            postgres.shared().sql,
            "DELETE FROM steps WHERE number = (SELECT max(number) FROM steps)",
            database,
        )
