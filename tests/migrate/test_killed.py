"""A migration that is killed at its places is run again; a copy that is killed half way is made again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.bucket import Bucket
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.program import START, started

SECRETS = {"KEY": "access", "SECRET": "secret/+word"}
BLOBS = 12


def _config(folder: Path, chaos: Chaos, store: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(
        f"listen: 127.0.0.1:0\ndata: {folder / 'data'}\nlog: {{file: {folder / 'log'}}}\n{store}"
        f"remotes:\n  files: {{provider: generic, upstream: '{chaos.origin}/'}}\n"
    )
    return path


def _bucket(bucket: Bucket) -> str:
    return (
        f"store: {{kind: s3, bucket: {bucket.name}, endpoint: '{bucket.endpoint}', region: {bucket.region},"
        " addressing: path, access_key: {env: KEY}, secret_key: {env: SECRET}}\n"
    )


async def _fetch(base: str, name: str) -> bytes | None:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{base}/files/{name}") as answer:
                assert answer.status == 200
                return await answer.read()
        except aiohttp.ClientError:
            return None


async def _run(*arguments: str, **env: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *START,
        *arguments,
        env={**os.environ, **SECRETS, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


async def _filled(folder: Path, chaos: Chaos) -> dict[str, bytes]:
    names = {f"a{number}.bin": 300_000 + number for number in range(BLOBS)}
    bodies = {name: chaos.script(f"/{name}", ok(), size=size).bytes() for name, size in names.items()}
    _config(folder, chaos)
    async with started(folder) as (process, base):
        for name, body in bodies.items():
            assert await _fetch(base, name) == body
        process.terminate()
        await process.wait()
    return bodies


@pytest.mark.parametrize("point", ["migrate.copied", "migrate.stored"])
async def test_a_killed_migration_is_run_again(tmp_path: Path, chaos: Chaos, point: str) -> None:
    bodies = await _filled(tmp_path / "old", chaos)
    async with Bucket() as bucket:
        aim = _config(tmp_path / "new", chaos, _bucket(bucket))
        arguments = ("migrate", "--config", str(tmp_path / "old/config.yaml"), "--to", str(aim))
        code, _ = await _run(*arguments, ARTIFACTPROXY_FAILPOINTS=f"{point}=kill@2")
        assert code == -signal.SIGKILL
        assert len(bucket.objects) < BLOBS
        code, said = await _run(*arguments)
        assert code == 0, said
        keys = {
            f"blobs/sha256/{digest[:2]}/{digest}"
            for digest in (hashlib.sha256(body).hexdigest() for body in bodies.values())
        }
        assert set(bucket.objects) == keys
        assert not bucket.contents.uploads


async def test_a_copy_that_was_killed_half_way_is_made_again(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/large.bin", ok(), size=3_000_000).bytes()
    async with Bucket() as bucket:
        folder = tmp_path / "replica"
        _config(folder, chaos, _bucket(bucket))
        async with started(folder, env=SECRETS) as (_, base):
            assert await _fetch(base, "large.bin") == body
            copies = folder / "data/tier/blobs"
            while not (bucket.objects and any(path.is_file() for path in copies.rglob("*"))):
                await asyncio.sleep(0.02)
        shutil.rmtree(copies)
        killed = {**SECRETS, "ARTIFACTPROXY_FAILPOINTS": "tier.write=kill@2"}
        async with started(folder, env=killed) as (process, base):
            assert await _fetch(base, "large.bin") is None
            assert await process.wait() == -signal.SIGKILL
        async with started(folder, env=SECRETS) as (_, base):
            assert await _fetch(base, "large.bin") == body
            assert await _fetch(base, "large.bin") == body
        assert len(chaos.requests) == 1
        copies = [path for path in (folder / "data/tier/blobs").rglob("*") if path.is_file()]
        assert [path.read_bytes() for path in copies] == [body]
        assert os.listdir(folder / "data/tier/tmp") == []
