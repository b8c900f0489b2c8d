"""Paths of a plain file server, with and without the administrator's rules."""

from __future__ import annotations

from artifactproxy.errors import BadPath, Blocked
from artifactproxy.providers._base import Site
from tests.providers.cases import ARTIFACT, INDEX, case

SITE = Site(
    "tools",
    ("https://downloads.example/files/", "https://mirror.example/"),
    immutable=("*.sha256", "pinned/*.json", "v1.2/latest/*"),
    mutable=("nightly.tar.gz", "channel/*", "pinned/old.json"),
    refuse=("*.exe", "private/*", "pinned/secret.json"),
)

CASES = [
    case(
        "an archive is immutable",
        "tool/tool-1.0.tar.gz",
        ARTIFACT,
        "https://downloads.example/files/tool/tool-1.0.tar.gz",
        sources=("https://downloads.example/files/tool/tool-1.0.tar.gz", "https://mirror.example/tool/tool-1.0.tar.gz"),
        ttl=None,
        negative_ttl=60.0,
        expects_html=False,
        filename="tool-1.0.tar.gz",
        media_type="application/gzip",
        foreign=False,
        rendered=False,
    ),
    case("so is a file without an extension", "tool/1.0/tool-linux", ARTIFACT, media_type="application/octet-stream", expects_html=True),
    case("an installer image", "os/disk-1.0.ISO", ARTIFACT, expects_html=False, media_type="application/x-iso9660-image"),
    case("a directory is mutable", "tool/", INDEX, "https://downloads.example/files/tool/", ttl=300.0, filename=""),
    case("the root is a directory", "", INDEX, "https://downloads.example/files/"),
    case("latest is mutable", "tool/latest/tool.tar.gz", INDEX, ttl=300.0, expects_html=False),
    case("latest within a name is no segment", "tool/latest-1.0.tar.gz", ARTIFACT),
    case("JSON", "index.json", INDEX, media_type="application/json"),
    case("JSON in capitals is no web page", "INDEX.JSON", INDEX, media_type="application/json", expects_html=False),
    case("XML", "feed.xml", INDEX, media_type="application/xml"),
    case("text may be a web page", "notes.txt", INDEX, expects_html=True, media_type="text/plain; charset=utf-8"),
    case("YAML", "index.yaml", INDEX),
    case("HTML", "index.html", INDEX, media_type="text/html; charset=utf-8"),
    case("a signature", "tool-1.0.tar.gz.asc", INDEX, media_type="text/plain; charset=utf-8"),
    case("checksums", "tool-1.0.tar.gz.sha512", INDEX),
    case("an immutable rule without a slash: the last segment", "a/b/tool.sha256", ARTIFACT),
    case("an immutable rule with a slash: the whole path", "pinned/index.json", ARTIFACT),
    case("a rule with a slash does not match elsewhere", "elsewhere/pinned/index.json", INDEX),
    case("an immutable rule wins over latest", "v1.2/latest/tool.zip", ARTIFACT),
    case("immutable comes before mutable", "pinned/old.json", ARTIFACT),
    case("a mutable rule", "a/nightly.tar.gz", INDEX, expects_html=False),
    case("a mutable rule for a tree", "channel/a/b/c.zip", INDEX),
    case("a refusal", "a/setup.exe", Blocked),
    case("a refusal, spelled with an escape", "a/setup.%65xe", Blocked),
    case("a refused tree", "private/a.zip", Blocked),
    case("a refusal comes first", "pinned/secret.json", Blocked),
    case("the query is kept", "get", ARTIFACT, "https://downloads.example/files/get?file=a&v=2", query="file=a&v=2", key_path="get?file=a&v=2"),
    case("a plus stays a plus for S3", "g++-1.0.tar.gz", ARTIFACT, "https://downloads.example/files/g%2B%2B-1.0.tar.gz", key_path="g++-1.0.tar.gz"),
    case("a space stays encoded", "a%20b.zip", ARTIFACT, "https://downloads.example/files/a%20b.zip", filename="a b.zip"),
    case("one key for two spellings", "%74ool%7e.zip", ARTIFACT, key_path="tool~.zip"),
    case("dot dot", "a/../b", BadPath),
    case("encoded dot dot", "a/%2e%2e/b", BadPath),
    case("a fragment in the query", "a", BadPath, query="x#y"),
    case("too long for a key", "a" * 2100, BadPath),
]  # fmt: skip
