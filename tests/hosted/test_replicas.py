"""A registry of several replicas, over a real PostgreSQL and a real MinIO: an upload goes on wherever its
next request comes to, also when who took the last piece is dead; and the bucket dies under a push."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from artifactproxy.rules.oci.media import OCI_MANIFEST
from tests.faults.machine import Running, command, program, until
from tests.hosted.rig import NAME, manifest_of, sha256
from tests.hosted.test_killed import half_pushed
from tests.needs import needs
from tests.servers import minio, postgres
from tests.servers.minio import FreshBucket, Minio

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs("postgres")]

MIB = 2**20
UPLOADS = f"{NAME}/blobs/uploads/"


@dataclass
class Group:
    """`all[n]` is None while that one does not run."""

    folder: Path
    bucket: FreshBucket
    stacks: list[AsyncExitStack]
    all: list[Running | None] = field(default_factory=list)
    token: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, number: int) -> Running:
        found = self.all[number]
        assert found is not None
        return found

    async def start(self, number: int) -> None:
        self.all[number] = await self.stacks[number].enter_async_context(program(self.folder / f"r{number}"))

    async def kill(self, number: int) -> None:
        replica, self.all[number] = self[number], None
        await replica.stop(signal.SIGKILL)
        await self.stacks[number].aclose()

    async def ask(
        self, number: int, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        replica = self[number]
        async with replica.client.request(
            method, replica.base + path, data=body, headers={**self.token, **named}
        ) as answer:
            return answer.status, dict(answer.headers), await answer.read()

    async def begun(self, number: int) -> str:
        """The path of a new upload."""
        status, headers, _ = await self.ask(number, "POST", UPLOADS)
        assert status == 202
        return headers["Location"].removeprefix(self[number].base)

    async def everywhere(self, path: str, body: bytes) -> None:
        for number in range(len(self.all)):
            status, _, got = await self.ask(number, "GET", path)
            assert (status, got == body) == (200, True), number

    def uploads(self) -> int:
        """Multipart uploads that nobody has ended."""
        return len(self.bucket.client().list_multipart_uploads(Bucket=self.bucket.name).get("Uploads", []))


def configure(folder: Path, bucket: FreshBucket, database: str) -> None:
    folder.mkdir(parents=True)
    for name, text in (("access", bucket.access_key), ("key", bucket.secret_key), ("database", database)):
        (folder / name).write_text(text)
    (folder / "config.yaml").write_text(
        f"listen: 127.0.0.1:0\ndata: {folder / 'data'}\nlog: {{file: {folder / 'log'}}}\n"
        f"store: {{kind: s3, bucket: {bucket.name}, endpoint: {bucket.endpoint}, region: {bucket.region},"
        f" addressing: path, access_key: {{file: {folder / 'access'}}}, secret_key: {{file: {folder / 'key'}}},"
        " part_size: 5MiB, local_tier: 0}\n"
        f"index: {{kind: postgres, url: {{file: {folder / 'database'}}}}}\n"
        'remotes: {files: {provider: generic, upstream: "http://127.0.0.1:9/"}}\nlocals: {images: {}}\n'
    )


@asynccontextmanager
async def group(folder: Path, bucket: FreshBucket, count: int = 3) -> AsyncIterator[Group]:
    """At the end `fsck --full` over database and bucket finds nothing."""
    database = await asyncio.to_thread(lambda: postgres.shared().fresh_database())
    async with AsyncExitStack() as stack:
        stacks = [await stack.enter_async_context(AsyncExitStack()) for _ in range(count)]
        made = Group(folder, bucket, stacks, [None] * count)
        for number in range(count):
            configure(folder / f"r{number}", bucket, database)
        await made.start(0)  # it makes the schema
        await asyncio.gather(*(made.start(number) for number in range(1, count)))
        ended, said = await command(folder / "r0", "token", "create", "ci", "--scope", "push", "--json")
        assert ended == 0, said
        made.token = {"Authorization": f"Bearer {json.loads(said[said.index('{') :])['token']}"}
        yield made
        left = [replica for replica in made.all if replica is not None]
        assert [await replica.stop() for replica in left] == [0] * len(left)
    ended, said = await command(folder / "r0", "fsck", "--full")
    assert ended == 0, said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Group]:
    """Every test leaves all of them running."""
    bucket = await asyncio.to_thread(lambda: minio.shared().fresh_bucket("hosted"))
    async with group(tmp_path_factory.mktemp("three"), bucket) as made:
        yield made


async def test_c15_e10_each_request_of_an_upload_at_another_replica(three: Group) -> None:
    body = os.urandom(11 * MIB)
    for pieces, last in (((0, 6 * MIB), 7 * MIB), ((0,), 6 * MIB), ((), 0)):
        where, at = await three.begun(0), 0
        for turn, start in enumerate([*pieces[1:], last] if pieces else []):
            piece = body[at:start]
            told = {"Content_Range": f"{at}-{start - 1}"}
            status, headers, _ = await three.ask((turn + 1) % 3, "PATCH", where, piece, **told)
            assert (status, headers["Range"]) == (202, f"0-{start - 1}")
            at = start
            status, headers, _ = await three.ask((turn + 2) % 3, "GET", where)
            assert (status, headers.get("Range")) == (204, f"0-{at - 1}")
        # Whoever missed the last piece cannot be made to take it for another place.
        status, headers, _ = await three.ask(0, "PATCH", where, b"x", Content_Range=f"{at + 1}-{at + 1}")
        assert status == 416
        status, headers, _ = await three.ask(2, "PUT", f"{where}?digest={sha256(body)}", body[at:])
        assert status == 201
        await three.everywhere(f"{NAME}/blobs/{sha256(body)}", body)
        for number in range(3):
            assert (await three.ask(number, "GET", where))[0] == 404
    assert three.uploads() == 0


async def test_c15_e10_who_took_the_last_piece_is_killed(three: Group) -> None:
    """In the middle of the next one: the others go on at the last durable byte."""
    body = os.urandom(12 * MIB)
    where = await three.begun(1)
    assert (await three.ask(1, "PATCH", where, body[: 3 * MIB]))[0] == 202
    hanging = await half_pushed(three[1], "PATCH", where, three.token, body[3 * MIB :])
    temps = three[1].data / "tier" / "tmp"
    await until(lambda: any(file.stat().st_size > MIB for file in temps.iterdir()), 60)
    await three.kill(1)
    hanging.close()
    status, headers, _ = await three.ask(2, "GET", where)
    assert (status, headers["Range"]) == (204, f"0-{3 * MIB - 1}")
    assert (await three.ask(2, "PATCH", where, body[3 * MIB : 9 * MIB]))[0] == 202
    await three.kill(2)
    status, _, _ = await three.ask(0, "PUT", f"{where}?digest={sha256(body)}", body[9 * MIB :])
    assert status == 201
    await asyncio.gather(three.start(1), three.start(2))
    assert list(temps.iterdir()) == []
    await three.everywhere(f"{NAME}/blobs/{sha256(body)}", body)


async def test_c18_c19_the_same_at_once_at_every_replica(three: Group) -> None:
    """One blob from all, one of them with other bytes, and several manifests for one tag."""
    body, config = os.urandom(6 * MIB), b"{}"
    target = f"{UPLOADS}?digest={sha256(body)}"
    bad = bytes([body[0] ^ 1]) + body[1:]
    told = await asyncio.gather(
        *(three.ask(number % 3, "POST", target, body) for number in range(6)),
        three.ask(1, "POST", target, bad),
    )
    assert [status for status, _, _ in told[:6]] == [201] * 6
    assert told[6][0] in (201, 400), "201 only where a good one was there before its body was read"
    await three.everywhere(f"{NAME}/blobs/{sha256(body)}", body)
    await three.ask(0, "POST", f"{UPLOADS}?digest={sha256(config)}", config)
    manifests = {
        sha256(each): each for each in (manifest_of(config, [body], n=number) for number in range(6))
    }
    told = await asyncio.gather(
        *(
            three.ask(number % 3, "PUT", f"{NAME}/manifests/race", each, Content_Type=OCI_MANIFEST)
            for number, each in enumerate(manifests.values())
        )
    )
    assert [status for status, _, _ in told] == [201] * 6
    named = {(await three.ask(number, "GET", f"{NAME}/manifests/race"))[2] for number in range(3)}
    assert len(named) == 1
    assert named <= set(manifests.values())
    for digest, each in manifests.items():
        await three.everywhere(f"{NAME}/manifests/{digest}", each)


async def test_c15_the_bucket_is_killed_in_the_middle_of_a_push(tmp_path: Path) -> None:
    server = await asyncio.to_thread(Minio().start)
    try:
        bucket = await asyncio.to_thread(server.fresh_bucket)
        async with group(tmp_path / "group", bucket, 2) as two:
            body = os.urandom(14 * MIB)
            target = f"{UPLOADS}?digest={sha256(body)}"
            hanging = await half_pushed(two[0], "POST", target, two.token, body)
            await until(lambda: two.uploads() == 1, 60)
            await asyncio.to_thread(server.kill)
            hanging.close()
            status, _, _ = await two.ask(0, "POST", target, body)
            assert status == 503, "no 201 without durable bytes"
            await asyncio.to_thread(server.start)
            for number in range(2):
                assert (await two.ask(number, "HEAD", f"{NAME}/blobs/{sha256(body)}"))[0] == 404
            async with asyncio.timeout(60):
                while (await two.ask(1, "POST", target, body))[0] != 201:
                    await asyncio.sleep(0.2)
            await two.everywhere(f"{NAME}/blobs/{sha256(body)}", body)
    finally:
        await asyncio.to_thread(server.stop)
