"""Who may do what in a registry: by every address, HEAD and mount."""

from __future__ import annotations

from tests.hosted.rig import NAME, Rig, code, sha256

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
