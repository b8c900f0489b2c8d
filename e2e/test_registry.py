"""Real clients push to a registry of ours and pull back: skopeo, podman, crane, oras and helm."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.program import environment, run
from e2e.registry_clients import logged_in, obtain
from e2e.servers import ROOT, Child
from tests.needs import require

OCI = "application/vnd.oci.image"
PLATFORMS = ("amd64", "arm64")


@dataclass(frozen=True, slots=True)
class Registry:
    """`host` takes pushes to `images`; `home` is where clients find the token, `empty` where they do not."""

    host: str
    home: Path
    empty: Path
    folder: Path
    token: str

    def client(self, *command: str, home: Path | None = None, check: bool = True) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, "HOME": str(home or self.home), "XDG_CONFIG_HOME": "", "XDG_RUNTIME_DIR": ""},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode != 0
        return done.stdout if check else done.stderr


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    config = folder / "config.yaml"
    config.write_text(
        f"listen: 127.0.0.1:0\ndata: {folder / 'data'}\nlog: {{file: {folder / 'log'}}}\n"
        'remotes: {files: {provider: generic, upstream: "http://127.0.0.1:9/"}}\n'
        "locals: {images: {provider: oci}}\n"
    )
    arguments = [sys.executable, "-m", "artifactproxy", "serve", "--config", str(config)]
    child = Child(arguments, folder / "said", ROOT, environment())
    try:
        lines = child.read_until(lambda line: line.startswith("artifactproxy listens on "))
        host = lines[-1].rpartition("//")[2]
        done = run(
            "token", "create", "ci", "--scope", "push:images", "--json", "--config", str(config), env={}
        )
        assert done.code == 0, done.err
        token = json.loads(done.out)["token"]
        empty = folder / "nobody"
        empty.mkdir()
        yield Registry(host, logged_in(folder / "home", host, token), empty, folder, token)
    finally:
        child.stop()


@pytest.fixture(scope="module")
def layout(registry: Registry) -> Path:
    """An image for two platforms, as a folder of the OCI image layout; tagged `v1`."""
    return _layout(registry.folder / "layout")


def _layout(folder: Path) -> Path:
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(body: bytes, media_type: str, **more: object) -> dict[str, object]:
        digest = hashlib.sha256(body).hexdigest()
        (blobs / digest).write_bytes(body)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(body), **more}

    manifests = []
    for platform in PLATFORMS:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            content = os.urandom(3 * 2**20)
            entry = tarfile.TarInfo("content")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        layer = packed.getvalue()
        config = {
            "architecture": platform,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": put(json.dumps(config).encode(), f"{OCI}.config.v1+json"),
            "layers": [put(gzip.compress(layer, 1), f"{OCI}.layer.v1.tar+gzip")],
        }
        shown = {"architecture": platform, "os": "linux"}
        manifests.append(put(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json", platform=shown))
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
    named = {"org.opencontainers.image.ref.name": "v1"}
    top = put(json.dumps(index).encode(), f"{OCI}.index.v1+json", annotations=named)
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "blobs/sha256").iterdir()}


def test_skopeo_there_and_back(registry: Registry, layout: Path) -> None:
    skopeo = require("skopeo")
    target = f"docker://{registry.host}/images/team/app:v1"
    auth = ("--authfile", str(registry.home / "auth.json"))
    registry.client(*(skopeo, "copy", "--all", *auth, "--dest-tls-verify=false", f"oci:{layout}:v1", target))
    back = registry.folder / "back"
    registry.client(
        *(skopeo, "copy", "--all", "--src-tls-verify=false", target, f"oci:{back}:v1"), home=registry.empty
    )
    assert content(back) == content(layout)


def test_skopeo_without_a_token(registry: Registry, layout: Path) -> None:
    target = f"docker://{registry.host}/images/team/never:v1"
    said = registry.client(
        *(require("skopeo"), "copy", "--all", "--dest-tls-verify=false", f"oci:{layout}:v1", target),
        home=registry.empty,
        check=False,
    )
    assert "unauthorized" in said.lower() or "authentication required" in said.lower()


def test_podman_logs_in_and_there_and_back(registry: Registry, layout: Path) -> None:
    """By its own login, and through its own store, which packs layers anew: the image is the same by its
    configuration, and what is pulled is what was pushed by its digest."""
    podman, push = _podman(registry), ("--tls-verify=false", "--authfile", "podman.json")
    target = f"{registry.host}/images/team/podman:v1"
    said = registry.client(
        *podman,
        "login",
        *push,
        "-u",
        "anybody",
        "-p",
        "wrong",
        registry.host,
        home=registry.empty,
        check=False,
    )
    assert "invalid username/password" in said
    registry.client(*podman, "login", *push, "-u", "anybody", "-p", registry.token, registry.host)
    image = registry.client(*podman, "pull", "--quiet", f"oci:{layout}:v1").strip()
    registry.client(*podman, "push", "--quiet", *push, "--digestfile", "pushed", image, target)
    registry.client(*podman, "rmi", "--all", "--force")
    registry.client(*podman, "pull", "--quiet", "--tls-verify=false", target, home=registry.empty)
    shown = registry.client(*podman, "image", "inspect", "--format", "{{.Id}} {{.Digest}}", target)
    assert shown.split() == [image, (registry.folder / "pushed").read_text()]


def _podman(registry: Registry) -> list[str]:
    """With a store of its own that needs nothing of the kernel. As another user than root it would need
    more of the system than a build machine has."""
    podman = require("podman")
    if os.geteuid():
        pytest.skip("podman without root needs subordinate ids and user namespaces")
    return [podman, "--root", "podman", "--runroot", "podman-run", "--storage-driver", "vfs"]


def test_crane_pushes_mounts_and_lists(registry: Registry, layout: Path) -> None:
    crane = obtain("crane")
    first, second = f"{registry.host}/images/crane/one:v1", f"{registry.host}/images/crane/two:v2"
    registry.client(crane, "push", "--insecure", "--index", str(layout), first)
    registry.client(crane, "copy", "--insecure", first, second)
    digests = [registry.client(crane, "digest", "--insecure", name) for name in (first, second)]
    assert digests[0] == digests[1]
    assert registry.client(crane, "ls", "--insecure", second.rpartition(":")[0]).split() == ["v2"]
    registry.client(crane, "pull", "--insecure", "--format", "oci", second, "pulled", home=registry.empty)
    assert content(registry.folder / "pulled").items() >= content(layout).items()


def test_oras_attaches_and_discovers(registry: Registry) -> None:
    oras = obtain("oras")
    name = f"{registry.host}/images/art/x:1"
    (registry.folder / "bom.json").write_text('{"bill": "of material"}')
    for words in (["push", name], ["attach", name]):
        kind = ["--artifact-type", f"application/vnd.example.{words[0]}"]
        registry.client(oras, words[0], "--plain-http", *kind, name, "bom.json")
    found = registry.client(oras, "discover", "--plain-http", name, home=registry.empty)
    assert "application/vnd.example.attach" in found
    out = registry.folder / "out"
    registry.client(oras, "pull", "--plain-http", "-o", str(out), name, home=registry.empty)
    assert (out / "bom.json").read_text() == '{"bill": "of material"}'


def test_helm_there_and_back(registry: Registry) -> None:
    helm = obtain("helm")
    registry.client(helm, "create", "chart")
    registry.client(helm, "package", "chart")
    registry.client(helm, "push", "--plain-http", "chart-0.1.0.tgz", f"oci://{registry.host}/images/charts")
    (registry.folder / "charts").mkdir()
    source = f"oci://{registry.host}/images/charts/chart"
    registry.client(
        *(helm, "pull", "--plain-http", source, "--version", "0.1.0", "-d", "charts"), home=registry.empty
    )
    sent, got = (registry.folder / place / "chart-0.1.0.tgz" for place in ("", "charts"))
    assert got.read_bytes() == sent.read_bytes()
