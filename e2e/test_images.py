"""skopeo and buildah pull an image of two platforms through the proxy: cold, warm, and with upstream down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.backends import Backends
from e2e.image_registry import ImageRegistry, Skopeo, TokenServer
from e2e.images import Layout, contents, top_digest
from e2e.servers import Proxy
from tests.needs import needs

pytestmark = needs("skopeo", "docker-registry", "openssl")

NAME = "team/app"


@dataclass(slots=True)
class World:
    """An image in a registry, the proxy before it, and a client."""

    image: Layout
    upstream: ImageRegistry
    tokens: TokenServer | None
    proxy: Proxy
    skopeo: Skopeo

    @property
    def reference(self) -> str:
        return f"docker://{self.proxy.listen}/oci/{NAME}:v1"

    def is_whole(self, pulled: Path) -> bool:
        return top_digest(pulled) == self.image.digest and contents(pulled) == contents(self.image.folder)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Path]:
    """The image, and the content of a registry that has it."""
    folder = tmp_path_factory.mktemp("published")
    image, content = Layout(folder / "image"), folder / "content"
    registry = ImageRegistry(folder / "registry", content)
    try:
        Skopeo(folder / "skopeo").copy(f"oci:{image.folder}:v1", f"docker://{registry.host}/{NAME}:v1")
    finally:
        registry.stop()
    return image, content


@pytest.fixture(params=["open", "tokens"])
def tokens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TokenServer | None]:
    server = TokenServer(tmp_path / "issuer") if request.param == "tokens" else None
    yield server
    if server is not None:
        server.stop()


@pytest.fixture(params=["fs", pytest.param("s3", marks=needs("minio", "postgres"))])
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    published: tuple[Layout, Path],
    tokens: TokenServer | None,
) -> Iterator[World]:
    image, content = published
    backends = Backends() if request.param == "s3" else None
    with ExitStack() as stack:
        upstream = ImageRegistry(tmp_path / "registry", content, tokens)
        stack.callback(upstream.stop)
        remote = "    ttl: 0s\n    stale_while_revalidate: 0s\n    min_revalidate: 0s\n"
        if tokens is not None:
            remote += f"    file_hosts: ['{tokens.url}']\n    allow_private: [127.0.0.0/8]\n"
        proxy = Proxy(
            tmp_path / "proxy",
            provider="oci",
            upstream=upstream.url,
            remote=remote,
            top=backends.store() if backends else "",
            env=backends.env if backends else None,
        )
        stack.callback(proxy.stop)
        yield World(image, upstream, tokens, proxy, Skopeo(tmp_path / "skopeo"))


def test_an_image_of_two_platforms_three_times(world: World) -> None:
    with world.proxy.watch() as first:
        assert world.is_whole(world.skopeo.pull(world.reference))
    assert first.sources() == {"remote"}
    filled = [fill["path"] for fill in first.fills("artifact")]
    assert len(filled) == len(set(filled)) == len(contents(world.image.folder))
    if world.tokens is not None:
        assert len(world.tokens.asked) == 1, world.tokens.asked

    with world.proxy.watch() as second:
        assert world.is_whole(world.skopeo.pull(world.reference))
    assert second.sources() == {"cache"}
    assert second.fills() == []

    world.upstream.stop()
    try:
        with world.proxy.watch() as third:
            assert world.is_whole(world.skopeo.pull(world.reference))
        assert third.sources() == {"cache"}
        assert third.errors() == []
    finally:
        world.upstream.start()


@pytest.mark.parametrize("world", ["fs"], indirect=True)
@pytest.mark.parametrize("tokens", ["open"], indirect=True)
def test_the_configuration_that_the_proxy_hands_out_works(world: World, tmp_path: Path) -> None:
    """The image keeps the name of its registry, which cannot be reached any more."""
    world.skopeo.pull(world.reference)
    world.upstream.stop()
    text = world.proxy.get("/setup/podman").body.decode()
    assert "insecure = true" in text
    mirrored = Skopeo(tmp_path / "mirrored", text)
    with world.proxy.watch() as seen:
        pulled = mirrored.pull(f"docker://{world.upstream.host}/{NAME}:v1")
    assert world.is_whole(pulled)
    assert len(seen.requests()) >= len(contents(world.image.folder))


@needs("buildah")
@pytest.mark.parametrize("world", ["fs"], indirect=True)
@pytest.mark.parametrize("tokens", ["open"], indirect=True)
def test_buildah_pulls_the_platform_of_this_machine(world: World, tmp_path: Path) -> None:
    storage = [
        "--storage-driver",
        "vfs",
        "--root",
        str(tmp_path / "root"),
        "--runroot",
        str(tmp_path / "run"),
    ]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    pull = [
        "buildah", *storage, "pull", "--quiet", "--tls-verify=false", "--arch", "amd64",
        "--signature-policy", str(policy), world.reference.removeprefix("docker://"),
    ]  # fmt: skip
    image = world.skopeo.run(pull).strip()
    said = world.skopeo.run(
        ["buildah", *storage, "inspect", "--type", "image", "--format", "{{.OCIv1.Architecture}}", image]
    )
    assert said.strip() == "amd64"
