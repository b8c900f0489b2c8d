"""The servers do what the tests that use them take for granted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis as redis_client

from tests.servers import minio, pgbouncer, postgres, redis
from tests.servers.process import NotStarted, Server, free_port, wait_for


async def _value(url: str, statement: str, **options: object) -> object:
    connection = await asyncpg.connect(url, timeout=10, **options)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_fresh_databases_are_empty_and_need_a_password():
    server = await asyncio.to_thread(postgres.shared)
    first, second = server.fresh_database(), server.fresh_database()
    assert first != second
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    await _value(first, "CREATE TABLE a ()")
    assert (await _value(first, count), await _value(second, count)) == (1, 0)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _value(first.replace("pass", "wrong"), "SELECT 1")
    assert await _value(first, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False


async def test_postgres_keeps_its_data_over_every_end():
    with postgres.Postgres(settings={"work_mem": "1MB"}) as server:
        url, folder = server.fresh_database(), server.folder
        await _value(url, "CREATE TABLE kept AS SELECT 42 AS n")
        for mode in ("fast", "immediate", "smart"):
            await asyncio.to_thread(server.restart, mode)
            assert await _value(url, "SELECT n FROM kept") == 42
        server.kill()
        with pytest.raises(OSError):
            await _value(url, "SELECT 1")
        server.start()
        assert await _value(url, "SELECT n FROM kept") == 42
        assert await _value(url, "SHOW work_mem") == "1MB"
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_value(url, "SELECT 1"), 0.3)
        server.resume()
        assert await _value(url, "SELECT n FROM kept") == 42
    assert not folder.exists()


async def test_pgbouncer_pools_transactions():
    server = postgres.shared()
    url = server.fresh_database()
    with pgbouncer.PgBouncer(server, pool=1) as pooled:
        through = pooled.url(url)
        assert f":{pooled.port}/" in through
        options = {"statement_cache_size": 0}
        first, second = [await asyncpg.connect(through, timeout=10, **options) for _ in range(2)]
        backends = {await c.fetchval("SELECT pg_backend_pid()") for c in (first, second)}
        assert len(backends) == 1  # two clients, one connection
        await first.close()
        await second.close()
        assert await _value(pgbouncer.shared().url(url), "SELECT 1", **options) == 1
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await _value(through.replace("pass", "wrong"), "SELECT 1", **options)


def test_redis_forgets_over_a_restart_and_asks_for_its_password():
    with redis.Redis(password="pass/word @") as server:
        assert server.ask("SET", "a", "1")
        with pytest.raises(redis_client.AuthenticationError):
            redis_client.Redis(port=server.port).ping()
        port = server.port
        server.restart()
        assert server.ask("GET", "a") is None
        assert server.port == port
    assert redis.shared().fresh_prefix() != redis.shared().fresh_prefix()


def test_minio_keeps_objects_over_a_kill_and_checks_signatures():
    with minio.Minio() as server:
        bucket = server.fresh_bucket("one")
        bucket.client().put_object(Bucket=bucket.name, Key="k", Body=b"hello")
        server.restart()
        assert bucket.client().get_object(Bucket=bucket.name, Key="k")["Body"].read() == b"hello"
        wrong = minio.FreshBucket(bucket.endpoint, bucket.name, bucket.access_key, "wrong")
        client = wrong.client()
        with pytest.raises(client.exceptions.ClientError, match="SignatureDoesNotMatch"):
            client.get_object(Bucket=bucket.name, Key="k")


class _Mute(Server):
    name = "mute"

    def command(self) -> list[str]:
        return [sys.executable, "-c", "print('no port for me'); raise SystemExit(3)"]


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path):
    with pytest.raises(NotStarted, match=r"mute ended with 3: no port for me"):
        _Mute(tmp_path).start()


def test_waiting_has_an_end():
    with pytest.raises(NotStarted, match="it did not answer within 0 s: all it said"):
        wait_for("it", lambda: False, lambda: "all it said", seconds=0)


_STARTER = """
import sys
from tests.servers.redis import Redis
server = Redis().start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


def test_a_server_does_not_outlive_a_test_run_that_was_killed():
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    redis.shared()  # skips where there is none
    pid, folder = starter.stdout.readline().split()
    starter.kill()
    starter.communicate()

    def is_gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return not Path(folder).exists()
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    wait_for("the end", is_gone, seconds=30)


def test_ports_are_not_those_that_outgoing_connections_take():
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < lowest for port in (free_port() for _ in range(20)))


def test_a_polite_end_keeps_the_data(tmp_path: Path):
    with postgres.Postgres(tmp_path) as server:  # its account may not be able to get there
        server.end(signal.SIGTERM)
        assert not server.running
        server.start()
        assert server.sql("SELECT 1") == "1"
