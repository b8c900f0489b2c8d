"""A scripted registry: images whose every byte is known, and token servers before them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifactproxy.rules.oci import media
from tests.chaos import Chaos
from tests.chaos.behaviours import status
from tests.chaos.server import Behaviour, Exchange
from tests.house_proxy import Proxy, proxied

NAME = "team/app"
TYPE = "Content_Type"


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def descriptor(body: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(body), "size": len(body)}


@dataclass(frozen=True)
class Image:
    """One platform's: its bytes are those of `seed`. The manifest is written in no canonical form, as
    it must come through byte for byte."""

    seed: str = "a"
    size: int = 100_000
    layer: bytes = field(init=False)
    config: bytes = field(init=False)
    manifest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", hashlib.shake_128(self.seed.encode()).digest(self.size))
        object.__setattr__(self, "config", json.dumps({"os": "linux", "seed": self.seed}).encode())
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": descriptor(self.config, media.OCI_CONFIG),
            "layers": [descriptor(self.layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
        object.__setattr__(self, "manifest", json.dumps(document, indent=3).encode() + b"\n")

    @property
    def digest(self) -> str:
        return digest(self.manifest)


def document(body: bytes, media_type: str = media.OCI_MANIFEST, **more: str) -> Behaviour:
    """A manifest as registries answer with it, to GET and HEAD."""
    fields = {TYPE: f"{media_type}", "Docker_Content_Digest": digest(body), "ETag": f'"{digest(body)}"'}
    return status(200, body, **fields, **more)


def publish(chaos: Chaos, image: Image, *tags: str, name: str = NAME) -> None:
    """As a registry that has it: under its digest, under tags, and its blobs."""
    for reference in (image.digest, *tags):
        chaos.script(f"/v2/{name}/manifests/{reference}", document(image.manifest))
    for blob in (image.config, image.layer):
        chaos.script(
            f"/v2/{name}/blobs/{digest(blob)}", status(200, blob, Content_Type="application/octet-stream")
        )


def asked(chaos: Chaos, what: str, name: str = NAME) -> list[str]:
    """The methods by which upstream was asked for it."""
    return [seen.method for seen in chaos.requests if seen.path == f"/v2/{name}/{what}"]


def remote(chaos: Chaos, *more: str) -> str:
    lines = ["hub:", "  provider: oci", f"  upstream: {chaos.origin}/"]
    return "\n".join([*lines, *(f"  {line}" for line in more)]) + "\n"


@asynccontextmanager
async def registry_proxy(folder: Path, chaos: Chaos, *more: str, **options: Any) -> AsyncIterator[Proxy]:
    async with proxied(
        folder, chaos.origin, remotes=remote(chaos, *more), top="oci_default: hub", **options
    ) as proxy:
        yield proxy
        await proxy.check()


def wanting(token: str, behaviour: Behaviour, challenge: str) -> Behaviour:
    """The behaviour for who brings this token (or password), and the challenge for everybody else."""
    refusal = status(401, b'{"errors":[]}', Www_Authenticate=challenge)

    async def behave(exchange: Exchange) -> None:
        admitted = exchange.seen.headers.get("authorization") == token
        await (behaviour if admitted else refusal)(exchange)

    return behave


async def until(true: Any) -> None:
    for _ in range(3_000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come true")
