"""What is in the repositories that the site `registry` has besides the usual ones, and how it gets there.

`images` takes pushes, `fixed` too, but there tags do not move and nothing is deleted. `hub` stands for
another registry and for all that `/v2/` names without a repository: its upstream, which wants a token of
ours, has `team/app` as well, and whatever somebody might publish there under the names of `images`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

from artifactproxy.rules.oci.media import OCI_CONFIG, OCI_MANIFEST
from tests.chaos import Chaos
from tests.chaos.behaviours import status
from tests.chaos.server import Exchange

CANARY = "upstream-canary-credential"
LOCALS = (
    "access: {read: token}\noci_default: hub\nlocals:\n  images: {provider: oci}\n"
    "  fixed: {provider: oci, immutable_tags: true, deletes: false}"
)
_REMOTES = """\
  hub: {{provider: oci, upstream: {origin}/, auth: {{bearer: {{file: {secret}}}}}, limits: {limits}}}
  guarded: {{provider: generic, upstream: {origin}/guarded/, auth: {{bearer: {{file: {secret}}}}}, limits: {limits}}}
"""

BLOBS = {
    "config": b'{"os": "linux"}',
    "other-config": b'{"os": "plan9"}',
    "layer": b"what one team has built\n",
}
BAITS = ("images/corp/x", "corp/x", "images/team/app")


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def manifest(config: str) -> bytes:
    def described(name: str, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": sha256(BLOBS[name]), "size": len(BLOBS[name])}

    layer = described("layer", "application/vnd.oci.image.layer.v1.tar")
    document = {"schemaVersion": 2, "config": described(config, OCI_CONFIG), "layers": [layer]}
    return json.dumps(document).encode()


MANIFESTS = {"image": manifest("config"), "other-image": manifest("other-config")}
DIGESTS = {name: sha256(body) for name, body in (BLOBS | MANIFESTS).items()}
HONEST = ["/v2/hub/team/app/manifests/v1", f"/v2/hub/team/app/blobs/{DIGESTS['layer']}"]
ROWS = 12  # of what is pushed, and of what `HONEST` fetches


def remotes(folder: Path, origin: str, limits: str) -> str:
    secret = folder / "secret"
    secret.write_text(CANARY)
    return _REMOTES.format(origin=origin, secret=secret, limits=limits)


def script(chaos: Chaos) -> None:
    """What the other registry has."""
    image = MANIFESTS["image"]
    typed = {"Content_Type": OCI_MANIFEST, "Docker_Content_Digest": DIGESTS["image"]}
    for name in ("team/app", *BAITS):
        for reference in ("v1", "99", DIGESTS["image"]):
            chaos.script(f"/v2/{name}/manifests/{reference}", status(200, image, **typed))
        for blob in BLOBS.values():
            chaos.script(f"/v2/{name}/blobs/{sha256(blob)}", status(200, blob))
        listed = json.dumps({"name": name, "tags": ["99"]}).encode()
        chaos.script(f"/v2/{name}/tags/list", status(200, listed, Content_Type="application/json"))
    for path in ("/v2/locked/app/manifests/v1", f"/v2/locked/app/blobs/{DIGESTS['layer']}", "/guarded/a.bin"):
        chaos.script(path, _refusing)


async def _refusing(exchange: Exchange) -> None:
    """401 that holds what it was shown, in every place."""
    shown = exchange.seen.headers.get("authorization", "").encode()
    challenge = f'Basic realm="{shown.decode()}"'
    await status(401, b"not good: " + shown, Www_Authenticate=challenge, X_Shown=shown.decode())(exchange)


async def push(port: int, token: str) -> None:
    """One image into each repository, under `v1`; into `fixed` what another one would need as well."""
    for repo, names in (("images", ("config", "layer")), ("fixed", tuple(BLOBS))):
        for name in names:
            await _put(port, token, f"/v2/{repo}/team/app/blobs/{DIGESTS[name]}", BLOBS[name])
        await _put(port, token, f"/v2/{repo}/team/app/manifests/v1", MANIFESTS["image"])


async def _put(port: int, token: str, path: str, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"PUT {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "Connection: close"]
    lines += [f"Content-Length: {len(body)}", f"Content-Type: {OCI_MANIFEST}"]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    async with asyncio.timeout(20):
        got = await reader.read()
    writer.close()
    assert got.startswith(b"HTTP/1.1 201 "), got
