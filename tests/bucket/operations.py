"""What each operation does to the contents. Conditions, ranges and errors as real buckets have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

from .arriving import checksums
from .contents import Body, Contents, Stored
from .replies import Refusal, Reply, Tree, each, http_date, iso_date, xml_reply

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_KEPT = ("content-type", "content-disposition", "content-encoding", "cache-control")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; header names in lower case, without those that a rule hides."""

    op: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Body
    fails: Callable[[str], str]
    """The code with which DeleteObjects fails for one key, "" for success."""


def operation(method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """The name that the API reference gives to such a request; "" for none of ours."""
    upload = "uploadId" in query
    if key:
        copies = "x-amz-copy-source" in headers
        names = {
            "GET": "ListParts" if upload else "GetObject",
            "HEAD": "HeadObject",
            "PUT": "UploadPart" if upload and not copies else "" if upload else "PutObject",
            "DELETE": "AbortMultipartUpload" if upload else "DeleteObject",
            "POST": "CompleteMultipartUpload" if upload else "",
        }
        if method == "POST" and "uploads" in query:
            return "CreateMultipartUpload"
        return "CopyObject" if method == "PUT" and copies and not upload else names.get(method, "")
    if method == "GET":
        return (
            "ListMultipartUploads" if "uploads" in query else "ListObjectsV2" if "list-type" in query else ""
        )
    return {"HEAD": "HeadBucket", "POST": "DeleteObjects" if "delete" in query else ""}.get(method, "")


def execute(contents: Contents, asked: Asked, *, lists_uploads: bool, bucket: str) -> Reply:
    if asked.op == "ListMultipartUploads":
        return _list_uploads(contents, asked, whole=lists_uploads)
    if asked.op == "CopyObject":
        return _copy(contents, asked, bucket)
    return _OPERATIONS[asked.op](contents, asked)


def _put(contents: Contents, asked: Asked) -> Reply:
    contents.may_write(asked.key, asked.headers)
    stored = contents.put(asked.key, asked.body, _kept(asked))
    return Reply(200, {"ETag": stored.etag, **checksums(asked.headers)})


def _kept(asked: Asked) -> dict[str, str]:
    headers = asked.headers
    own = {n: v for n, v in headers.items() if n in _KEPT or n.startswith("x-amz-meta-")}
    return own | checksums(headers)


def _head(contents: Contents, asked: Asked) -> Reply:
    return _answered(contents.get(asked.key), asked)


def _get(contents: Contents, asked: Asked) -> Reply:
    stored = contents.get(asked.key)
    reply = _answered(stored, asked)
    if reply.status == 304:
        return reply
    if stored.data is None:
        raise Refusal(501, "NotImplemented", "this bucket does not keep bodies")
    match = _RANGE.fullmatch(asked.headers.get("range", ""))
    if match is None:
        reply.body = stored.data
        return reply
    first, last = match.groups()
    start = int(first) if first else max(stored.size - int(last or 0), 0)
    stop = min(int(last) + 1, stored.size) if first and last else stored.size
    if start >= stop:
        raise Refusal(416, "InvalidRange", ActualObjectSize=str(stored.size))
    reply.status, reply.size, reply.body = 206, stop - start, stored.data[start:stop]
    reply.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size}"
    return reply


def _answered(stored: Stored, asked: Asked) -> Reply:
    match = asked.headers.get("if-match")
    if match is not None and match not in ("*", stored.etag, stored.etag.strip('"')):
        raise Refusal(412, "PreconditionFailed", Condition="If-Match")
    headers = {
        "ETag": stored.etag,
        "Last-Modified": http_date(stored.modified),
        "Accept-Ranges": "bytes",
        **{n: v for n, v in stored.headers.items() if not n.startswith("x-amz-checksum-")},
    }
    if asked.headers.get("x-amz-checksum-mode") == "ENABLED":
        headers |= checksums(stored.headers)
    for name, value in asked.query.items():
        if name.startswith("response-"):
            headers = {n: v for n, v in headers.items() if n.lower() != name[9:]} | {name[9:]: value}
    if asked.headers.get("if-none-match") in (stored.etag, "*"):
        return Reply(304, headers)
    return Reply(200, headers, size=stored.size)


