"""Who may do what in a registry: by every address, HEAD and mount."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.hosted.rig import NAME, Rig, code, rig, sha256

BOTH = (NAME, "/images/v2/team/app")


async def test_pushing_needs_a_token(reg: Rig) -> None:
    for name in BOTH:
        for method, path in (
            ("POST", f"{name}/blobs/uploads/"),
            ("POST", f"{name}/blobs/uploads/?digest={sha256(b'x')}"),
            ("PUT", f"{name}/blobs/{sha256(b'x')}"),
            ("PUT", f"{name}/manifests/v1"),
            ("DELETE", f"{name}/manifests/v1"),
            ("DELETE", f"{name}/blobs/{sha256(b'x')}"),
        ):
            got = await reg.ask(method, path, b"x", token="")
            assert (got.status, code(got)) == (401, "UNAUTHORIZED"), path
            assert got.headers["WWW-Authenticate"].startswith("Bearer realm=")
    assert await reg.rows() == []


async def test_an_upload_is_no_secret_that_opens_doors(reg: Rig) -> None:
    where = await reg.begun()
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert (await reg.ask(method, where, token="")).status == 401
    reader = await reg.given("read")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        got = await reg.ask(method, where, token=reader)
        assert (got.status, code(got)) == (403, "DENIED")
    assert (await reg.ask("GET", where)).status == 204


async def test_a_pusher_pushes_where_it_may_and_deletes_nothing(reg: Rig) -> None:
    pusher = await reg.given("push:images/team/*")
    digest = sha256(b"x")
    for name in BOTH:
        got = await reg.ask("POST", f"{name}/blobs/uploads/?digest={digest}", b"x", token=pusher)
        assert got.status == 201
    for name in ("/v2/images/other", "/images/v2/other"):
        got = await reg.ask("POST", f"{name}/blobs/uploads/?digest={digest}", b"x", token=pusher)
        assert (got.status, code(got)) == (403, "DENIED")
    for name in BOTH:
        got = await reg.ask("DELETE", f"{name}/blobs/{digest}", token=pusher)
        assert (got.status, code(got)) == (403, "DENIED")
    where = (await reg.ask("POST", f"{NAME}/blobs/uploads/", token=pusher)).headers["Location"]
    assert (await reg.ask("DELETE", where, token=pusher)).status == 204


async def test_reading_is_open_and_the_first_question_is_for_a_token(reg: Rig) -> None:
    digest = await reg.pushed(b"x")
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}", token="")).status == 200
    for ping in ("/v2/", "/images/v2/"):
        assert (await reg.ask("GET", ping, token="")).status == 401
        assert (await reg.ask("GET", ping)).status == 200


ROOTS = [
    "/v2/{}",
    "/{}/v2",
    "/api/v1/local/{}/v2",
    "/repository/{}/v2",
    "/artifactory/{}/v2",
    "/artifactory/api/docker/{}/v2",
]
ABOUT = sha256(b"about")
REQUESTS = [
    *((method, path) for method in ("GET", "HEAD") for path in ("", "team/app", "team/app/tags/list", "_catalog")),
    *((method, f"team/app/{path}") for method in ("GET", "HEAD", "PUT", "DELETE")
      for path in ("manifests/v1", f"manifests/{ABOUT}", f"blobs/{ABOUT}", "blobs/sha256:12")),
    ("GET", f"team/app/referrers/{ABOUT}"),
    ("POST", "team/app/blobs/uploads/"),
    ("POST", f"team/app/blobs/uploads/?digest={ABOUT}"),
    ("POST", f"team/app/blobs/uploads/?mount={ABOUT}&from={{}}/team/app"),
    *((method, f"team/app/blobs/uploads/{'0' * 32}") for method in ("GET", "PATCH", "PUT", "DELETE")),
    ("POST", "team/app/manifests/v1"),
]  # fmt: skip
HINTS = ("Content-Type", "WWW-Authenticate", "X-Proxy-Error", "Allow", "Cache-Control", "Link", "ETag")


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "closed", access="token") as running:
        yield running


async def test_setup_says_how_to_log_in_and_push(reg: Rig, closed: Rig) -> None:
    listed = (await reg.ask("GET", "/setup", token="")).body or b""
    host = reg.base.removeprefix("http://")
    for client, lines in {
        "docker": [f"docker login {host}", f"docker push {host}/images/NAME:TAG"],
        "podman": [f"podman login {host}", f"podman push IMAGE {host}/images/NAME:TAG", "# insecure = true"],
        "skopeo": [f"skopeo login {host}", f"skopeo copy --all dir:IMAGE docker://{host}/images/NAME:TAG"],
        "helm": [f"helm registry login {host}", f"helm push CHART-1.0.0.tgz oci://{host}/images/charts"],
    }.items():
        assert f"/setup/{client}\n".encode() in listed
        for query in ("", "?repo=images", "?repo=api/v1/local/images"):
            got = await reg.ask("GET", f"/setup/{client}{query}", token="")
            text = (got.body or b"").decode()
            assert "token create NAME --scope push:images\n" in text
            assert all(f"{line}\n" in text for line in lines), text
            assert "{" not in text, text
        assert (await closed.ask("GET", f"/setup/{client}", token="")).status == 401
    assert (await reg.ask("GET", "/setup/pip?repo=images", token="")).status == 404


async def test_i08_g05_a_private_registry_is_answered_for_as_one_that_is_not_here(closed: Rig) -> None:
    """Word for word, by every address, to a nobody and to tokens for something else."""
    await closed.imaged(b"a private layer", tag="v1")
    elsewhere, pusher = await closed.given("read:files"), await closed.given("push:other/*")
    for token in ("", elsewhere, pusher):
        for root in ROOTS:
            for method, path in REQUESTS:
                told = []
                for repo in ("images", "nought"):
                    where = f"{root.format(repo)}/{path.format(repo)}"
                    got = await closed.ask(method, where, b"" if method in ("PUT", "POST") else None, token)
                    shown = {name: got.headers.get(name, "").replace(repo, "*") for name in HINTS}
                    told.append((got.status, shown, (got.body or b"").replace(repo.encode(), b"*")))
                assert told[0] == told[1], (root, method, path)
                assert told[0][0] in (401, 404), (root, method, path, told[0])


async def test_i08_what_is_answered_is_what_the_policy_says(closed: Rig) -> None:
    """Every caller asks for every blob by every name and address: 200 only for who may, where it is."""
    names = {"team/app": b"of the team", "team/web": b"of the web", "other/app": b"of others"}
    digests = {name: await closed.pushed(body, f"/v2/images/{name}") for name, body in names.items()}
    patterns = {
        "read": names,
        "read:images": names,
        "admin:images/team/*": {"team/app", "team/web"},
        "push:images/team/web": {"team/web"},
        "read:images/*/app": {"team/app", "other/app"},
        "read:files": (),
    }
    for scope, readable in patterns.items():
        token = await closed.given(scope)
        for root in ROOTS:
            for name in names:
                for owner, digest in digests.items():
                    for method, more in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-1"})):
                        where = f"{root.format('images')}/{name}/blobs/{digest}"
                        got = await closed.ask(method, where, token=token, **more)
                        given = name in readable and owner == name
                        assert got.status == ((206 if more else 200) if given else 404), (scope, where)


async def test_i08_a_mount_reads_what_it_mounts(closed: Rig) -> None:
    """Who may push here and not read there gets an upload, as for a blob that nobody has."""
    digest = await closed.pushed(b"of others", "/v2/images/other/app")
    token = await closed.given("push:images/team/*")
    for root in ROOTS:
        for source in ("images/other/app", "other/app"):
            for wanted in (digest, sha256(b"nobody's")):
                query = f"mount={wanted}&from={source}"
                got = await closed.ask(
                    "POST", f"{root.format('images')}/team/app/blobs/uploads/?{query}", token=token
                )
                assert (got.status, "Docker-Content-Digest" in got.headers) == (202, False)
                assert (await closed.ask("DELETE", got.headers["Location"], token=token)).status == 204
    assert (await closed.ask("GET", f"{NAME}/blobs/{digest}")).status == 404
