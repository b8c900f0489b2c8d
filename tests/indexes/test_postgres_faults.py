"""P02 to P11: what becomes of the index when its database, or the way to it, is in trouble."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator

import asyncpg
import pytest

from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes.postgres.census import PostgresCensus
from artifactproxy.indexes.postgres.index import PostgresIndex
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.model import Found, Kind
from artifactproxy.ports import Intent, Use
from tests.chaos.tcp import calm, cut_after, latency, timeout
from tests.contracts.harness_postgres import fresh_database
from tests.contracts.test_index import KEY, NOW, PAGE, A, B, entry, promise
from tests.indexes.postgres_tools import ask, cut_off, numbered, opened, through
from tests.servers import postgres
from tests.servers.pgbouncer import PgBouncer

COMMIT = b"COMMIT\0"
"""The whole message, so that the level of isolation is not meant."""


@pytest.fixture
def url() -> Iterator[str]:
    yield fresh_database()


async def settled(index: PostgresIndex) -> None:
    """Until the index is back to normal; for at most a minute."""
    async with asyncio.timeout(60):
        while True:
            try:
                await index.check()
                return
            except IndexUnavailable:
                await asyncio.sleep(0.02)


async def test_p01_of_what_was_served_nothing_is_lost_while_it_is_away(url: str) -> None:
    keys = [numbered(number) for number in range(1000)]
    async with opened(url) as writer:
        await asyncio.gather(*(writer.record(entry(key)) for key in keys))
    async with through(url) as (address, proxy), opened(address) as index:
        for key in keys:
            await index.find(key)
        await index.touch(keys, NOW + 1)
        proxy.toxics = timeout()  # nothing answers and nothing ends
        proxy.cut()
        async with asyncio.timeout(60):
            found = [await index.find(key) for key in keys]
        assert sum(each.entry is not None for each in found) >= 990
        with pytest.raises(IndexUnavailable):
            await index.find(KEY)
        proxy.toxics = calm()


async def test_p02_restarts_under_load_give_right_answers_or_none(url: str) -> None:
    del url
    with postgres.Postgres() as server:
        address = server.fresh_database()
        async with opened(address, recent=10) as index:
            keys = [numbered(number) for number in range(40)]
            for key in keys:
                await index.record(entry(key))
            ended = asyncio.Event()
            seen: Counter[str] = Counter()

            async def ask_on() -> None:
                while not ended.is_set():
                    for key in keys:
                        try:
                            found = await index.find(key)
                            assert found.entry == entry(key)
                            seen["uncertain" if found.uncertain else "found"] += 1
                        except IndexUnavailable as fault:
                            seen[fault.code] += 1
                        await asyncio.sleep(0)

            async def write_on() -> None:
                number = 100
                while not ended.is_set():
                    number += 1
                    try:
                        assert await index.record(entry(numbered(number)))
                        seen["written"] += 1
                        acknowledged.append(number)
                    except IndexUnavailable:
                        seen["unwritten"] += 1
                    await asyncio.sleep(0.005)

            acknowledged: list[int] = []
            tasks = [asyncio.create_task(ask_on()) for _ in range(4)] + [asyncio.create_task(write_on())]
            for _ in range(4):
                await asyncio.to_thread(server.restart, "immediate")
                await settled(index)
            ended.set()
            await asyncio.gather(*tasks)
            assert seen["found"]
            assert seen["written"]
            for number in acknowledged:
                assert (await index.find(numbered(number))).entry == entry(numbered(number))


async def test_p03_a_slow_database_costs_one_budget_and_then_nothing(url: str) -> None:
    async with through(url) as (address, proxy), opened(address, command=0.3, acquire=0.3) as index:
        await index.record(entry())
        proxy.toxics = latency(30.0)
        async with asyncio.timeout(60):
            while not (await index.find(KEY)).uncertain:
                await asyncio.sleep(0.01)
            while not index._database.is_away:
                with pytest.raises(IndexUnavailable):
                    await index.find(PAGE)
        index._database._away_until += 3600  # nobody may try
        with pytest.raises(IndexUnavailable) as caught:
            await index.find(PAGE)
        assert caught.value.code == "index_away"
        proxy.toxics = calm()
        await settled(index)
        assert await index.find(PAGE) == Found()


async def test_p03_a_lock_is_waited_for_so_long_and_no_longer(url: str) -> None:
    async with opened(url, lock=0.2) as index:
        await index.record(entry())
        other = await asyncpg.connect(url)
        await other.execute("BEGIN; SELECT * FROM entries FOR UPDATE")
        with pytest.raises(IndexUnavailable) as caught:
            await index.record(entry(sha256=B, generation=1))
        assert caught.value.code == "index_busy"
        await index.touch([KEY], NOW + 9)  # may be lost, and waits for nobody
        assert await index.record(entry(PAGE))
        await other.close()
        assert await index.record(entry(sha256=B, generation=1))


async def test_p04_fifty_writers_of_one_key(url: str) -> None:
    """Whatever the database's default of isolation is, and whoever else it gives up."""
    name = url.rpartition("/")[2]
    ask(url, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    async with opened(url) as a, opened(url) as b:
        generations = [await index.generation() for index in (a, b) * 25]
        blobs = [f"{number:064x}" for number in range(50)]
        results = await asyncio.gather(
            *(
                index.record(entry(PAGE, sha256, Kind.INDEX, generation=generation))
                for index, sha256, generation in zip((a, b) * 25, blobs, generations, strict=True)
            )
        )
        last = generations.index(max(generations))
        assert results[last]
        assert (await a._look_up(PAGE)).entry == entry(
            PAGE, blobs[last], Kind.INDEX, generation=max(generations)
        )
    assert ask(url, "SELECT count(*) FROM superseded") == str(sum(results) - 1)


async def test_p04_what_the_database_gives_up_is_done_again_once(url: str) -> None:
    notes: list[str] = []
    async with opened(url, notes=notes) as index:
        ask(
            url,
            "CREATE SEQUENCE failures; GRANT ALL ON failures TO proxy;"
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
            " IF nextval('failures') < 4 THEN"
            " RAISE EXCEPTION 'given up' USING ERRCODE = CASE WHEN random() < 0.5 THEN '40001' ELSE '40P01' END;"
            " END IF; RETURN NEW; END$$;"
            "CREATE TRIGGER fail BEFORE INSERT ON uses FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        await index.count([Use(3600, "ci", "tools", "", A, 2, 100)])
        assert notes.count("index_retries") == 3
        ask(url, "ALTER SEQUENCE failures MINVALUE -1000 RESTART -1000")
        with pytest.raises(IndexUnavailable) as caught:
            await index.count([Use(3600, "ci", "tools", "", A, 2, 100)])
        assert caught.value.code == "index_busy"
    assert ask(url, "SELECT requests, bytes FROM uses") == "2|100"


async def test_p05_a_pool_that_is_exhausted_refuses_and_recovers(url: str) -> None:
    notes: list[str] = []
    async with opened(url, pool=2, acquire=0.3, recheck=3600.0, notes=notes) as index:
        await index.record(entry())
        other = await asyncpg.connect(url)
        await other.execute("BEGIN; LOCK TABLE entries")
        asked = [asyncio.create_task(index.find(numbered(number))) for number in range(500)]
        async with asyncio.timeout(60):
            await asyncio.wait(asked[:-1], return_when=asyncio.FIRST_COMPLETED)
            assert await index.find(KEY) == Found(entry()), "what is remembered needs no connection"
            await asyncio.wait(asked)
        assert {type(task.exception()) for task in asked} == {IndexUnavailable}
        assert notes.count("index_pool_exhausted") > 400
        await other.close()
        assert await index.find(PAGE) == Found()


async def test_p06_a_primary_that_may_only_be_read_is_left(url: str) -> None:
    notes: list[str] = []
    name = url.rpartition("/")[2]
    async with opened(url, notes=notes) as index:
        await index.record(entry())
        ask(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await asyncio.to_thread(cut_off, url)
        await settled_readonly(index)
        assert await index.find(KEY) == Found(entry())
        with pytest.raises(IndexUnavailable) as caught:
            await index.record(entry(PAGE))
        assert caught.value.code == "index_readonly"
        assert "index_readonly" in notes
        postgres.shared().sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        async with asyncio.timeout(30):
            while True:  # the connections to the old primary have expired
                try:
                    await index.record(entry(PAGE))
                    break
                except IndexUnavailable:
                    await asyncio.sleep(0.02)
        assert await index.find(PAGE) == Found(entry(PAGE))


async def settled_readonly(index: PostgresIndex) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await index.check()
            except IndexUnavailable as fault:
                if fault.code == "index_readonly":
                    return
            await asyncio.sleep(0.02)


async def test_p06_of_several_hosts_the_one_that_can_be_written_is_taken(url: str) -> None:
    del url
    with postgres.Postgres() as first, postgres.Postgres() as second:
        for server in (first, second):
            server.sql("CREATE DATABASE twin OWNER proxy")
        async with opened(second.url("twin")) as index:
            await index.record(entry(PAGE))
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        both = first.url("twin").replace(f"127.0.0.1:{first.port}", hosts)
        async with opened(both) as index:
            await index.record(entry())
            assert first.sql("SELECT count(*) FROM entries", "twin") == "1"
            first.sql("ALTER SYSTEM SET default_transaction_read_only = on")
            first.sql("SELECT pg_reload_conf()")
            async with asyncio.timeout(30):
                while True:
                    try:
                        assert await index.record(entry())
                        break
                    except IndexUnavailable:
                        await asyncio.sleep(0.05)
            assert second.sql("SELECT count(*) FROM entries", "twin") == "2"
            async with asyncio.timeout(30):
                while await index.find(PAGE) != Found(entry(PAGE)):
                    await asyncio.sleep(0.02)


async def test_p07_a_commit_without_an_answer_counts_once(url: str) -> None:
    notes: list[str] = []
    async with through(url) as (address, proxy), opened(address, notes=notes) as index:
        proxy.toxics = cut_after(COMMIT)
        await index.count([Use(3600, "ci", "tools", "", A, 2, 100)])
        assert notes.count("index_unknown_commits") == 1
    assert ask(url, "SELECT requests, bytes FROM uses") == "2|100"


async def test_p07_a_row_whose_commit_got_no_answer_is_there_once(url: str) -> None:
    notes: list[str] = []
    async with through(url) as (address, proxy), opened(address, notes=notes) as index:
        proxy.toxics = cut_after(COMMIT)
        assert await index.record(entry(PAGE, A, Kind.INDEX, generation=3))
        assert notes.count("index_unknown_commits") == 1
        proxy.toxics = calm()
        assert await index.find(PAGE) == Found(entry(PAGE, A, Kind.INDEX, generation=3))
        assert await index.record(entry(PAGE, B, Kind.INDEX, generation=4))
        assert (await index.forget([PAGE]))[0].sha256 == B
    assert ask(url, "SELECT count(*) FROM superseded") == "1"
    assert ask(url, "SELECT count(*) FROM entries") == "0"


async def test_p07_a_forget_whose_commit_got_no_answer_tells_what_it_forgot(url: str) -> None:
    async with opened(url) as index:
        await index.record(entry())
    async with through(url) as (address, proxy), opened(address) as index:
        proxy.toxics = cut_after(COMMIT)
        assert [ref.sha256 for ref in await index.forget([KEY])] == [A]


async def test_p06_what_nobody_waits_for_any_more_fails_without_a_word(url: str) -> None:
    """A write goes on when its caller leaves; what becomes of it then is nobody's error."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with opened(url) as index:
        ask(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
        await asyncio.to_thread(cut_off, url)
        await settled_readonly(index)
        writing = asyncio.create_task(index.touch([KEY], NOW))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        while index._writes:
            await asyncio.wait(list(index._writes))
        with pytest.raises(IndexUnavailable) as caught:
            await index.touch([KEY], NOW)
        assert caught.value.code == "index_readonly"
        postgres.shared().sql(f"ALTER DATABASE {url.rpartition('/')[2]} RESET default_transaction_read_only")
        del writing  # its end remembers what it waited for
        gc.collect()
    assert told == []


async def test_p06_a_primary_that_was_left_is_not_asked_by_every_write(url: str) -> None:
    notes: list[str] = []
    async with opened(url, notes=notes) as index:
        index._database._readonly_until = float("inf")
        for _ in range(100):
            with pytest.raises(IndexUnavailable) as caught:
                await index.touch([KEY], NOW)
            assert caught.value.code == "index_readonly"
        assert await index.find(KEY) == Found(), "reading goes on"
        assert notes == []


async def test_p08_generations_go_on_above_those_that_a_restored_database_lost(url: str) -> None:
    async with opened(url) as index:
        given = [await index.generation() for _ in range(5)][-1]
        ask(url, "SELECT setval('generations', 1)")
        await asyncio.to_thread(cut_off, url)
        async with asyncio.timeout(30):
            while await index.generation() <= given:
                await asyncio.sleep(0.02)
        assert await index.generation() > given


async def test_p09_a_server_without_places_is_busy_and_not_away(url: str) -> None:
    name = url.rpartition("/")[2]
    async with opened(url) as index:
        ask(url, f"ALTER DATABASE {name} CONNECTION LIMIT 1")
        with pytest.raises(IndexUnavailable) as caught:
            await index.find(KEY)
        assert caught.value.code == "index_busy"
        ask(url, f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        assert await index.find(KEY) == Found(), "nothing has to be waited for"


async def test_p09_an_administrator_who_ends_connections_is_not_noticed(url: str) -> None:
    async with opened(url, recent=1) as index:
        for number in range(20):
            assert await index.record(entry(numbered(number)))
            await asyncio.to_thread(cut_off, url)
            assert (await index.find(numbered(number))).entry == entry(numbered(number))
        assert (await index.totals()).entries == 20


async def test_p11_all_of_it_through_a_pooler_of_transactions(url: str) -> None:
    with PgBouncer(postgres.shared(), pool=3) as pooler:
        address = pooler.url(url)
        async with (
            opened(address, pgbouncer=True) as one,
            opened(address, pgbouncer=True, pool=8) as other,
        ):
            keys = [numbered(number) for number in range(50)]
            await asyncio.gather(*(index.record(entry(key)) for key in keys for index in (one, other)))
            generations = await asyncio.gather(*(index.generation() for index in (one, other) * 30))
            assert len(set(generations)) == 60
            assert await one.learn([promise(key=key) for key in keys]) == []
            await asyncio.sleep(0.1)
            found = await asyncio.gather(*(index.find(key) for key in keys for index in (one, other)))
            assert all(each.entry and each.promise for each in found)
            await one.touch(keys, NOW + 5)
            await asyncio.gather(*(index.count([Use(3600, "ci", "", "", A)]) for index in (one, other) * 10))
            assert await one.turn("sweep", 60)
            assert not await other.turn("sweep", 60)
            await one.intend(Intent("id", A, "", "me", NOW))
            assert len(await other.intents(NOW + 1, 10)) == 1
            assert await other.forget_blob(A)
            await asyncio.sleep(0.1)
            assert (await one.find(keys[0])).entry is None
            assert await one.doom([A], NOW) == [A]
            await other.bury([A])
            assert (await one.totals()).promises == 50
            census = PostgresCensus(PostgresOptions(address, pgbouncer=True))
            assert await census.damage() == []
            assert len([row async for page in census.promises() for row in page]) == 50
            await census.close()
    assert ask(url, "SELECT requests FROM uses") == "20"


async def test_p11_a_pooler_without_its_option_is_named(url: str) -> None:
    with PgBouncer(postgres.shared()) as pooler:
        index = PostgresIndex(PostgresOptions(pooler.url(url), start_wait=1.0))
        with pytest.raises(IndexUnavailable, match=r"is a connection pooler: set index\.pgbouncer: true"):
            await index.start()
