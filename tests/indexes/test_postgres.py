"""What the contracts do not say of the PostgreSQL index: its start, its schema, what it remembers."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import asyncpg
import pytest

from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes.migrate import steps
from artifactproxy.indexes.postgres.index import STEPS, PostgresIndex
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.model import ArtifactKey, Digest, Found, Kind, Promise
from artifactproxy.ports import Use
from tests.chaos.tcp import calm, down
from tests.contracts.harness_postgres import fresh_database
from tests.contracts.test_index import KEY, NOW, PAGE, A, entry, promise
from tests.indexes.postgres_tools import ask, cut_off, numbered, opened, through
from tests.servers import postgres


@pytest.fixture
def url() -> Iterator[str]:
    yield fresh_database()


def changed(url: str, **parts: str) -> str:
    """The address with another user, password, host, port or database."""
    split = urlsplit(url)
    given = {
        "user": split.username or "",
        "password": (split.password or ""),
        "host": split.hostname or "",
        "port": str(split.port),
        "database": split.path[1:],
        **parts,
    }
    return "postgresql://{user}:{password}@{host}:{port}/{database}".format(**given)


# --- start ----------------------------------------------------------------------------------

REFUSALS = {
    "password": ({"password": "wrong"}, "does not let in proxy: correct user and password in index.url"),
    "user": ({"user": "nobody"}, "does not let in nobody: correct user and password"),
    "database": ({"database": "nowhere"}, "there is no database nowhere on .*: create it"),
    "host": ({"host": "db.invalid"}, "the host db.invalid.* of index.url is unknown"),
    "port": ({"port": "1"}, "does not answer: start PostgreSQL at 127.0.0.1:1/"),
    "nonsense": ({"port": "none"}, "is no address of a PostgreSQL database"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_wrong_address_stops_the_start_with_what_to_do(url: str, case: str) -> None:
    parts, sentence = REFUSALS[case]
    index = PostgresIndex(PostgresOptions(changed(url, **parts), start_wait=0.3))
    with pytest.raises(IndexUnavailable, match=sentence) as caught:
        await index.start()
    assert caught.value.retry_after is None
    assert "word" not in caught.value.detail.replace("password in index.url", "")
    await index.close()


async def test_an_address_of_something_else_is_refused() -> None:
    index = PostgresIndex(PostgresOptions("mysql://localhost/x", start_wait=0.3))
    with pytest.raises(IndexUnavailable, match="is no address of a PostgreSQL database"):
        await index.start()


async def test_a_database_of_another_encoding_or_with_other_tables_is_refused(url: str) -> None:
    server = postgres.shared()
    name = f"latin_{random.randrange(10**9)}"
    server.sql(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 OWNER proxy")
    try:
        with pytest.raises(IndexUnavailable, match="is encoded in LATIN1: create it with"):
            await PostgresIndex(PostgresOptions(server.url(name))).start()
    finally:
        server.sql(f"DROP DATABASE {name} WITH (FORCE)")
    ask(url, "CREATE TABLE entries (id int)")
    with pytest.raises(IndexUnavailable, match="holds tables of another program"):
        await PostgresIndex(PostgresOptions(url)).start()


async def test_a_user_who_may_not_make_tables_is_told_how(url: str) -> None:
    ask(url, "ALTER DATABASE " + url.rpartition("/")[2] + " OWNER TO postgres")
    with pytest.raises(IndexUnavailable, match="GRANT CREATE ON SCHEMA public TO proxy"):
        await PostgresIndex(PostgresOptions(url)).start()


async def test_p01_a_database_that_is_not_there_yet_is_waited_for(url: str) -> None:
    async with through(url) as (address, proxy):
        proxy.toxics = down()
        index = PostgresIndex(PostgresOptions(address, start_wait=30.0))
        starting = asyncio.create_task(index.start())
        await asyncio.wait([starting], timeout=0.3)
        assert not starting.done()
        proxy.toxics = calm()
        await starting
        assert await index.record(entry())
        await index.close()


# --- schema ---------------------------------------------------------------------------------

_START = """
import asyncio, sys
from artifactproxy.indexes.postgres.index import PostgresIndex
from artifactproxy.indexes.postgres.options import PostgresOptions

async def main():
    index = PostgresIndex(PostgresOptions(sys.argv[1]))
    await index.start()
    print(await index.generation())
    await index.close()

