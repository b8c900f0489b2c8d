"""Pulling images over real sockets: tags that move, documents that do not, and what is asked of upstream."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from artifactproxy.rules.oci import media
from tests.chaos import Chaos
from tests.chaos.behaviours import cut, flip, ok, portal, slam, status
from tests.chaos.server import Behaviour, Exchange
from tests.engine.images import NAME, Image, asked, digest, document, publish, registry_proxy, remote, until
from tests.house_proxy import Got, Proxy, proxied

AT = f"/v2/hub/{NAME}"
TAG = f"{AT}/manifests/v1"


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    """Tags are stale at once, so that every request asks upstream what they mean."""
    async with registry_proxy(
        tmp_path, chaos, "ttl: 0s", "stale_while_revalidate: 0s", "min_revalidate: 0s"
    ) as p:
        yield p


@pytest.fixture
async def lasting(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    async with registry_proxy(tmp_path, chaos, "ttl: 1h", "deny_tags: [forbidden, '*-rc*']") as p:
        yield p


def errors(got: Got) -> list[str]:
    assert got.body is not None
    return [error["code"] for error in json.loads(got.body)["errors"]]


def rows(proxy: Proxy, path: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{proxy.data / 'index.sqlite3'}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        found = db.execute("SELECT * FROM entries WHERE repo = 'hub' AND path = ?", (path,)).fetchall()
    return [dict(row) for row in found]


async def pointed(proxy: Proxy, tag: str = "v1") -> None:
    """Until the row of the tag is written."""
    await proxy.settled()
    await until(lambda: rows(proxy, f"{NAME}/manifests/{tag}"))


# --- tags and documents ---------------------------------------------------------------------


async def test_a16_a_tag_is_asked_for_by_head_and_its_document_by_digest(
    lasting: Proxy, chaos: Chaos
) -> None:
    image = Image()
    publish(chaos, image, "v1")
    got = await lasting.get(TAG)
    assert (got.status, got.body, got.source) == (200, image.manifest, "remote")
    assert got.headers["Content-Type"] == media.OCI_MANIFEST
    assert got.headers["Docker-Content-Digest"] == image.digest
    assert got.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert got.headers["Content-Length"] == str(len(image.manifest))
    assert got.headers["Vary"] == "Accept"
    assert "immutable" not in got.headers["Cache-Control"]
    assert asked(chaos, "manifests/v1") == ["HEAD"]
    assert asked(chaos, f"manifests/{image.digest}") == ["GET"]
    await pointed(lasting)
    again = await lasting.get(TAG)
    assert (again.source, again.body) == ("cache", image.manifest)
    assert again.headers["Cache-Status"].startswith("artifactproxy; hit; ttl=3")
    by_digest = await lasting.get(f"{AT}/manifests/{image.digest}")
    assert (by_digest.source, by_digest.body) == ("cache", image.manifest)
    assert "immutable" in by_digest.headers["Cache-Control"]
    assert len(chaos.requests) == 2


async def test_a_tag_that_moved_costs_one_document(proxy: Proxy, chaos: Chaos) -> None:
    first, second = Image("a"), Image("b")
    publish(chaos, first, "v1")
    assert (await proxy.get(TAG)).body == first.manifest
    await pointed(proxy)
    same = await proxy.get(TAG)
    assert (same.body, same.source) == (first.manifest, "cache")
    assert same.headers["Cache-Status"] == "artifactproxy; fwd=stale; fwd-status=304"
    publish(chaos, second, "v1")
    moved = await proxy.get(TAG)
    assert (moved.body, moved.source) == (second.manifest, "remote")
    assert moved.headers["Docker-Content-Digest"] == second.digest
    assert asked(chaos, "manifests/v1") == ["HEAD"] * 3
    assert asked(chaos, f"manifests/{first.digest}") == asked(chaos, f"manifests/{second.digest}") == ["GET"]


async def test_two_tags_of_one_document_fetch_it_once(proxy: Proxy, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image, "v1", "latest")
    for tag in ("v1", "latest"):
        assert (await proxy.get(f"{AT}/manifests/{tag}")).body == image.manifest
        await pointed(proxy, tag)
    assert asked(chaos, f"manifests/{image.digest}") == ["GET"]


async def test_many_clients_ask_once(lasting: Proxy, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image, "v1")
    answers = await asyncio.gather(*(lasting.get(TAG) for _ in range(30)))
    assert {got.body for got in answers} == {image.manifest}
    assert asked(chaos, "manifests/v1") == ["HEAD"]
    assert asked(chaos, f"manifests/{image.digest}") == ["GET"]


async def test_a_head_transfers_nothing_and_a_later_get_remembers_the_tag(
    lasting: Proxy, chaos: Chaos
) -> None:
    image = Image()
    publish(chaos, image, "v1")
    head = await lasting.get(TAG, "HEAD")
    assert (head.status, head.headers["Docker-Content-Digest"]) == (200, image.digest)
    assert head.headers["Content-Length"] == str(len(image.manifest))
    assert head.headers["Content-Type"] == media.OCI_MANIFEST
    assert [(seen.method, seen.path) for seen in chaos.requests] == [("HEAD", f"/v2/{NAME}/manifests/v1")]
    assert (await lasting.get(f"{AT}/manifests/{image.digest}")).body == image.manifest
    await pointed(lasting)
    await chaos.stop()
    assert (await lasting.get(TAG, "HEAD")).headers["Docker-Content-Digest"] == image.digest
    assert (await lasting.get(TAG)).body == image.manifest


async def test_a_part_of_a_manifest_is_given_to_nobody(lasting: Proxy, chaos: Chaos) -> None:
    """Cold and warm, by tag and by digest: the specification knows ranges of blobs only."""
    image = Image()
    publish(chaos, image, "v1")
    for _ in range(2):
        for reference in ("v1", image.digest):
            for asked_for in ("bytes=0-3", "bytes=5-", "bytes=999999-"):
                got = await lasting.get(f"{AT}/manifests/{reference}", Range=asked_for)
                assert (got.status, got.body) == (200, image.manifest)
        await pointed(lasting)
    held = await lasting.get(f"{AT}/manifests/v1", Range="bytes=0-3", If_Range=f'"{image.digest[7:]}"')
    assert (held.status, held.body) == (200, image.manifest)


async def test_the_type_that_upstream_gave_is_kept(lasting: Proxy, chaos: Chaos) -> None:
    listed = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    for reference in ("v1", digest(listed)):
        chaos.script(
            f"/v2/{NAME}/manifests/{reference}", document(listed, f"{media.DOCKER_LIST}; charset=utf-8")
        )
    for _ in range(2):
        got = await lasting.get(TAG)
        assert (got.body, got.headers["Content-Type"]) == (listed, media.DOCKER_LIST)
        await pointed(lasting)


async def test_a_client_that_knows_no_index_is_asked_for_by_itself(lasting: Proxy, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image, "v1")
    await lasting.get(TAG, Accept=media.DOCKER_MANIFEST)
    accepted = [seen.headers["accept"] for seen in chaos.requests if seen.method == "HEAD"]
    assert accepted == [media.upstream_accept(media.SINGLE)]
    await lasting.get(TAG, Accept=f"{media.OCI_INDEX}, {media.OCI_MANIFEST}")
    assert asked(chaos, "manifests/v1") == ["HEAD", "HEAD"]
    assert chaos.last(f"/v2/{NAME}/manifests/v1").headers["accept"] == media.upstream_accept(media.ALL)


async def test_an_upstream_whose_head_names_no_digest(proxy: Proxy, chaos: Chaos) -> None:
    image = Image()
    plain = status(200, image.manifest, Content_Type=media.OCI_MANIFEST)
    chaos.script(f"/v2/{NAME}/manifests/v1", plain)
    for source in ("remote", "remote"):
        got = await proxy.get(TAG)
        assert (got.body, got.source) == (image.manifest, source)
        assert got.headers["Docker-Content-Digest"] == image.digest
        await proxy.settled()
    assert asked(chaos, "manifests/v1") == ["HEAD", "GET"] * 2
    chaos.script(f"/v2/{NAME}/manifests/v1", status(500))
    stale = await proxy.get(TAG)
    assert (stale.body, stale.source) == (image.manifest, "cache")


@pytest.mark.parametrize("refusal", [405, 501])
async def test_an_upstream_that_knows_no_head(lasting: Proxy, chaos: Chaos, refusal: int) -> None:
    image = Image()
    chaos.script(f"/v2/{NAME}/manifests/v1", status(refusal), document(image.manifest))
    got = await lasting.get(TAG)
    assert (got.status, got.body) == (200, image.manifest)


async def test_a_web_page_never_becomes_a_manifest(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script(f"/v2/{NAME}/manifests/v1", portal())
    got = await proxy.get(TAG)
    assert (got.status, errors(got)) == (502, ["UNAVAILABLE"])
    chaos.script(f"/v2/{NAME}/manifests/v2", status(200, b"{}", Content_Type=media.OCI_MANIFEST))
    assert (await proxy.get(f"{AT}/manifests/v2")).status == 502
    assert proxy.blobs() == []


async def test_a_document_that_is_not_what_its_digest_says(proxy: Proxy, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image, "v1")
    wrong = image.manifest.replace(b"linux", b"limux") + b" "
    chaos.script(f"/v2/{NAME}/manifests/{image.digest}", status(200, wrong, Content_Type=media.OCI_MANIFEST))
    got = await proxy.get(TAG)
    assert (got.status, got.error) == (502, "digest")
    assert proxy.blobs() == []
    assert rows(proxy, f"{NAME}/manifests/v1") == []


async def test_e13_a_manifest_that_is_too_long(proxy: Proxy, chaos: Chaos) -> None:
    body = b" " * (4 * 2**20 + 1)
    chaos.script(f"/v2/{NAME}/manifests/{digest(body)}", document(body))
    got = await proxy.get(f"{AT}/manifests/{digest(body)}")
    assert (got.status, got.error) == (502, "too_large")
    assert proxy.blobs() == []


# --- while upstream does not answer ---------------------------------------------------------


@pytest.mark.parametrize("trouble", [status(429, Retry_After="60"), status(503), status(500), slam()])
async def test_a_tag_stays_what_it_was_while_upstream_is_in_trouble(
    proxy: Proxy, chaos: Chaos, trouble: Any
) -> None:
    image = Image()
    publish(chaos, image, "v1")
    await proxy.get(TAG)
    await pointed(proxy)
    chaos.script(f"/v2/{NAME}/manifests/v1", trouble)
    for _ in range(2):
        got = await proxy.get(TAG)
        assert (got.status, got.body, got.source) == (200, image.manifest, "cache")
        assert got.headers["Cache-Status"].endswith("; detail=stale-if-error")


async def test_who_holds_nothing_hears_of_the_limit(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script(f"/v2/{NAME}/manifests/v1", status(429, Retry_After="7"))
    got = await proxy.get(TAG)
    assert (got.status, errors(got), got.headers["Retry-After"]) == (429, ["TOOMANYREQUESTS"], "7")


async def test_what_is_left_of_the_limit_is_a_metric(lasting: Proxy, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image)
    limits = {"Ratelimit_Limit": "100;w=21600", "Ratelimit_Remaining": "76;w=21600"}
    chaos.script(f"/v2/{NAME}/manifests/v1", document(image.manifest, **limits))
    await lasting.get(TAG)
    shown = lasting.server.numbers()
    text = json.dumps(shown)
    assert "upstream_ratelimit_remaining" in text
    assert "76.0" in text


async def test_absence_is_upstream_s_and_soon_asked_again(proxy: Proxy, chaos: Chaos) -> None:
    got = await proxy.get(TAG)
    assert (got.status, errors(got)) == (404, ["MANIFEST_UNKNOWN"])
    assert asked(chaos, "manifests/v1") == ["HEAD"]
    await proxy.get(TAG)
    assert asked(chaos, "manifests/v1") == ["HEAD"]


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refusal_is_no_absence_and_nothing_to_be_stale_for(
    proxy: Proxy, chaos: Chaos, code: int
) -> None:
    image = Image()
    publish(chaos, image, "v1")
    await proxy.get(TAG)
    await pointed(proxy)
    chaos.script(f"/v2/{NAME}/manifests/v1", status(code))
    got = await proxy.get(TAG)
    assert (got.status, errors(got)) == (403, ["DENIED"])


# --- blobs ----------------------------------------------------------------------------------


async def test_a_blob_is_fetched_once_and_verified(lasting: Proxy, chaos: Chaos) -> None:
    image = Image(size=2_000_000)
    publish(chaos, image)
    path = f"{AT}/blobs/{digest(image.layer)}"
    answers = await asyncio.gather(*(lasting.get(path) for _ in range(10)))
    assert {got.body for got in answers} == {image.layer}
    assert answers[0].headers["Docker-Content-Digest"] == digest(image.layer)
    assert asked(chaos, f"blobs/{digest(image.layer)}") == ["GET"]
    await lasting.settled()
    part = await lasting.get(path, Range="bytes=1000-1999")
    assert (part.status, part.body, part.source) == (206, image.layer[1000:2000], "cache")


async def test_a_blob_of_one_name_says_nothing_about_another(lasting: Proxy, chaos: Chaos) -> None:
    """Design 7.10: that a blob is held is no reason to hand it out."""
    image = Image()
    publish(chaos, image)
    path = f"blobs/{digest(image.layer)}"
    assert (await lasting.get(f"{AT}/{path}")).status == 200
    await lasting.settled()
    for method in ("GET", "HEAD"):
        other = await lasting.get(f"/v2/hub/other/app/{path}", method)
        assert other.status == 404
    assert asked(chaos, path, "other/app") != []
    await chaos.stop()
    assert (await lasting.get(f"/v2/hub/third/app/{path}")).status == 502


async def test_a_blob_that_upstream_has_under_another_name_too_is_not_brought_again(
    lasting: Proxy, chaos: Chaos
) -> None:
    """It says so by HEAD, once for all who ask; from then on it is a hit under this name."""
    image = Image()
    for name in (NAME, "other/app"):
        publish(chaos, image, name=name)
    path = f"blobs/{digest(image.layer)}"
    assert (await lasting.get(f"{AT}/{path}")).body == image.layer
    await lasting.settled()
    answers = await asyncio.gather(*(lasting.get(f"/v2/hub/other/app/{path}") for _ in range(8)))
    assert {(got.status, got.body, got.source) for got in answers} == {(200, image.layer, "cache")}
    assert asked(chaos, path, "other/app") == ["HEAD"]
    await chaos.stop()
    part = await lasting.get(f"/v2/hub/other/app/{path}", Range="bytes=10-19")
    assert (part.status, part.body) == (206, image.layer[10:20])
    assert part.headers["Docker-Content-Digest"] == digest(image.layer)


@pytest.mark.parametrize(
    "says",
    [
        status(200, b"another length"),
        status(200, Image().layer, Docker_Content_Digest=digest(b"other")),
        status(405),
        status(500),
    ],
)
async def test_what_upstream_does_not_confirm_is_fetched(
    lasting: Proxy, chaos: Chaos, says: Behaviour
) -> None:
    image = Image()
    publish(chaos, image)
    path = f"blobs/{digest(image.layer)}"
    assert (await lasting.get(f"{AT}/{path}")).body == image.layer
    await lasting.settled()
    given = status(200, image.layer)

    async def behave(exchange: Exchange) -> None:
        await (says if exchange.seen.method == "HEAD" else given)(exchange)

    chaos.script(f"/v2/other/app/{path}", behave)
    got = await lasting.get(f"/v2/hub/other/app/{path}")
    assert (got.status, got.body, got.source) == (200, image.layer, "remote")
    assert asked(chaos, path, "other/app")[-1] == "GET"


async def test_no_upstream_opens_what_another_one_gave(tmp_path: Path, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image)
    path = f"blobs/{digest(image.layer)}"
    async with Chaos() as liar:
        liar.script(f"/v2/{NAME}/{path}", status(200, b"x" * len(image.layer)))
        more = f"liar:\n  provider: oci\n  upstream: {liar.origin}/\n"
        top, remotes = "oci_default: hub", remote(chaos) + more
        async with proxied(
            tmp_path, chaos.origin, remotes=remotes, top=top, extra="first_byte: 10s"
        ) as proxy:
            assert (await proxy.get(f"{AT}/{path}")).body == image.layer
            await proxy.settled()
            got = await proxy.get(f"/v2/liar/{NAME}/{path}")
            assert got.body != image.layer
            assert [seen.method for seen in liar.requests][:1] == ["GET"]


async def test_a_range_of_a_blob_that_is_still_coming(tmp_path: Path, chaos: Chaos) -> None:
    """Design 4.6: relayed once the wait is over, while the fill goes on and asks for the whole once."""
    image = Image("cold", size=600_000)
    path = f"blobs/{digest(image.layer)}"
    go_on = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        asked_range = exchange.seen.headers.get("range", "")
        if asked_range and not asked_range.endswith("-"):  # a part, not the beginning of the whole
            first, last = map(int, asked_range.removeprefix("bytes=").split("-"))
            fields = {
                "Content-Range": f"bytes {first}-{last}/{len(image.layer)}",
                "Content-Length": str(last - first + 1),
            }
            await exchange.head(206, fields)
            await exchange.send(image.layer[first : last + 1])
            return
        await exchange.head(200, {"Content-Length": str(len(image.layer))})
        await exchange.send(image.layer[:100_000])
        await go_on.wait()
        await exchange.send(image.layer[100_000:])

    chaos.script(f"/v2/{NAME}/{path}", slowly)
    options = {"top": "oci_default: hub\nlimits: {cold_range_wait: 50ms}", "extra": "idle: 20s"}
    async with proxied(tmp_path, chaos.origin, remotes=remote(chaos), **options) as proxy:
        parts = [(0, 99), (300_000, 399_999), (599_990, 599_999)]
        answers = await asyncio.gather(
            *(proxy.get(f"{AT}/{path}", Range=f"bytes={first}-{last}") for first, last in parts)
        )
        for (first, last), got in zip(parts, answers, strict=True):
            assert (got.status, got.body) == (206, image.layer[first : last + 1])
            assert got.headers["Cache-Status"] == "artifactproxy; fwd=partial; detail=unverified"
        go_on.set()
        await proxy.settled()
        assert (await proxy.get(f"{AT}/{path}")).source == "cache"
        await proxy.check()
    asked = [seen.headers.get("range", "") for seen in chaos.requests if seen.path.endswith(path)]
    assert len([each for each in asked if each in ("", "bytes=0-")]) == 1, "once for the whole"


@pytest.mark.parametrize("behaviour", [flip(0.9), cut(0.5, ranges=False)])
async def test_wrong_bytes_never_become_a_blob(proxy: Proxy, chaos: Chaos, behaviour: Any) -> None:
    body = chaos.script("/true", ok(), size=500_000)
    path = f"blobs/sha256:{body.sha256}"
    chaos.script(f"/v2/{NAME}/{path}", behaviour, size=500_000)
    got = await proxy.get(f"{AT}/{path}")
    assert got.body is None or got.status == 502
    await proxy.settled()
    assert proxy.blobs() == []


# --- lists ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "link"),
    [
        (f"/v2/hub/{NAME}", f"/v2/hub/{NAME}"),
        (f"/hub/v2/{NAME}", f"/hub/v2/{NAME}"),
        (f"/v2/{NAME}", f"/v2/{NAME}"),
        (f"/repository/hub/v2/{NAME}", f"/repository/hub/v2/{NAME}"),
        (f"/artifactory/api/docker/hub/v2/{NAME}", f"/artifactory/api/docker/hub/v2/{NAME}"),
    ],
)
async def test_a_page_leads_to_the_next_one_the_way_the_client_came(
    lasting: Proxy, chaos: Chaos, at: str, link: str
) -> None:
    page = json.dumps({"name": NAME, "tags": ["v1", "v2"]}).encode()
    upstream_link = f'</v2/{NAME}/tags/list?n=2&last=v2>; rel="next"'
    chaos.script(
        f"/v2/{NAME}/tags/list", status(200, page, Content_Type="application/json", Link=upstream_link)
    )
    for source in ("remote", "cache"):
        got = await lasting.get(f"{at}/tags/list?n=2")
        assert (got.status, got.body, got.source) == (200, page, source)
        assert got.headers["Link"] == f'<{lasting.base}{link}/tags/list?n=2&last=v2>; rel="next"'
        await lasting.settled()
    last = json.dumps({"name": NAME, "tags": ["v3"]}).encode()
    chaos.script(f"/v2/{NAME}/tags/list", status(200, last, Content_Type="application/json"))
    following = await lasting.get(f"{at}/tags/list?n=2&last=v2")
    assert (following.body, following.headers.get("Link")) == (last, None)
    assert chaos.last(f"/v2/{NAME}/tags/list").target.endswith("?n=2&last=v2")


async def test_referrers_are_filtered_here(lasting: Proxy, chaos: Chaos) -> None:
    subject = digest(b"subject")
    listed = [
        {"mediaType": media.OCI_MANIFEST, "digest": digest(b"1"), "size": 1, "artifactType": "text/sbom"},
        {
            "mediaType": media.OCI_MANIFEST,
            "digest": digest(b"2"),
            "size": 1,
            "artifactType": "text/signature",
        },
    ]
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": listed}
    body = json.dumps(index).encode()
    chaos.script(f"/v2/{NAME}/referrers/{subject}", status(200, body, Content_Type=media.OCI_INDEX))
    whole = await lasting.get(f"{AT}/referrers/{subject}")
    assert (whole.body, whole.headers.get("OCI-Filters-Applied")) == (body, None)
    assert whole.headers["Content-Type"] == media.OCI_INDEX
    some = await lasting.get(f"{AT}/referrers/{subject}?artifactType=text/sbom")
    assert some.headers["OCI-Filters-Applied"] == "artifactType"
    assert json.loads(some.body or b"") == index | {"manifests": listed[:1]}
    assert chaos.last(f"/v2/{NAME}/referrers/{subject}").target == f"/v2/{NAME}/referrers/{subject}"


async def test_an_upstream_without_referrers_has_none(lasting: Proxy, chaos: Chaos) -> None:
    """Then clients look for the tag that stands in for the list."""
    got = await lasting.get(f"{AT}/referrers/{digest(b'x')}")
    assert (got.status, errors(got)) == (404, ["MANIFEST_UNKNOWN"])


# --- what is refused ------------------------------------------------------------------------


async def test_denied_tags_never_touch_upstream_nor_digests(lasting: Proxy, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image, "forbidden", "2.0-rc1")
    for tag in ("forbidden", "2.0-rc1"):
        for method in ("GET", "HEAD"):
            got = await lasting.get(f"{AT}/manifests/{tag}", method)
            assert (got.status, got.error) == (403, "denied")
    assert chaos.requests == []
    assert (await lasting.get(f"{AT}/manifests/{image.digest}")).body == image.manifest


@pytest.mark.parametrize(
    ("method", "path", "status_", "code"),
    [
        ("GET", f"{AT}/manifests/sha256:abc", 400, "DIGEST_INVALID"),
        ("GET", f"{AT}/blobs/latest", 400, "DIGEST_INVALID"),
        ("GET", "/v2/hub/Team/App/manifests/v1", 400, "NAME_INVALID"),
        ("GET", f"{AT}/manifests/.v1", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"{AT}/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/hub/_catalog", 404, "UNSUPPORTED"),
        ("GET", "/v2/hub/team", 404, "NAME_UNKNOWN"),
        ("GET", f"/v2/{NAME}/manifests/v1?ns=other.example", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/hub/a/../b/manifests/v1", 400, "UNSUPPORTED"),
        ("POST", f"{AT}/blobs/uploads/", 405, "UNSUPPORTED"),
        ("PUT", f"{AT}/manifests/v1", 405, "UNSUPPORTED"),
        ("DELETE", f"{AT}/manifests/v1", 405, "UNSUPPORTED"),
        ("PATCH", f"{AT}/blobs/uploads/x", 405, "UNSUPPORTED"),
    ],
)
async def test_refusals_are_in_the_words_of_registries(
    lasting: Proxy, chaos: Chaos, method: str, path: str, status_: int, code: str
) -> None:
    import aiohttp
    from yarl import URL

    async with aiohttp.ClientSession() as session:
        async with session.request(method, URL(lasting.base + path, encoded=True)) as answer:
            said = await answer.json()
            assert (answer.status, said["errors"][0]["code"]) == (status_, code)
    assert chaos.requests == []


async def test_e11_5000_uploads_that_a_remote_refuses_leave_nothing(lasting: Proxy) -> None:
    for start in range(0, 5000, 50):
        path = f"{AT}/blobs/uploads/?mount={digest(b'x')}&from=other"
        answers = await asyncio.gather(*(lasting.get(path, "POST") for _ in range(50)))
        assert {got.status for got in answers} == {405}, start
    assert lasting.blobs() == []


async def test_the_api_answers_wherever_clients_look_for_it(lasting: Proxy) -> None:
    for path in ("/v2/", "/v2/hub/", "/hub/v2/", "/v2/hub/?ns=docker.io"):
        got = await lasting.get(path)
        assert (got.status, got.headers["Docker-Distribution-Api-Version"]) == (200, "registry/2.0"), path


async def test_a_mirror_s_client_is_told_that_its_registry_was_understood(
    lasting: Proxy, chaos: Chaos
) -> None:
    image = Image()
    publish(chaos, image, "v1")
    host = chaos.origin.partition("://")[2]
    got = await lasting.get(f"/v2/{NAME}/manifests/v1?ns={host}")
    assert (got.status, got.headers["OCI-Namespace"]) == (200, host)
    assert all("ns=" not in seen.target for seen in chaos.requests)
