"""Go modules over real sockets: sums that are verified, statuses that mean what they say."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
import sqlite3
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import failpoints
from artifactproxy.rules.gosum import hash_of_mod, hash_of_zip
from tests.chaos import Chaos
from tests.chaos.behaviours import cut, ok, portal, raw, silence, slam, status, unframed
from tests.chaos.server import Behaviour
from tests.house_proxy import Proxy, proxied

SOUP = "soup.example/pot"
V = "v1.2.0"
DB = "sumdb/sum.soup.example"
RECORD = f"{DB}/lookup/{SOUP}@{V}"
ZIP, MOD, INFO = (f"{SOUP}/@v/{V}.{kind}" for kind in ("zip", "mod", "info"))
GO_MOD = f"module {SOUP}\n".encode()
TREE = ("go.sum database tree\n7\n" + "A" * 43 + "=\n\n\u2014 sum.soup.example " + "B" * 40 + "\n").encode()


def module(size: int = 3_000, seed: int = 0) -> bytes:
    """A module zip of about `size` bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{SOUP}@{V}/go.mod", GO_MOD)
        archive.writestr(f"{SOUP}@{V}/blob", random.Random(seed).randbytes(size))
    return out.getvalue()


def h1(hex_digest: str) -> str:
    return "h1:" + base64.b64encode(bytes.fromhex(hex_digest)).decode()


def record(body: bytes, mod: bytes = GO_MOD, name: str = f"{SOUP} {V}") -> bytes:
    """The answer of a checksum database about a zip and a go.mod."""
    whole = h1(hash_of_zip(io.BytesIO(body), len(body)))
    part = h1(hash_of_mod(hashlib.sha256(mod).hexdigest()))
    return f"42\n{name} {whole}\n{name}/go.mod {part}\n\n".encode() + TREE


def says(body: bytes, **headers: str) -> Behaviour:
    return status(200, body, **headers)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def remote(chaos: Chaos, *more: str, hosts: str = "sum.soup.example") -> str:
    lines = ["go:", "  provider: go", f"  upstream: {chaos.origin}/", f"  file_hosts: [{hosts}]"]
    return "\n".join([*lines, *(f"  {line}" for line in more)]) + "\n"


def go_proxy(folder: Path, chaos: Chaos, *more: str, hosts: str = "sum.soup.example", **options: Any) -> Any:
    return proxied(folder, chaos.origin, remotes=remote(chaos, *more, hosts=hosts), **options)


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    async with go_proxy(tmp_path, chaos, "min_revalidate: 0s", extra="first_byte: 3s") as running:
        yield running
        await running.check()