asyncio.run(main())
"""


def test_p10_replicas_that_start_together_migrate_once(url: str) -> None:
    replicas = [
        subprocess.Popen([sys.executable, "-c", _START, url], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = [replica.communicate(timeout=60)[0] for replica in replicas]
    assert sorted(map(int, told)) == [1, 2, 3]
    taken = "\n".join(f"{step.number}|{step.name}" for step in steps(STEPS))
    assert ask(url, "SELECT number, name FROM steps ORDER BY number") == taken


async def test_p10_a_schema_one_step_ahead_is_served_and_two_are_refused(url: str) -> None:
    async with opened(url) as index:
        await index.record(entry())
    known = steps(STEPS)[-1].number
    ask(url, f"INSERT INTO steps VALUES ({known + 1}, '{known + 1:04}_of_a_newer_version.sql')")
    ask(url, "ALTER TABLE entries ADD COLUMN more TEXT; CREATE TABLE other (id int)")
    async with opened(url) as index:
        assert await index.find(KEY) == Found(entry())
        assert await index.record(entry(PAGE))
    ask(url, f"INSERT INTO steps VALUES ({known + 2}, '{known + 2:04}_of_a_much_newer_version.sql')")
    sentence = f"(schema {known + 2}, this one knows {known}): run that"
    with pytest.raises(IndexUnavailable, match=re.escape(sentence)) as caught:
        await PostgresIndex(PostgresOptions(url)).start()
    assert (caught.value.code, caught.value.retry_after) == ("index_newer", None)


# --- what is remembered ---------------------------------------------------------------------


async def statements_run(url: str) -> int:
    name = url.rpartition("/")[2]
    found = await asyncio.to_thread(
        ask, url, f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'"
    )
    return int(found)


async def test_a_remembered_row_needs_no_round_trip(url: str) -> None:
    async with through(url) as (address, proxy), opened(address, recheck=3600.0) as index:
        await index.record(entry())
        proxy.cut()
        proxy.toxics = down()
        assert await index.find(KEY) == Found(entry()), "just recorded"
        proxy.toxics = calm()
        await index.learn([promise(key=PAGE)])
        proxy.toxics = down()
        assert await index.find(KEY) == Found(entry()), "what was learnt is of another key"


async def test_what_we_wrote_ourselves_stays_remembered(url: str) -> None:
    async with through(url) as (address, proxy), opened(address) as index:
        await index.learn([promise()])
        for number in range(100):
            await index.record(entry(numbered(number)))
        await index.record(entry())
        await index.touch([KEY], NOW + 5)
        await asyncio.sleep(0.3)  # our own changes have been met by then
        proxy.toxics = down()
        async with asyncio.timeout(30):
            while not (found := await index.find(KEY)).uncertain:
                await asyncio.sleep(0.01)
        assert found == Found(entry(last_used=NOW + 5), promise(), uncertain=True)
        assert all([(await index.find(numbered(number))).uncertain for number in range(100)])


async def test_p01_what_was_just_recorded_stays_remembered_when_it_is_promised(url: str) -> None:
    """As at first sight: a file that was fetched once is served while the database is away."""
    async with through(url) as (address, proxy), opened(address) as index:
        await index.record(entry())
        await index.learn([promise()])
        assert await index.find(KEY) == Found(entry(), promise())
        await asyncio.sleep(0.3)
        proxy.toxics = down()
        async with asyncio.timeout(30):
            while not (found := await index.find(KEY)).uncertain:
                await asyncio.sleep(0.01)
        assert found == Found(entry(), promise(), uncertain=True)


async def test_i12_a_transaction_that_commits_late_is_heard(url: str) -> None:
    """It was open while others began, committed, and were heard of."""
    async with opened(url) as index:
        await index.record(entry())
        late = await asyncpg.connect(url)
        await late.execute("BEGIN")
        await late.execute("UPDATE entries SET etag = 'late'")
        await late.execute("INSERT INTO changes (keys, repos) SELECT array_agg(key), '{}' FROM entries")
        for number in range(5):
            async with opened(url) as other:
                await other.record(entry(numbered(number)))
            await asyncio.sleep(0.1)
            assert (await index.find(KEY)).entry == entry()
        await late.execute("COMMIT")
        await late.close()
        await asyncio.sleep(0.1)
        assert (await index.find(KEY)).entry == entry(etag="late")


async def test_old_changes_are_swept(url: str) -> None:
    async with opened(url, changes_keep=0.0, recheck=3600.0) as index:
        await index.record(entry())
        assert ask(url, "SELECT count(*) FROM changes") == "1"
        await index._watch._sweep()
        assert ask(url, "SELECT count(*) FROM changes") == "0"


async def test_p08_after_a_failover_every_row_is_looked_up_again(url: str) -> None:
    """A standby may lack the last commits: what is remembered of them is told as long as nothing better
    is known, and no longer."""
    async with opened(url, recheck=3.0) as index:
        await index.record(entry())
        assert await index.find(KEY) == Found(entry())
        ask(url, "DELETE FROM entries")  # nobody says so, as where a commit was lost
        assert await index.find(KEY) == Found(entry())
        await asyncio.to_thread(cut_off, url)
        async with asyncio.timeout(30):
            while (await index.find(KEY)) != Found():
                await asyncio.sleep(0.01)


# --- several writers ------------------------------------------------------------------------


async def test_i5_what_two_replicas_learn_at_once_is_merged(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        for number in range(30):
            key = numbered(number)
            summed = Promise(key, (Digest("h1", A),), taught_by="lookup")
            dated = Promise(key, taught_by="info", released=NOW, released_from="Time")
            await asyncio.gather(one.learn([summed]), other.learn([dated]))
            both = replace(summed, released=NOW, released_from="Time")
            assert (await one._look_up(key)).promise == both


async def test_l2_blobs_that_are_named_are_never_doomed_or_buried(url: str) -> None:
    """Four replicas record, forget, doom and bury a few blobs in every order."""
    rng = random.Random(5)
    blobs = [f"{number:064x}" for number in range(4)]

    async def live(index: PostgresIndex) -> None:
        for _ in range(60):
            key, sha256 = numbered(rng.randrange(4)), rng.choice(blobs)
            match rng.randrange(5):
                case 0 | 1:
                    kind = rng.choice([Kind.ARTIFACT, Kind.INDEX])
                    generation = await index.generation()
                    await index.record(entry(key, sha256, kind, generation=generation))
                case 2:
                    await index.doom(await index.orphans(blobs) or blobs, NOW)
                case 3:
                    await index.bury([ref.sha256 for ref in await index.condemned(NOW, 10)])
                case 4:
                    await (index.forget_blob(sha256) if rng.random() < 0.3 else index.forget([key]))

    async with opened(url) as a, opened(url) as b, opened(url) as c, opened(url) as d:
        async with asyncio.timeout(120):
            await asyncio.gather(*map(live, (a, b, c, d)))
    named = "(SELECT sha256 FROM entries UNION SELECT sha256 FROM superseded)"
    assert ask(url, f"SELECT * FROM blobs WHERE doomed_at IS NOT NULL AND sha256 IN {named}") == ""
    assert ask(url, f"SELECT * FROM {named} n WHERE sha256 NOT IN (SELECT sha256 FROM blobs)") == ""


async def test_rows_of_one_batch_are_recorded_together(url: str) -> None:
    async with opened(url) as index:
        before = await statements_run(url)
        assert all(await asyncio.gather(*(index.record(entry(numbered(n))) for n in range(500))))
        assert await statements_run(url) - before < 100
        assert (await index.totals()).entries == 500


async def test_the_ledger_takes_thousands_of_lines_at_once(url: str) -> None:
    uses = [Use(3600, "ci", "tools", f"pkg:generic/a@{n}", A, 2, 10) for n in range(5000)]
    async with opened(url) as one, opened(url) as other:
        await asyncio.gather(one.count(uses), other.count(reversed(uses)), one.touch([KEY], NOW))
        await one.count([])
    assert ask(url, "SELECT count(*), sum(requests), sum(bytes) FROM uses") == "5000|20000|100000"


async def test_keys_of_any_length_and_beginning(url: str) -> None:
    rng = random.Random(7)
    long = "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(682))  # 2 KiB that do not compress
    keys = [ArtifactKey("tools", long + tail, long) for tail in ("", "a", "b", "\0", "\x01")]
    async with opened(url) as index:
        for key in keys:
            await index.record(entry(key, purl=f"pkg:x/{long}@{key.path[-1]}"))
            await index.learn([promise(A, key, taught_by=long)])
        for key in keys:
            assert await index.entries("tools", path=key.path) == [(await index.find(key)).entry]
        assert {each.key for each in await index.entries("tools", prefix=long)} == set(keys)
        assert [each.key for each in await index.entries("tools", prefix=long + "\0")] == [keys[3]]
        assert len(await index.entries("tools", purl=f"pkg:x/{long}")) == 5
        assert await index.unlearn("tools", path=keys[1].path, whole=True) == 1
        await index.forget([ArtifactKey("tools", long)], promises=True)
        assert (await index.find(keys[3])) == Found(entry(keys[3], purl=f"pkg:x/{long}@\0"))


async def test_the_promises_of_a_large_repository_leave_in_parts(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactproxy.indexes.postgres.index._SOME", 10)
    async with opened(url) as index:
        await index.learn([promise(key=numbered(number)) for number in range(25)])
        await index.learn([promise(key=ArtifactKey("else", "x"))])
        assert await index.unlearn("tools") == 25
        assert (await index.totals()).promises == 1
