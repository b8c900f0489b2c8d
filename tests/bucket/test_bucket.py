"""The stand-in does what real buckets do, through an SDK and on the wire, and fails as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiobotocore.session import get_session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

from tests.bucket import (
    Bucket,
    Key,
    cut,
    delay,
    error_in_200,
    executed_then,
    executed_then_hang,
    executed_then_reset,
    flip,
    garbage,
    ignore,
    refuse,
    reset,
    stall,
    wrong_etag,
)
from tests.chaos.certs import Authority

MIB = 2**20
SMALL = {"part_least": 10}


@asynccontextmanager
async def opened(bucket: Bucket, **over: Any) -> AsyncIterator[Any]:
    """The SDK's client, which tries once."""
    options = bucket.options()
    settings = {
        "read_timeout": 0.5,
        "signature_version": "s3v4",
        "retries": {"total_max_attempts": 1},
        "s3": {"addressing_style": "path"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    client = get_session().create_client(
        "s3",
        region_name=over.pop("region", bucket.region),
        endpoint_url=bucket.endpoint,
        aws_access_key_id=over.pop("access", options.access_key),
        aws_secret_access_key=over.pop("secret", options.secret_key),
        aws_session_token=over.pop("token", options.session_token) or None,
        verify=over.pop("verify", None),
        config=Config(**(settings | over)),
    )
    async with client as s3:
        yield s3


async def code(awaitable: Any) -> str:
    with pytest.raises(ClientError) as caught:
        await awaitable
    return str(caught.value.response["Error"]["Code"])


async def read(s3: Any, **asked: Any) -> bytes:
    answer = await s3.get_object(Bucket="artifacts", **asked)
    async with answer["Body"] as body:
        return bytes(await body.read())


def signed(bucket: Bucket, method: str, path: str, body: bytes = b"", **headers: str) -> dict[str, str]:
    """Headers of a request that no SDK sends."""
    access, key = next(iter(bucket.keys.items()))
    request = AWSRequest(method, bucket.endpoint + path, dict(headers), body)
    S3SigV4Auth(Credentials(access, key.secret), "s3", bucket.region).add_auth(request)
    return dict(request.headers.items())


# --- objects


@pytest.mark.parametrize("key", ["plain", "a b/ü+%2f~*'!()", "blobs/sha256/ab/cd"])
async def test_objects_come_back(key):
    async with Bucket() as bucket, opened(bucket) as s3:
        put = await s3.put_object(
            Bucket="artifacts", Key=key, Body=b"hello", ContentType="a/b", Metadata={"m": "1"}
        )
        assert put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
        assert await read(s3, Key=key) == b"hello"
        head = await s3.head_object(Bucket="artifacts", Key=key)
        assert (head["ContentLength"], head["ContentType"], head["Metadata"]) == (5, "a/b", {"m": "1"})
        await s3.delete_object(Bucket="artifacts", Key=key)
        await s3.delete_object(Bucket="artifacts", Key=key)
        assert await code(s3.get_object(Bucket="artifacts", Key=key)) == "NoSuchKey"
        assert await code(s3.head_object(Bucket="artifacts", Key=key)) == "404"
        assert await code(s3.get_object(Bucket="elsewhere", Key=key)) == "NoSuchBucket"
        assert [c.op for c in bucket.history[:3]] == ["PutObject", "GetObject", "HeadObject"]


async def test_spans_and_conditions():
    async with Bucket() as bucket, opened(bucket) as s3:
        etag = bucket.plant("k", b"0123456789").etag
        assert await read(s3, Key="k", Range="bytes=2-4", IfMatch=etag) == b"234"
        assert await read(s3, Key="k", Range="bytes=7-") == b"789"
        assert await read(s3, Key="k", Range="bytes=-2") == b"89"
        answer = await s3.get_object(Bucket="artifacts", Key="k", Range="bytes=2-100")
        assert answer["ContentRange"] == "bytes 2-9/10"
        assert await code(s3.get_object(Bucket="artifacts", Key="k", Range="bytes=10-")) == "InvalidRange"
        assert await code(s3.get_object(Bucket="artifacts", Key="k", IfMatch='"x"')) == "PreconditionFailed"
        again = s3.put_object(Bucket="artifacts", Key="k", Body=b"new", IfNoneMatch="*")
        assert await code(again) == "PreconditionFailed"
        assert bucket.objects["k"].data == b"0123456789"
        bucket.rule("PutObject", ignore("If-None-Match"))
        await s3.put_object(Bucket="artifacts", Key="k", Body=b"new", IfNoneMatch="*")
        assert await read(s3, Key="k") == b"new"


async def test_copies_are_young_and_never_of_nothing():
    async with Bucket() as bucket, opened(bucket) as s3:
        bucket.plant("k", b"body", age=3600)
        copy = {"Bucket": "artifacts", "CopySource": {"Bucket": "artifacts", "Key": "k"}}
        await s3.copy_object(**copy, Key="q/k")
        assert bucket.objects["q/k"].data == b"body"
        assert await code(s3.copy_object(**copy, Key="k")) == "InvalidRequest"
        await s3.copy_object(**copy, Key="k", MetadataDirective="REPLACE")
        assert bucket.now() - bucket.objects["k"].modified < 1800
        missing = {"Bucket": "artifacts", "CopySource": {"Bucket": "artifacts", "Key": "no"}}
        assert await code(s3.copy_object(**missing, Key="x")) == "NoSuchKey"


async def test_lists_in_pages_with_folders():
    keys = [f"p/{a}/{n}" for a in "ab" for n in range(4)] + ["p/z & <ü>", "other"]
    async with Bucket() as bucket, opened(bucket) as s3:
        for key in keys:
            bucket.plant(key, b"xy")
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = await s3.list_objects_v2(Bucket="artifacts", Prefix="p/", MaxKeys=2, **token)
            found += [item["Key"] for item in page.get("Contents", [])]
            if not page["IsTruncated"]:
                break
            token = {"ContinuationToken": page["NextContinuationToken"]}
        assert found == sorted(keys[:-1])
        page = await s3.list_objects_v2(Bucket="artifacts", Prefix="p/", Delimiter="/")
        assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["p/a/", "p/b/"]
        assert [(item["Key"], item["Size"]) for item in page["Contents"]] == [("p/z & <ü>", 2)]
        later = await s3.list_objects_v2(Bucket="artifacts", StartAfter="p/b/2")
        assert [item["Key"] for item in later["Contents"]] == ["p/b/3", "p/z & <ü>"]


async def test_many_are_deleted_at_once_and_some_are_not():
    async with Bucket() as bucket, opened(bucket) as s3:
        for key in ("a", "b", "c"):
            bucket.plant(key, b"")
        bucket.rule("DeleteObjects.Key", refuse(500, "InternalError"), key="b")
        wanted = {"Objects": [{"Key": key} for key in "abcd"]}
        answer = await s3.delete_objects(Bucket="artifacts", Delete=wanted)
        assert [(e["Key"], e["Code"]) for e in answer["Errors"]] == [("b", "InternalError")]
        assert {d["Key"] for d in answer["Deleted"]} == {"a", "c", "d"}
        assert set(bucket.objects) == {"b"}
        body = b"<Delete><Object><Key>b</Key></Object></Delete>"
        async with aiohttp.ClientSession() as session:  # without a digest it is refused
            headers = signed(bucket, "POST", "/artifacts?delete=", body)
            async with session.post(bucket.endpoint + "/artifacts?delete=", data=body, headers=headers) as no:
                assert (no.status, "Content-MD5" in await no.text()) == (400, True)


# --- uploads in parts


async def _upload(s3: Any, *parts: bytes, key: str = "big") -> tuple[str, list[dict[str, Any]]]:
    upload = (await s3.create_multipart_upload(Bucket="artifacts", Key=key))["UploadId"]
    etags = []
    for number, body in enumerate(parts, 1):
        sent = await s3.upload_part(
            Bucket="artifacts", Key=key, UploadId=upload, PartNumber=number, Body=body
        )
        etags.append({"PartNumber": number, "ETag": sent["ETag"]})
    return upload, etags


def _completed(s3: Any, upload: str, parts: list[dict[str, Any]], **more: Any) -> Any:
    whole = {"Bucket": "artifacts", "Key": "big", "UploadId": upload, "MultipartUpload": {"Parts": parts}}
    return s3.complete_multipart_upload(**whole, **more)


async def test_parts_become_one_object():
    async with Bucket() as bucket, opened(bucket) as s3:
        upload, parts = await _upload(s3, b"a" * 5 * MIB, b"b" * 5 * MIB, b"c")
        assert "big" not in bucket.objects
        listed = await s3.list_parts(Bucket="artifacts", Key="big", UploadId=upload, MaxParts=2)
        assert [(p["PartNumber"], p["Size"]) for p in listed["Parts"]] == [(1, 5 * MIB), (2, 5 * MIB)]
        assert listed["IsTruncated"]
        await _completed(s3, upload, parts)
        body = b"a" * 5 * MIB + b"b" * 5 * MIB + b"c"
        assert await read(s3, Key="big") == body
        assert bucket.objects["big"].sha256 == hashlib.sha256(body).hexdigest()
        assert bucket.objects["big"].etag.endswith('-3"')
        assert await code(_completed(s3, upload, parts)) == "NoSuchUpload"
        assert await code(_completed(s3, "unknown", parts)) == "NoSuchUpload"


async def test_parts_are_checked():
    async with Bucket(**SMALL) as bucket, opened(bucket) as s3:
        upload, parts = await _upload(s3, b"a" * 9, b"b" * 10, b"c")
        assert await code(_completed(s3, upload, parts)) == "EntityTooSmall"
        assert await code(_completed(s3, upload, parts[::-1])) == "InvalidPartOrder"
        wrong = [{**parts[1], "ETag": '"beef"'}]
        assert await code(_completed(s3, upload, wrong)) == "InvalidPart"
        assert await code(_completed(s3, upload, [{**parts[0], "PartNumber": 9}])) == "InvalidPart"
        many = s3.upload_part(Bucket="artifacts", Key="big", UploadId=upload, PartNumber=10001, Body=b"")
        assert await code(many) == "InvalidArgument"
        other = s3.upload_part(Bucket="artifacts", Key="else", UploadId=upload, PartNumber=1, Body=b"")
        assert await code(other) == "NoSuchUpload"
        bucket.plant("big", b"there")
        refused = _completed(s3, upload, parts[1:], IfNoneMatch="*")
        assert await code(refused) == "PreconditionFailed"
        await s3.abort_multipart_upload(Bucket="artifacts", Key="big", UploadId=upload)
        gone = s3.abort_multipart_upload(Bucket="artifacts", Key="big", UploadId=upload)
        assert await code(gone) == "NoSuchUpload"


@pytest.mark.parametrize(("whole", "prefixes"), [(True, ["", "bi", "big"]), (False, ["big"])])
async def test_open_uploads_are_listed_where_the_store_can(whole, prefixes):
    async with Bucket(lists_uploads=whole) as bucket, opened(bucket) as s3:
        upload, _ = await _upload(s3)
        found = []
        for prefix in ("", "bi", "big"):
            answer = await s3.list_multipart_uploads(Bucket="artifacts", Prefix=prefix)
            if [item["UploadId"] for item in answer.get("Uploads", [])] == [upload]:
                found.append(prefix)
        assert found == prefixes


async def test_bodies_that_are_not_kept_are_counted_and_hashed():
    async with Bucket(keep=False, **SMALL) as bucket, opened(bucket) as s3:
        upload, parts = await _upload(s3, b"a" * 20, b"b")
        await _completed(s3, upload, parts)
        assert bucket.objects["big"].size == 21
        assert [part.sha256 for part in bucket.objects["big"].parts] == [
            hashlib.sha256(body).hexdigest() for body in (b"a" * 20, b"b")
        ]
        assert bucket.objects["big"].data is None


# --- who is let in


async def test_only_the_right_key_is_let_in():
    async with Bucket() as bucket:
        cases = [
            ({"secret": "wrong"}, "SignatureDoesNotMatch"),
            ({"access": "nobody"}, "InvalidAccessKeyId"),
            ({"token": "unasked"}, "InvalidToken"),
        ]
        for over, wanted in cases:
            async with opened(bucket, **over) as s3:
                assert await code(s3.put_object(Bucket="artifacts", Key="k", Body=b"x")) == wanted
        async with opened(bucket, region="eu-north-1") as s3:  # told the right one, the SDK uses it
            await s3.put_object(Bucket="artifacts", Key="k", Body=b"x")
        assert [call.code for call in bucket.calls("PutObject")[-2:]] == ["AuthorizationHeaderMalformed", ""]
        bucket.keys = {"session": Key("its-secret", token="its-token")}
        async with opened(bucket) as s3:
            await s3.put_object(Bucket="artifacts", Key="k", Body=b"x")
            bucket.keys["session"].ended = True
            assert await code(s3.get_object(Bucket="artifacts", Key="k")) == "ExpiredToken"
        async with opened(bucket) as s3:
            bucket.keys["session"].ended = False
            bucket.ahead = 3600
            assert await code(s3.get_object(Bucket="artifacts", Key="k")) == "RequestTimeTooSkewed"
        async with (
            aiohttp.ClientSession() as session,
            session.get(bucket.endpoint + "/artifacts/k") as answer,
        ):
            assert answer.status == 403


async def test_what_was_signed_is_what_counts():
    async with Bucket() as bucket, aiohttp.ClientSession() as session:
        headers = signed(bucket, "PUT", "/artifacts/k", b"body")

        async def put(path: str = "/artifacts/k", body: bytes = b"body", **over: str) -> str:
            async with session.put(bucket.endpoint + path, data=body, headers=headers | over) as answer:
                return f"{answer.status} {await answer.text()}"

        assert await put() == "200 "
        assert "SignatureDoesNotMatch" in await put(path="/artifacts/other")
        assert "XAmzContentSHA256Mismatch" in await put(body=b"else")
        assert "not signed" in await put(**{"x-amz-copy-source": "/artifacts/k"})
        assert "BadDigest" in await put(**{"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="})
        assert bucket.objects["k"].data == b"body"
        assert (
            bucket.calls("PutObject")[0].headers["x-amz-content-sha256"]
            == hashlib.sha256(b"body").hexdigest()
        )


async def test_addresses_are_for_one_thing_and_end():
    async with Bucket() as bucket, opened(bucket) as s3, aiohttp.ClientSession() as session:
        bucket.plant("a b", b"hello")
        asked = {
            "Bucket": "artifacts",
            "Key": "a b",
            "ResponseContentDisposition": 'attachment; filename="x"',
        }
        url = await s3.generate_presigned_url("get_object", Params=asked, ExpiresIn=60)

        async def get(at: str, method: str = "GET") -> tuple[int, str]:
            from yarl import URL

            async with session.request(method, URL(at, encoded=True)) as answer:
                return answer.status, answer.headers.get("Content-Disposition", "") + await answer.text()

        assert await get(url) == (200, 'attachment; filename="x"hello')
        assert (await get(url, "DELETE"))[0] == 403
        assert (await get(url.replace("a%20b", "c")))[0] == 403
        bucket.ahead = 61
        status, text = await get(url)
        assert (status, "expired" in text) == (403, True)


async def test_checksums_are_compared_and_given_back(tmp_path):
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("IP:127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    supported = {"request_checksum_calculation": "when_supported"}
    async with Bucket(tls=tls) as bucket, opened(bucket, verify=str(authority.pem), **supported) as s3:
        put = {"Bucket": "artifacts", "Body": b"body" * 1000}
        await s3.put_object(**put, Key="k", ChecksumAlgorithm="SHA256")
        head = await s3.head_object(Bucket="artifacts", Key="k", ChecksumMode="ENABLED")
        assert (
            bytes(await (await s3.get_object(Bucket="artifacts", Key="k"))["Body"].read()) == b"body" * 1000
        )
        packed = bucket.calls("PutObject")[0].headers["x-amz-content-sha256"]
        assert packed in ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", "UNSIGNED-PAYLOAD")
        assert head["ContentLength"] == 4000
        wrong = s3.put_object(**put, Key="k", ChecksumSHA256="A" * 43 + "=")
        assert await code(wrong) == "BadDigest"


async def test_names_before_the_host_are_buckets():
    async with Bucket() as bucket, aiohttp.ClientSession() as session:
        bucket.plant("k/l", b"hello")
        host = f"artifacts.s3.example:{bucket.port}"
        request = AWSRequest("GET", f"http://{host}/k/l", {"Host": host})
        S3SigV4Auth(Credentials("access", bucket.keys["access"].secret), "s3", bucket.region).add_auth(
            request
        )
        async with session.get(bucket.endpoint + "/k/l", headers=dict(request.headers.items())) as answer:
            assert await answer.read() == b"hello"


# --- as it is told


async def test_refusals_hit_those_that_were_meant():
    async with Bucket() as bucket, opened(bucket) as s3:
        bucket.plant("a/1", b"")
        rule = bucket.rule("*Object", refuse(503, "SlowDown", Retry_After="1"), key="a/*", nth=(0, 2))
        codes = []
        for _ in range(4):
            try:
                await s3.get_object(Bucket="artifacts", Key="a/1")
                codes.append("")
            except ClientError as error:
                codes.append(error.response["Error"]["Code"])
        assert codes == ["SlowDown", "", "SlowDown", ""]
        assert rule.hits == 2
        assert [call.status for call in bucket.history] == [503, 200, 503, 200]
        assert await code(s3.get_object(Bucket="artifacts", Key="b")) == "NoSuchKey"
        bucket.heal()
        bucket.rule("PutObject", refuse(409, "ConditionalRequestConflict"))
        late = s3.put_object(Bucket="artifacts", Key="k", Body=b"x" * 100_000)
        assert await code(late) == "ConditionalRequestConflict"
        assert "k" not in bucket.objects


async def test_shares_come_from_the_seed():
    async def met(seed: int) -> list[int]:
        async with Bucket(seed=seed) as bucket, opened(bucket) as s3:
            bucket.rule("HeadObject", refuse(500), share=0.3)
            for _ in range(30):
                with pytest.raises(ClientError):
                    await s3.head_object(Bucket="artifacts", Key="k")
            return [call.status for call in bucket.history]

    first = await met(1)
    assert first == await met(1)
    assert 0 < first.count(500) < 30


async def test_answers_that_lie():
    async with Bucket(**SMALL) as bucket, opened(bucket) as s3:
        bucket.plant("k", b"0123456789")
        bucket.rule("GetObject", ignore("Range"), nth=0)
        answer = await s3.get_object(Bucket="artifacts", Key="k", Range="bytes=5-")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        bucket.rule("GetObject", flip(3), nth=0)
        assert await read(s3, Key="k") == b"0122456789"
        bucket.rule("HeadObject", wrong_etag(), nth=0)
        assert "0000" in (await s3.head_object(Bucket="artifacts", Key="k"))["ETag"]
        bucket.rule("ListObjectsV2", garbage(b"<not xml", "application/xml"), nth=0)
        with pytest.raises(Exception, match="ListObjectsV2"):
            await s3.list_objects_v2(Bucket="artifacts")
        bucket.rule("CompleteMultipartUpload", error_in_200(), nth=0)
        upload, parts = await _upload(s3, b"x")
        with pytest.raises(ClientError):  # this SDK knows of it
            await _completed(s3, upload, parts)
        assert "big" not in bucket.objects


async def test_what_was_done_may_be_unknown():
    async with Bucket() as bucket, opened(bucket) as s3:
        put = {"Bucket": "artifacts", "Body": b"x"}
        bucket.rule("PutObject", executed_then(500), key="a")
        assert await code(s3.put_object(**put, Key="a")) == "InternalError"
        bucket.rule("PutObject", executed_then_hang(), key="b")
        with pytest.raises(ReadTimeoutError):
            await s3.put_object(**put, Key="b")
        bucket.rule("PutObject", executed_then_reset(), key="c")
        with pytest.raises(BotoCoreError):
            await s3.put_object(**put, Key="c")
        assert set(bucket.objects) == {"a", "b", "c"}


@pytest.mark.parametrize("action", [stall(100), reset(100), cut(100), stall(), reset()])
async def test_bodies_end_half_way(action):
    async with Bucket() as bucket, opened(bucket) as s3:
        bucket.plant("k", b"x" * 200_000)
        bucket.rule("GetObject", action)
        got = 0
        with pytest.raises((BotoCoreError, aiohttp.ClientError, asyncio.TimeoutError, OSError)):
            answer = await s3.get_object(Bucket="artifacts", Key="k")
            async for block in answer["Body"].iter_chunks():
                got += len(block)
        assert got == (100 if action.after is not None else 0)


@pytest.mark.parametrize("action", [stall(100_000), reset(100_000), stall(), reset()])
async def test_uploads_end_half_way(action):
    async with Bucket() as bucket, opened(bucket) as s3:
        bucket.rule("PutObject", action)
        with pytest.raises((BotoCoreError, OSError, TimeoutError)):
            # This SDK waits for ever where nothing answers its Expect.
            await asyncio.wait_for(s3.put_object(Bucket="artifacts", Key="k", Body=b"x" * 5 * MIB), 1)
        assert not bucket.objects
        assert bucket.history[0].status == 0
        assert bucket.history[0].size < 5 * MIB


async def test_late_answers_are_answers():
    async with Bucket() as bucket, opened(bucket) as s3:
        bucket.plant("k", b"x")
        rule = bucket.rule("GetObject", delay(0.05))
        assert await read(s3, Key="k") == b"x"
        assert rule.hits == 1


async def test_connections_are_counted():
    async with Bucket() as bucket, aiohttp.ClientSession() as session:
        for _ in range(3):
            headers = signed(bucket, "GET", "/artifacts/k")
            async with session.get(bucket.endpoint + "/artifacts/k", headers=headers) as answer:
                await answer.read()
        assert (bucket.connections, {call.connection for call in bucket.history}) == (1, {1})
        async with session.get(bucket.endpoint + "/", headers={"Connection": "close"}) as answer:
            await answer.read()
        async with session.get(bucket.endpoint + "/") as answer:
            await answer.read()
        assert bucket.connections == 2


async def test_a_bucket_comes_back_on_its_port():
    bucket = Bucket()
    async with bucket:
        bucket.plant("k", b"x")
        port = bucket.port
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(bucket.endpoint)
    await bucket.start(port)
    try:
        async with opened(bucket) as s3:
            assert await read(s3, Key="k") == b"x"
    finally:
        await bucket.stop()
