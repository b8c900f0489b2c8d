"""A registry behind a real socket: the whole program in this process, over files, or over a bucket.

Everything is checked at the end: no temporary file, no open upload, and `fsck --full` finds nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from artifactproxy import wiring
from artifactproxy.config import Config, load
from artifactproxy.engine.engine import Engine
from artifactproxy.hosted.registry import Registry
from artifactproxy.inspection import fsck
from artifactproxy.model import Ask
from artifactproxy.reload import access_rules
from artifactproxy.rules.oci.media import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from artifactproxy.web.app import WebServer
from tests.bucket import Bucket
from tests.faults.bucketed import top_keys
from tests.house_proxy import Got

NAME = "/v2/images/team/app"


@dataclass
class Rig:
    """`token` may do everything; `base` is the address of the program."""

    base: str
    engine: Engine
    registry: Registry
    config: Config
    client: aiohttp.ClientSession
    token: str
    desk: Any
    clock: Moving
    bucket: Bucket | None = None
    lost: list[str] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
    ) -> Got:
        """`token` "": nobody. A body that cannot be sent to its end does not matter."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        token = self.token if token is None else token
        if token:
            named["Authorization"] = f"Bearer {token}"
        url = path if path.startswith("http") else self.base + path
        async with self.client.request(
            method, url, data=body, headers=named, allow_redirects=False
        ) as answer:
            return Got(answer.status, answer.headers.copy(), await answer.read(), answer.reason or "")

    async def begun(self, name: str = NAME) -> str:
        """The address of a new upload."""
        got = await self.ask("POST", f"{name}/blobs/uploads/")
        assert got.status == 202, got
        return str(got.headers["Location"])

    async def pushed(self, body: bytes, name: str = NAME) -> str:
        digest = sha256(body)
        got = await self.ask("POST", f"{name}/blobs/uploads/?digest={digest}", body)
        assert got.status == 201, got.body
        return digest

    async def imaged(self, *layers: bytes, name: str = NAME, tag: str = "", **more: Any) -> tuple[str, bytes]:
        """An image of these layers, pushed; its digest and its manifest."""
        config = json.dumps({"made": hashlib.sha256(b"".join(layers)).hexdigest()[:8]}).encode()
        for each in (config, *layers):
            await self.pushed(each, name)
        manifest = manifest_of(config, layers, **more)
        digest = sha256(manifest)
        got = await self.ask("PUT", f"{name}/manifests/{tag or digest}", manifest, Content_Type=OCI_MANIFEST)
        assert got.status == 201, got.body
        return digest, manifest

    async def given(self, *scopes: str) -> str:
        """A token with these scopes."""
        told = await self.desk.create(
            f"t{hashlib.sha256(repr(scopes).encode()).hexdigest()[:8]}", scopes, None
        )
        return str(told["token"])

    def temp_files(self) -> list[str]:
        folder = self.config.data / ("tier/tmp" if self.bucket else "tmp")
        return sorted(os.listdir(folder))

    def blobs(self) -> set[str]:
        """The sha256 of everything that is visible in the store."""
        if self.bucket is not None:
            return {key.rpartition("/")[2] for key in self.bucket.objects if "/blobs/sha256/" in key}
        return {path.name for path in (self.config.data / "blobs/sha256").rglob("*") if path.is_file()}

    async def rows(self) -> list[str]:
        """Variants of all rows of the repository, with the names that have them."""
        entries = await self.engine.parts.ledger.entries("images")
        return sorted(f"{entry.key.path} {entry.key.variant}" for entry in entries)

    async def quiet(self) -> None:
        """Nothing is on its way any more."""
        for _ in range(5_000):
            if not self.temp_files() and not self.engine.states()["temp_bytes"]:
                if self.bucket is None or not self.bucket.contents.uploads:
                    return
            await asyncio.sleep(0.01)
        raise AssertionError((self.temp_files(), self.engine.states()))

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.base.removeprefix("http://").rpartition(":")
        return await asyncio.open_connection(host, int(port))

    def head(self, method: str, path: str, *lines: str) -> bytes:
        host = self.base.removeprefix("http://")
        told = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {self.token}", *lines]
        return "\r\n".join([*told, "", ""]).encode()


class Moving:
    """A clock that can be put ahead."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def described(body: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(body), "size": len(body), **more}


def manifest_of(config: bytes, layers: Iterable[bytes], **more: Any) -> bytes:
    layer = "application/vnd.oci.image.layer.v1.tar"
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(config, OCI_CONFIG),
            "layers": [described(each, layer) for each in layers],
            **more,
        }
    ).encode()


def index_of(*manifests: bytes) -> bytes:
    listed = [described(each, OCI_MANIFEST) for each in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()


def code(got: Got) -> str:
    """The error code that a client of a registry reads."""
    return str(json.loads(got.body or b"{}")["errors"][0]["code"])


@asynccontextmanager
async def rig(
    folder: Path, *, limits: dict[str, Any] | None = None, local: str = "", bucket: Bucket | None = None
) -> AsyncIterator[Rig]:
    """`local` are further keys of the repository. With a `bucket` blobs lie there."""
    folder.mkdir(exist_ok=True)
    more = f"limits: {json.dumps(limits)}\n" if limits else ""
    if bucket is not None:
        if not bucket.port:
            await bucket.start()
        more = top_keys(bucket, folder, limits=limits or {}, store={"local_tier": 0, "read": "20s"})
    path = folder / "config.yaml"
    path.write_text(
        f"listen: 127.0.0.1:0\ndata: {folder / 'data'}\nlog: {{file: {folder / 'log'}}}\n{more}"
        'remotes: {files: {provider: generic, upstream: "http://127.0.0.1:9/"}}\n'
        f"locals: {{images: {{provider: oci{local}}}}}\n"
    )
    config = load(path, env={}, flags={})
    try:
        async with serving(config, bucket) as running:
            yield running
            await running.quiet()
        await consistent(config, running.lost)
    finally:
        if bucket is not None:
            await bucket.stop()


@asynccontextmanager
async def serving(config: Config, bucket: Bucket | None = None) -> AsyncIterator[Rig]:
    clock = Moving()
    async with wiring.running(config, clock) as (engine, observations, _):
        keys, desk = wiring.tokens(engine, config)
        registry = wiring.registry(engine, config)
        server = WebServer(
            engine,
            observations,
            config.limits,
            access_rules(config),
            via=wiring.VIA,
            keys=keys,
            tokens=desk,
            registry=registry,
        )
        engine.start()
        registry.start()
        host, port = await server.start("127.0.0.1", 0)
        told = await desk.create(f"all-{port}", ["admin"], None)
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as client:
            try:
                yield Rig(
                    *(f"http://{host}:{port}", engine, registry, config, client, told["token"], desk, clock),
                    bucket=bucket,
                )
            finally:
                await server.close()
                await registry.close()
                await keys.close()


async def consistent(config: Config, lost: Iterable[str] = ()) -> None:
    """`artifactproxy fsck --full` finds nothing but what a test lost itself."""
    found = []
    async for line in fsck(config, full=True, repair=False):
        if "finding" in line and not line["finding"].get("note"):
            if not any(each in json.dumps(line) for each in lost):
                found.append(line["finding"])
    assert found == []


def asked(path: str, method: str = "GET", query: str = "") -> Ask:
    """A request as the registry gets it."""
    return Ask("images", path, method, query)