def _delete(contents: Contents, asked: Asked) -> Reply:
    if "if-match" in asked.headers:
        contents.may_write(asked.key, {"if-match": asked.headers["if-match"]})
    contents.objects.pop(asked.key, None)
    return Reply(204)


def _delete_many(contents: Contents, asked: Asked) -> Reply:
    digested = any(n == "content-md5" or n.startswith("x-amz-checksum-") for n in asked.headers)
    if not digested:
        raise Refusal(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    tree = _tree(asked.body)
    keys = [_text(item, "Key") for item in tree if _name(item) == "Object"]
    if not 1 <= len(keys) <= 1000:
        raise Refusal(400, "MalformedXML")
    answer: Tree = []
    for key in keys:
        if code := asked.fails(key):
            answer.append(("Error", [("Key", key), ("Code", code), ("Message", code)]))
            continue
        contents.objects.pop(key, None)
        if _text(tree, "Quiet") != "true":
            answer.append(("Deleted", [("Key", key)]))
    return xml_reply("DeleteResult", answer)


def _copy(contents: Contents, asked: Asked, bucket: str) -> Reply:
    source = unquote(asked.headers["x-amz-copy-source"]).removeprefix("/")
    place, _, key = source.partition("/")
    if place != bucket:
        raise Refusal(404, "NoSuchBucket", BucketName=place)
    stored = contents.get(key)
    replaces = asked.headers.get("x-amz-metadata-directive") == "REPLACE"
    if key == asked.key and not replaces:
        raise Refusal(400, "InvalidRequest", "This copy request is illegal: nothing would change")
    match = asked.headers.get("x-amz-copy-source-if-match")
    if match is not None and match.strip('"') != stored.etag.strip('"'):
        raise Refusal(412, "PreconditionFailed", Condition="x-amz-copy-source-If-Match")
    contents.may_write(asked.key, asked.headers)
    headers = _kept(asked) if replaces else dict(stored.headers)
    copied = Stored(
        stored.size, stored.etag, stored.sha256, stored.data, contents.now(), headers, stored.parts
    )
    contents.objects[asked.key] = copied
    tree: Tree = [("LastModified", iso_date(copied.modified)), ("ETag", copied.etag)]
    return xml_reply("CopyObjectResult", tree)


def _create(contents: Contents, asked: Asked) -> Reply:
    upload = contents.create(asked.key, _kept(asked))
    return xml_reply("InitiateMultipartUploadResult", [("Key", asked.key), ("UploadId", upload.id)])


def _part(contents: Contents, asked: Asked) -> Reply:
    number = int(asked.query.get("partNumber", "0"))
    etag = contents.part(asked.query["uploadId"], asked.key, number, asked.body)
    return Reply(200, {"ETag": etag, **checksums(asked.headers)})


def _complete(contents: Contents, asked: Asked) -> Reply:
    tree = _tree(asked.body)
    wanted = [(int(_text(p, "PartNumber")), _text(p, "ETag")) for p in tree if _name(p) == "Part"]
    stored = contents.complete(asked.query["uploadId"], asked.key, wanted, asked.headers)
    return xml_reply("CompleteMultipartUploadResult", [("Key", asked.key), ("ETag", stored.etag)])


def _abort(contents: Contents, asked: Asked) -> Reply:
    contents.abort(asked.query["uploadId"], asked.key)
    return Reply(204)


def _list_parts(contents: Contents, asked: Asked) -> Reply:
    upload = contents.upload(asked.query["uploadId"], asked.key)
    after, most = int(asked.query.get("part-number-marker", "0")), int(asked.query.get("max-parts", "1000"))
    numbers = sorted(number for number in upload.parts if number > after)
    page = numbers[:most]
    parts = [
        [("PartNumber", n), ("ETag", f'"{upload.parts[n].md5}"'), ("Size", upload.parts[n].size)]
        for n in page
    ]
    tree: Tree = [("Key", asked.key), ("UploadId", upload.id), *each("Part", parts)]
    tree += [("IsTruncated", "true" if len(numbers) > most else "false")]
    if len(numbers) > most:
        tree += [("NextPartNumberMarker", page[-1])]
    return xml_reply("ListPartsResult", tree)


def _list_uploads(contents: Contents, asked: Asked, *, whole: bool) -> Reply:
    """Not `whole`: only those of the very key that is asked for."""
    prefix, encode = asked.query.get("prefix", ""), _encoder(asked)
    after = (asked.query.get("key-marker", ""), asked.query.get("upload-id-marker", ""))
    most = int(asked.query.get("max-uploads", "1000"))
    found = sorted(
        (u.key, u.id, u.started)
        for u in contents.uploads.values()
        if (u.key.startswith(prefix) if whole else u.key == prefix) and (u.key, u.id) > after
    )
    page = found[:most]
    uploads: list[Tree] = [
        [("Key", encode(key)), ("UploadId", name), ("Initiated", iso_date(at))] for key, name, at in page
    ]
    tree: Tree = [("Prefix", encode(prefix)), *_encoding(asked), *each("Upload", uploads)]
    tree += [("IsTruncated", "true" if len(found) > most else "false")]
    if len(found) > most:
        tree += [("NextKeyMarker", encode(page[-1][0])), ("NextUploadIdMarker", page[-1][1])]
    return xml_reply("ListMultipartUploadsResult", tree)


def _list(contents: Contents, asked: Asked) -> Reply:
    query, encode = asked.query, _encoder(asked)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    token = query.get("continuation-token", "")
    after = bytes.fromhex(token).decode() if token else query.get("start-after", "")
    most = min(int(query.get("max-keys", "1000")), 1000)
    keys, folders, last = contents.listing(prefix, delimiter, after, most)
    rows: list[Tree] = [
        [("Key", encode(k)), ("LastModified", iso_date(o.modified)), ("ETag", o.etag), ("Size", o.size)]
        for k, o in keys
    ]
    tree: Tree = [("Prefix", encode(prefix)), ("KeyCount", len(keys) + len(folders)), ("MaxKeys", most)]
    tree += [*_encoding(asked), ("IsTruncated", "true" if last else "false")]
    if last:
        tree += [("NextContinuationToken", last.encode().hex())]
    tree += each("Contents", rows)
    tree += each("CommonPrefixes", ([("Prefix", encode(folder))] for folder in folders))
    return xml_reply("ListBucketResult", tree)


def _encoder(asked: Asked) -> Callable[[str], str]:
    return quote if asked.query.get("encoding-type") == "url" else str


def _encoding(asked: Asked) -> Tree:
    return [("EncodingType", "url")] if asked.query.get("encoding-type") == "url" else []


def _tree(body: Body) -> ET.Element:
    try:
        return ET.fromstring(body.data or b"")
    except ET.ParseError:
        raise Refusal(400, "MalformedXML") from None


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element, name: str) -> str:
    return next((child.text or "" for child in element if _name(child) == name), "")


_OPERATIONS: dict[str, Callable[[Contents, Asked], Reply]] = {
    "PutObject": _put,
    "GetObject": _get,
    "HeadObject": _head,
    "DeleteObject": _delete,
    "DeleteObjects": _delete_many,
    "CreateMultipartUpload": _create,
    "UploadPart": _part,
    "CompleteMultipartUpload": _complete,
    "AbortMultipartUpload": _abort,
    "ListParts": _list_parts,
    "ListObjectsV2": _list,
    "HeadBucket": lambda contents, asked: Reply(200),
}
