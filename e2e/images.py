"""Images of several platforms, made from nothing, as a folder in the OCI image layout."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class Layout:
    """One image under the tag `v1`: a layer of `size` bytes that all platforms share, and one of each."""

    def __init__(
        self, folder: Path, *, size: int = 3_000_000, platforms: tuple[str, ...] = ("amd64", "arm64")
    ) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        shared = _layer("shared", size)
        manifests = [self._platform(name, [shared, _layer(name, 200_000)]) for name in platforms]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        whole = self._keep(json.dumps(index, indent=2).encode(), INDEX)
        self.digest = str(whole["digest"])
        tagged = {**whole, "annotations": {"org.opencontainers.image.ref.name": "v1"}}
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def _platform(self, name: str, layers: list[bytes]) -> dict[str, Any]:
        ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        config = {
            "architecture": name,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ids},
            "config": {},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._keep(json.dumps(config).encode(), CONFIG),
            "layers": [self._keep(layer, LAYER) for layer in layers],
        }
        kept = self._keep(json.dumps(manifest, indent=3).encode(), MANIFEST)
        return {**kept, "platform": {"os": "linux", "architecture": name}}

    def _keep(self, body: bytes, media_type: str) -> dict[str, Any]:
        value = hashlib.sha256(body).hexdigest()
        (self._blobs / value).write_bytes(body)
        return {"mediaType": media_type, "digest": f"sha256:{value}", "size": len(body)}


def contents(folder: Path) -> dict[str, str]:
    """What a layout holds: the sha256 of every blob, by its name."""
    blobs = sorted((folder / "blobs" / "sha256").iterdir())
    return {blob.name: hashlib.sha256(blob.read_bytes()).hexdigest() for blob in blobs}


def top_digest(folder: Path) -> str:
    """What the only tag of a layout means."""
    (tagged,) = json.loads((folder / "index.json").read_text())["manifests"]
    return str(tagged["digest"])


def _layer(name: str, size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = size
        archive.addfile(member, io.BytesIO(hashlib.shake_128(name.encode()).digest(size)))
    return out.getvalue()