def row(proxy: Proxy, path: str) -> dict[str, Any] | None:
    with closing(sqlite3.connect(f"file:{proxy.data / 'index.sqlite3'}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        found = db.execute("SELECT * FROM entries WHERE repo = 'go' AND path = ?", (path,)).fetchone()
        return dict(found) if found else None


async def warned(proxy: Proxy) -> set[object]:
    """What the log warns of, once what was said so far is written."""
    marked = await proxy.get("/nothing-here/")
    for _ in range(1_000):
        lines = proxy.log_lines()
        if any(line.get("request_id") == marked.headers["X-Request-Id"] for line in lines):
            return {line.get("warning") for line in lines}
        await asyncio.sleep(0.02)
    raise AssertionError("the log is not written")


SIZES = pytest.mark.parametrize("size", [3_000, 150_000, 2_000_000], ids=["held", "in memory", "in a file"])


# --- sums -----------------------------------------------------------------------------------


@SIZES
async def test_a_zip_is_verified_by_the_database(proxy: Proxy, chaos: Chaos, size: int) -> None:
    body = module(size)
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{RECORD}", says(record(body)))
    got = await proxy.get(f"/go/{ZIP}")
    assert (got.status, got.body, got.source) == (200, body, "remote")
    assert got.headers["Content-Type"] == "application/zip"
    await proxy.settled()
    entry = row(proxy, ZIP)
    assert entry is not None
    assert (entry["verified_by"], entry["taught_by"]) == ("digest", RECORD)
    assert entry["purl"] == f"pkg:golang/{SOUP}@{V}"
    again = await proxy.get(f"/go/{ZIP}")
    assert (again.source, again.body) == ("cache", body)
    assert (chaos.hits(f"/{ZIP}"), chaos.hits(f"/{RECORD}")) == (1, 1)


async def test_a_go_mod_is_verified_without_a_second_reading(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script(f"/{MOD}", says(GO_MOD))
    chaos.script(f"/{RECORD}", says(record(module())))
    assert (await proxy.get(f"/go/{MOD}")).body == GO_MOD
    await proxy.settled()
    assert (row(proxy, MOD) or {})["verified_by"] == "digest"
    chaos.script(f"/{ZIP}", says(module()))
    assert (await proxy.get(f"/go/{ZIP}")).status == 200
    assert chaos.hits(f"/{RECORD}") == 1, "one record promises both"


@SIZES
async def test_another_zip_than_the_database_knows_reaches_nobody(
    proxy: Proxy, chaos: Chaos, size: int
) -> None:
    good, bad = module(size), module(size, seed=1)
    chaos.script(f"/{ZIP}", says(bad))
    chaos.script(f"/{RECORD}", says(record(good)))
    got = await proxy.get(f"/go/{ZIP}")
    if size > 64 * 1024:
        assert got.body is None, "nobody may hold a complete zip of wrong files"
    else:
        assert (got.status, got.error) == (502, "digest")
    await proxy.settled()
    assert row(proxy, ZIP) is None
    assert not [b for b in proxy.blobs() if b.name == hashlib.sha256(bad).hexdigest()]
    chaos.script(f"/{ZIP}", says(good))
    assert (await proxy.get(f"/go/{ZIP}")).body == good


@pytest.mark.parametrize(
    "bad", [b"this is no zip", module()[:-40], module().replace(b"PK\x01\x02", b"PK\x01\x03")]
)
async def test_what_is_no_zip_is_refused_where_a_sum_is_known(proxy: Proxy, chaos: Chaos, bad: bytes) -> None:
    chaos.script(f"/{ZIP}", says(bad))
    chaos.script(f"/{RECORD}", says(record(module())))
    got = await proxy.get(f"/go/{ZIP}")
    assert (got.status, got.error) == (502, "bad_zip")
    await proxy.settled()
    assert row(proxy, ZIP) is None


async def test_another_go_mod_than_the_database_knows(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script(f"/{MOD}", says(b"module evil.example/pot\n"))
    chaos.script(f"/{RECORD}", says(record(module())))
    got = await proxy.get(f"/go/{MOD}")
    assert (got.status, got.error) == (502, "digest")


async def test_a_bad_cache_on_the_way_is_stepped_over(proxy: Proxy, chaos: Chaos) -> None:
    body = module()
    chaos.script(f"/{ZIP}", says(module(seed=1)), says(body))
    chaos.script(f"/{RECORD}", says(record(body)))
    assert (await proxy.get(f"/go/{ZIP}")).body == body
    assert chaos.last(f"/{ZIP}").headers["cache-control"] == "no-cache"


async def test_a_cut_zip_is_resumed_and_verified(proxy: Proxy, chaos: Chaos) -> None:
    oracle = chaos.script(f"/{ZIP}", cut(0.5), ok(), size=2_000_000)
    body = module(2_000_000)
    oracle.slice = lambda start, stop: body[start:stop]  # type: ignore[method-assign]
    oracle.size = len(body)
    chaos.script(f"/{RECORD}", says(record(body)))
    got = await proxy.get(f"/go/{ZIP}")
    assert got.body == body
    assert chaos.hits(f"/{ZIP}") == 2


async def test_a_cut_zip_without_validators_is_resumed_because_its_sum_will_tell(
    proxy: Proxy, chaos: Chaos
) -> None:
    oracle = chaos.script(f"/{ZIP}", cut(0.5, validators=False), ok(validators=False), size=2_000_000)
    body = module(2_000_000)
    oracle.slice = lambda start, stop: body[start:stop]  # type: ignore[method-assign]
    oracle.size = len(body)
    chaos.script(f"/{RECORD}", says(record(body)))
    got = await proxy.get(f"/go/{ZIP}")
    assert got.body == body
    assert int(chaos.last(f"/{ZIP}").headers["range"].removeprefix("bytes=").removesuffix("-")) > 0


async def test_a_zip_without_framing_is_kept_only_on_its_sum(proxy: Proxy, chaos: Chaos) -> None:
    body = module()
    oracle = chaos.script(f"/{ZIP}", unframed())
    oracle.slice = lambda start, stop: body[start:stop]  # type: ignore[method-assign]
    oracle.size = len(body)
    assert (await proxy.get(f"/go/{ZIP}")).error == "unframed_body"
    chaos.script(f"/{RECORD}", says(record(body)))
    assert (await proxy.get(f"/go/{ZIP}")).body == body
    await proxy.settled()
    assert (row(proxy, ZIP) or {})["verified_by"] == "digest"


async def test_a_contradicting_record_later_leaves_what_is_held(proxy: Proxy, chaos: Chaos) -> None:
    body = module()
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{RECORD}", says(record(body)), says(record(module(seed=1))))
    assert (await proxy.get(f"/go/{ZIP}")).status == 200
    await proxy.settled()
    assert (await proxy.get(f"/go/{RECORD}", Cache_Control="no-cache")).status == 200
    assert chaos.hits(f"/{RECORD}") == 2
    await proxy.settled()
    held = await proxy.get(f"/go/{ZIP}")
    assert (held.source, held.body) == ("cache", body)
    assert "immutable_changed" in await warned(proxy)


# --- records that cannot be had -------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour",
    [
        status(404),
        status(410),
        status(403),
        status(500),
        slam(),
        silence(),
        portal(),
        says(b"garbage"),
        says(b""),
        says(record(module(), name=f"{SOUP} v1.2.1")),
        says(record(module()).replace(b"go.sum database tree", b"other")),
        says(record(module()).replace(b"/go.mod ", b"/go.sum ")),
        says(record(module()).replace(b"h1:", b"h2:")),
        says(b"\xff" + record(module())),
        says(record(module())[:-30]),
    ],
)
async def test_without_a_usable_record_the_zip_is_taken_on_its_framing(
    proxy: Proxy, chaos: Chaos, behaviour: Behaviour
) -> None:
    body = module()
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{RECORD}", behaviour)
    got = await proxy.get(f"/go/{ZIP}")
    assert (got.status, got.body) == (200, body)
    await proxy.settled()
    assert (row(proxy, ZIP) or {})["verified_by"] == "framing"
    assert (row(proxy, RECORD) or {"sha256": None})["sha256"] is None, "such a record is not kept"
    chaos.script(f"/{RECORD}", says(record(body)))
    assert (await proxy.get(f"/go/{RECORD}")).body == record(body), "and not remembered as absent"


async def test_garbage_instead_of_a_record_is_an_error_and_keeps_the_old_one(
    proxy: Proxy, chaos: Chaos
) -> None:
    good = record(module())
    chaos.script(f"/{RECORD}", says(b"garbage"), says(good), says(b"garbage"))
    first = await proxy.get(f"/go/{RECORD}")
    assert (first.status, first.error) == (502, "bad_index")
    assert (await proxy.get(f"/go/{RECORD}")).body == good
    await proxy.settled()
    assert (await proxy.get(f"/go/{RECORD}", Cache_Control="no-cache")).body == good
    assert chaos.hits(f"/{RECORD}") == 3
    await proxy.settled()
    again = await proxy.get(f"/go/{RECORD}")
    assert (again.source, again.body) == ("cache", good)


@pytest.mark.parametrize("negative", ["60s", "5m"])
async def test_absence_in_the_database_is_never_remembered(
    tmp_path: Path, chaos: Chaos, negative: str
) -> None:
    tile = f"{DB}/tile/8/0/001.p/5"
    chaos.script(f"/{RECORD}", status(404), says(record(module())))
    chaos.script(f"/{tile}", status(404), says(bytes(160)))
    async with go_proxy(tmp_path, chaos, f"negative_ttl: {negative}", hosts="sum.soup.example") as proxy:
        # The direct source has a name that does not resolve; only upstream's word is at hand.
        for path in (RECORD, tile):
            assert (await proxy.get(f"/go/{path}")).status != 200
            assert (await proxy.get(f"/go/{path}")).status == 200
        await proxy.check()


# --- the database itself --------------------------------------------------------------------


async def test_supported_is_answered_here(proxy: Proxy, chaos: Chaos) -> None:
    got = await proxy.get(f"/go/{DB}/supported")
    assert (got.status, got.body) == (200, b"")
    assert (await proxy.get("/go/sumdb/sum.evil.example/supported")).status == 404
    assert chaos.requests == []


async def test_upstream_without_the_database_is_passed_by(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as direct:
        name = f"127.0.0.1:{direct.port}"
        direct.script(f"/lookup/{SOUP}@{V}", says(record(module())))
        direct.script("/latest", says(TREE))
        direct.script("/tile/8/0/000", says(bytes(8192)))
        chaos.script(f"/sumdb/{name}/latest", status(410))
        listed = f"'http://{name}'"
        async with go_proxy(tmp_path, chaos, "allow_private: [127.0.0.0/8]", hosts=listed) as proxy:
            assert (await proxy.get(f"/go/sumdb/{name}/lookup/{SOUP}@{V}")).body == record(module())
            assert (await proxy.get(f"/go/sumdb/{name}/latest")).body == TREE
            assert (await proxy.get(f"/go/sumdb/{name}/tile/8/0/000")).body == bytes(8192)
            missing = await proxy.get(f"/go/sumdb/{name}/lookup/{SOUP}@v9.9.9")
            assert missing.status == 404, "both said so"
            await proxy.check()
    assert chaos.hits(f"/sumdb/{name}/lookup/{SOUP}@{V}") == 1


async def test_the_database_itself_must_be_at_a_public_address(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as direct:
        name = f"127.0.0.1:{direct.port}"
        direct.script("/latest", says(TREE))
        async with go_proxy(tmp_path, chaos, hosts=f"'http://{name}'") as proxy:
            got = await proxy.get(f"/go/sumdb/{name}/latest")
            assert (got.status, got.error) == (502, "blocked_address")
            await proxy.check()
        assert direct.requests == []


async def test_answers_of_the_database_are_byte_exact_and_outlive_it(proxy: Proxy, chaos: Chaos) -> None:
    tile = bytes(range(256)) * 32
    bodies = {RECORD: record(module()), f"{DB}/latest": TREE, f"{DB}/tile/8/0/000": tile}
    for path, body in bodies.items():
        chaos.script(f"/{path}", says(body), slam())
        assert (await proxy.get(f"/go/{path}")).body == body
    await proxy.settled()
    for path, body in bodies.items():
        held = await proxy.get(f"/go/{path}")
        assert (held.body, held.source) == (body, "cache")
    stale = await proxy.get(f"/go/{DB}/latest", Cache_Control="no-cache")
    assert (stale.status, stale.body) == (200, TREE)
    assert "stale-if-error" in stale.headers["Cache-Status"]


@pytest.mark.parametrize("bad", [b"", b"garbage", TREE[:-10], b"\xff" + TREE])
async def test_a_tree_head_that_is_none(proxy: Proxy, chaos: Chaos, bad: bytes) -> None:
    chaos.script(f"/{DB}/latest", says(bad))
    assert (await proxy.get(f"/go/{DB}/latest")).status == 502
    await proxy.settled()
    assert row(proxy, f"{DB}/latest") is None


# --- lists and descriptions -----------------------------------------------------------------


async def test_an_empty_list_is_a_list(proxy: Proxy, chaos: Chaos) -> None:
    path = f"{SOUP}/@v/list"
    chaos.script(f"/{path}", status(200))
    got = await proxy.get(f"/go/{path}")
    assert (got.status, got.body) == (200, b"")
    assert got.headers["Content-Type"] == "text/plain; charset=utf-8"
    await proxy.settled()
    assert (await proxy.get(f"/go/{path}")).source == "cache"
    assert chaos.hits(f"/{path}") == 1


def described(version: str = V) -> bytes:
    return json.dumps({"Version": version, "Time": "2026-01-02T03:04:05Z"}).encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"Version": 1}',
        b'{"Version": "main"}',
        described("v1.2.1"),
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_a_description_that_is_none_is_refused_and_the_old_one_kept(
    proxy: Proxy, chaos: Chaos, bad: bytes
) -> None:
    chaos.script(f"/{INFO}", says(bad), says(described()), says(bad))
    first = await proxy.get(f"/go/{INFO}")
    assert (first.status, first.error) == (502, "bad_index")
    await proxy.settled()
    assert row(proxy, INFO) is None
    assert (await proxy.get(f"/go/{INFO}")).body == described()
    await proxy.settled()
    kept = await proxy.get(f"/go/{INFO}", Cache_Control="no-cache")
    assert (kept.status, kept.body) == (200, described())


async def test_a_query_may_be_answered_with_another_version(proxy: Proxy, chaos: Chaos) -> None:
    for query in ("main", "v1", "v2.0.0"):
        path = f"{SOUP}/@v/{query}.info"
        chaos.script(f"/{path}", says(described("v2.0.0+incompatible")))
        assert (await proxy.get(f"/go/{path}")).body == described("v2.0.0+incompatible")


@pytest.mark.parametrize("first", [INFO, ZIP])
async def test_the_release_date_is_kept_beside_the_sums(proxy: Proxy, chaos: Chaos, first: str) -> None:
    body = module()
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{INFO}", says(described()))
    chaos.script(f"/{RECORD}", says(record(body)))
    for path in dict.fromkeys((first, INFO, ZIP)):
        assert (await proxy.get(f"/go/{path}")).status == 200
        await proxy.settled()
    with closing(sqlite3.connect(proxy.data / "index.sqlite3")) as db:
        query = "SELECT digests, released, released_from, taught_by FROM promises WHERE path = ?"
        digests, released, source, teacher = db.execute(query, (ZIP,)).fetchone()
    assert digests == f"h1:{hash_of_zip(io.BytesIO(body), len(body))}"
    assert (released, source, teacher) == (1767323045.0, "Time", RECORD)
    assert (row(proxy, ZIP) or {})["released"] == (1767323045.0 if first == INFO else None)


async def test_first_sight_keeps_the_release_date(proxy: Proxy, chaos: Chaos) -> None:
    body = module()  # one made a second later may have other dates in it
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{INFO}", says(described()))
    for path in (INFO, ZIP):
        assert (await proxy.get(f"/go/{path}")).status == 200
        await proxy.settled()
    with closing(sqlite3.connect(proxy.data / "index.sqlite3")) as db:
        found = db.execute("SELECT digests, released FROM promises WHERE path = ?", (ZIP,)).fetchone()
    assert found == (f"sha256:{hashlib.sha256(body).hexdigest()}", 1767323045.0)


# --- statuses -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [404, 410])
@pytest.mark.parametrize("path", [f"{SOUP}/@v/list", INFO, ZIP, f"{SOUP}/@latest"])
async def test_absence_is_what_upstream_said_also_when_remembered(
    proxy: Proxy, chaos: Chaos, code: int, path: str
) -> None:
    chaos.script(f"/{path}", status(code, b"not found: secret"))
    for _ in range(2):
        got = await proxy.get(f"/go/{path}")
        assert got.status == code
        assert got.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert got.body == f"upstream has no {filename(path)}\n".encode()
        await proxy.settled()
    assert chaos.hits(f"/{path}") == 1
    assert (await proxy.get(f"/go/{path}", "HEAD")).status == code


def filename(path: str) -> str:
    return f"{SOUP}@{V}.zip" if path == ZIP else path


@pytest.mark.parametrize("path", [f"{SOUP}/@v/list", INFO, ZIP, MOD, f"{SOUP}/@latest"])
@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (status(403, b"This module version is not available."), 403),
        (status(401), 403),
        (status(451), 451),
        (status(400), 502),
        (status(404, Retry_After="5"), 503),
        (status(429), 429),
        (status(500), 502),
        (slam(), 502),
        (silence(), 504),
        (raw(b"nonsense\r\n\r\n"), 502),
        (portal(), 502),
    ],
)
async def test_only_absence_is_404(
    proxy: Proxy, chaos: Chaos, path: str, behaviour: Behaviour, code: int
) -> None:
    chaos.script(f"/{path}", behaviour)
    got = await proxy.get(f"/go/{path}")
    assert got.status == code
    assert got.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert got.body
    assert got.body.endswith(b"\n")
    await proxy.settled()
    assert row(proxy, path) is None


async def test_an_upstream_that_is_gone_is_a_502(tmp_path: Path, chaos: Chaos) -> None:
    async with go_proxy(tmp_path, chaos) as proxy:
        await chaos.stop()
        got = await proxy.get(f"/go/{ZIP}")
        assert (got.status, got.error) == (502, "upstream_refused")
        await proxy.check()


async def test_bad_syntax_is_a_404_and_asks_nobody(proxy: Proxy, chaos: Chaos) -> None:
    for path in ("code.example/Upper/@v/list", "code.example/!!x/@v/list", f"{SOUP}/@v/main.zip", SOUP):
        got = await proxy.get(f"/go/{path}")
        assert (got.status, got.error) == (404, "not_served")
    assert (await proxy.get(f"/go/{ZIP}", "POST")).status == 405
    assert chaos.requests == []


async def test_spellings_of_a_path_share_one_row(proxy: Proxy, chaos: Chaos) -> None:
    path = "code.example/!soup/@v/v2.0.0+incompatible.mod"
    chaos.script(f"/{path}", says(GO_MOD))
    for spelled in (path, path.replace("!", "%21"), path.replace("+", "%2B"), path.replace("+", "%2b")):
        assert (await proxy.get(f"/go/{spelled}")).body == GO_MOD
        await proxy.settled()
    assert chaos.hits(f"/{path}") == 1


# --- our own trouble ------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
async def test_a_disk_that_fails_while_the_zip_is_read_again(proxy: Proxy, chaos: Chaos, error: str) -> None:
    body = module(2_000_000)
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{RECORD}", says(record(body)))
    failpoints.arm(f"tmp.reread=raise:{error}@2")
    got = await proxy.get(f"/go/{ZIP}")
    assert got.body is None or got.status == 503
    await proxy.settled()
    assert row(proxy, ZIP) is None
    assert "broken_promise" not in await warned(proxy)
    failpoints.arm("")
    assert (await proxy.get(f"/go/{ZIP}")).body == body


async def test_a_client_that_leaves_while_the_zip_is_read_again(proxy: Proxy, chaos: Chaos) -> None:
    body = module(2_000_000)
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{RECORD}", says(record(body)))
    failpoints.arm("tmp.reread=sleep:0.2@1")
    task = asyncio.create_task(proxy.get(f"/go/{ZIP}"))
    while proxy.engine.states()["temp_bytes"] < len(body):
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await proxy.settled()
    assert (row(proxy, ZIP) or {})["verified_by"] == "digest"


async def test_without_room_a_zip_passes_through_on_its_framing(tmp_path: Path, chaos: Chaos) -> None:
    body = module(3_000_000)
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{RECORD}", says(record(body)))
    async with go_proxy(tmp_path, chaos, top="limits: {temp_bytes: 1MB}") as proxy:
        got = await proxy.get(f"/go/{ZIP}")
        assert (got.status, got.body) == (200, body)
        assert got.headers["Cache-Status"] == "artifactproxy; fwd=bypass; detail=store-full"
        await proxy.settled()
        assert row(proxy, ZIP) is None
        chaos.script(f"/{ZIP}", cut(0.5), size=3_000_000)
        assert (await proxy.get(f"/go/{ZIP}")).body is None
        await proxy.check()


@pytest.mark.parametrize("damaged", [False, True])
async def test_after_an_unclean_stop_a_zip_is_hashed_once_more(
    tmp_path: Path, chaos: Chaos, damaged: bool
) -> None:
    body = module(150_000)
    chaos.script(f"/{ZIP}", says(body))
    chaos.script(f"/{RECORD}", says(record(body)))
    async with go_proxy(tmp_path, chaos) as proxy:
        assert (await proxy.get(f"/go/{ZIP}")).status == 200
        await proxy.check()
        (blob,) = [b for b in proxy.blobs() if b.name == hashlib.sha256(body).hexdigest()]
    with closing(sqlite3.connect(tmp_path / "data" / "index.sqlite3")) as db:
        db.execute("UPDATE counters SET value = 0 WHERE name = 'clean'")
        db.commit()
    if damaged:
        blob.chmod(0o600)
        blob.write_bytes(body[:-1] + b"!")
    async with go_proxy(tmp_path, chaos) as proxy:
        got = await proxy.get(f"/go/{ZIP}")
        assert (got.status, got.body) == (200, body)
        assert got.source == ("remote" if damaged else "cache")
        await proxy.settled()
        assert (row(proxy, ZIP) or {})["verified_by"] == "digest"
        await proxy.check()
    assert chaos.hits(f"/{ZIP}") == 1 + damaged
