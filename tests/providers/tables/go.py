"""Paths of the module proxy protocol, as the go command and strangers ask for them."""

from __future__ import annotations

from artifactproxy.errors import BadPath, NotServed
from artifactproxy.model import Ask, Route
from artifactproxy.providers._base import Site
from tests.providers.cases import ARTIFACT, INDEX, Sample, case

SITE = Site(
    "mods",
    ("https://proxy.go.example/base/", "http://127.0.0.1:8081/"),
    file_hosts=("sums.corp.example", "http://plain.example:8082"),
)
ALSO_ALLOWED = ("https://sum.go.example", "https://other.go.example")
"""Checksum databases that share the parent domain of the first upstream."""

BASE = "https://proxy.go.example/base/"
DB = "sumdb/sum.go.example"
SOUP = "soup.example/pot"
LOOKUP = Ask("mods", f"{DB}/lookup/{SOUP}@v1.2.0")
TEXT = "text/plain; charset=utf-8"


def refused(description: str, *paths: str) -> list[object]:
    return [case(f"{description}: {path}", path, NotServed) for path in paths]


CASES = [
    # lists and descriptions
    case(
        "the list",
        f"{SOUP}/@v/list",
        INDEX,
        f"{BASE}{SOUP}/@v/list",
        ttl=60.0,
        negative_ttl=60.0,
        media_type=TEXT,
        rendered=False,
        teaches=False,
        expects_html=False,
        purl="pkg:golang/soup.example/pot",
        sources=(f"{BASE}{SOUP}/@v/list", f"http://127.0.0.1:8081/{SOUP}/@v/list"),
    ),
    case("the latest", f"{SOUP}/@latest", INDEX, ttl=60.0, media_type="application/json", teaches=True),
    case(
        "a description of a version",
        f"{SOUP}/@v/v1.2.0.info",
        INDEX,
        f"{BASE}{SOUP}/@v/v1.2.0.info",
        ttl=7 * 86400.0,
        negative_ttl=60.0,
        media_type="application/json",
        teaches=True,
        teachers=(),
        purl="pkg:golang/soup.example/pot@v1.2.0",
    ),
    case("of a branch", f"{SOUP}/@v/main.info", INDEX, ttl=60.0, purl="pkg:golang/soup.example/pot"),
    case("of a prefix", f"{SOUP}/@v/v1.info", INDEX, ttl=60.0),
    case("of a commit", f"{SOUP}/@v/0123456789ab.info", INDEX, ttl=60.0),
    case("of a tag with build metadata", f"{SOUP}/@v/v1.2.0+meta.info", INDEX, ttl=60.0),
    case("of a version of another major", f"{SOUP}/@v/v2.0.0.info", INDEX, ttl=60.0),
    case("of a branch with dots", f"{SOUP}/@v/release.1.info.info", INDEX, ttl=60.0),
    case("of a branch with capitals", f"{SOUP}/@v/!main.info", INDEX, key_path=f"{SOUP}/@v/!main.info"),
    # files
    case(
        "a go.mod",
        f"{SOUP}/@v/v1.2.0.mod",
        ARTIFACT,
        f"{BASE}{SOUP}/@v/v1.2.0.mod",
        media_type=TEXT,
        negative_ttl=60.0,
        teachers=(LOOKUP,),
        taught_if_possible=True,
        expects_html=False,
        max_bytes=16 * 2**20,
        purl="pkg:golang/soup.example/pot@v1.2.0",
    ),
    case(
        "a zip",
        f"{SOUP}/@v/v1.2.0.zip",
        ARTIFACT,
        f"{BASE}{SOUP}/@v/v1.2.0.zip",
        media_type="application/zip",
        teachers=(LOOKUP,),
        taught_if_possible=True,
        filename="soup.example/pot@v1.2.0.zip",
        max_bytes=500 * 2**20,
    ),
    case("a pre-release", f"{SOUP}/@v/v1.2.0-rc.1.zip", ARTIFACT),
    case("a pre-release with capitals", f"{SOUP}/@v/v1.2.0-!r!c1.mod", ARTIFACT),
    case("a pseudo-version", f"{SOUP}/@v/v0.0.0-20191109021931-daa7c04131f5.zip", ARTIFACT),
    case(
        "an incompatible version has a literal plus",
        f"{SOUP}/@v/v2.0.0+incompatible.zip",
        ARTIFACT,
        f"{BASE}{SOUP}/@v/v2.0.0+incompatible.zip",
        key_path=f"{SOUP}/@v/v2.0.0+incompatible.zip",
        purl="pkg:golang/soup.example/pot@v2.0.0%2Bincompatible",
    ),
    case(
        "an encoded plus is the same",
        f"{SOUP}/@v/v2.0.0%2Bincompatible.zip",
        ARTIFACT,
        f"{BASE}{SOUP}/@v/v2.0.0+incompatible.zip",
        key_path=f"{SOUP}/@v/v2.0.0+incompatible.zip",
    ),
    case(
        "upper case is written with a mark",
        "code.example/!burnt!sushi/toml/@v/v1.0.0.zip",
        ARTIFACT,
        f"{BASE}code.example/!burnt!sushi/toml/@v/v1.0.0.zip",
        key_path="code.example/!burnt!sushi/toml/@v/v1.0.0.zip",
        filename="code.example/BurntSushi/toml@v1.0.0.zip",
        purl="pkg:golang/code.example/burntsushi/toml@v1.0.0",
        teachers=(Ask("mods", f"{DB}/lookup/code.example/!burnt!sushi/toml@v1.0.0"),),
    ),
    case(
        "an encoded mark is the same, as the go command sends it",
        "code.example/%21burnt%21sushi/toml/@v/v1.0.0.zip",
        ARTIFACT,
        f"{BASE}code.example/!burnt!sushi/toml/@v/v1.0.0.zip",
        key_path="code.example/!burnt!sushi/toml/@v/v1.0.0.zip",
    ),
    case("an encoded at sign too", f"{SOUP}/%40v/list", INDEX, key_path=f"{SOUP}/@v/list"),
    case("a query changes nothing", f"{SOUP}/@v/list", INDEX, query="a=b", key_path=f"{SOUP}/@v/list"),
    case("a toolchain", "golang.example/toolchain/@v/v0.0.1-go1.24.0.linux-amd64.zip", ARTIFACT),
    case("a module of a later major", f"{SOUP}/v3/@v/v3.1.0.info", INDEX, ttl=7 * 86400.0),
    case("a module with its major behind a dot", "gopkg.in/soup.v2/@v/v2.1.0.info", INDEX, ttl=7 * 86400.0),
    case("the older kind of those", "gopkg.in/soup.v1/@v/v0.0.0-20161208181325-20d25e280405.info", INDEX),
    *refused("files have full versions", *(f"{SOUP}/@v/{v}.zip" for v in ("main", "v1", "v1.2", "v01.2.0"))),
    *refused("no such version", f"{SOUP}/@v/v1.2.0+meta.mod", f"{SOUP}/@v/v1.2.0-01.mod", f"{SOUP}/@v/1.2.0.mod"),
    *refused("no such file", f"{SOUP}/@v/v1.2.0.ziphash", f"{SOUP}/@v/v1.2.0", f"{SOUP}/@v/", f"{SOUP}/@v/.info"),
    *refused("no such path", SOUP, f"{SOUP}/", f"{SOUP}/@v", f"{SOUP}/@v/list/", f"{SOUP}/@latest/", "", "@latest"),
    *refused("no such query", f"{SOUP}/@v/a*b.info", f"{SOUP}/@v/nul.info", f"{SOUP}/@v/a..info", f"{SOUP}/@v/caf%C3%A9.info"),
    # module paths that cannot be
    *refused("raw upper case", "code.example/BurntSushi/toml/@v/list", f"{SOUP}/@v/v1.0.0-RC1.zip"),
    *refused("a bad mark", "code.example/!!x/@v/list", "code.example/a!/@v/list", "code.example/!1/@v/list"),
    *refused("no dot in the first element", "soup/pot/@v/list", "example/@latest"),
    *refused("a bad first element", "-soup.example/pot/@v/list", "soup_pot.example/pot/@v/list", "!soup.example/a/@v/list"),
    *refused("a bad dot", "soup.example/.pot/@v/list", "soup.example/pot./@v/list", ".example/pot/@v/list"),
    *refused("a bad sign", "soup.example/p+t/@v/list", "soup.example/p%20t/@v/list", "soup.example/p%C3%B6t/@v/list"),
    *refused("a device of Windows", "soup.example/con/@v/list", "soup.example/aux.go/@v/list", "soup.example/!lpt1/@v/list"),
    *refused("a short name of Windows", "soup.example/abc~1/@v/list", "soup.example/abc~12.go/@v/list"),
    *refused("a bad major", f"{SOUP}/v1/@v/list", f"{SOUP}/v0/@v/list", f"{SOUP}/v02/@v/list", f"{SOUP}/v2.1/@v/list"),
    *refused("no major behind a dot", "gopkg.in/soup/@v/list", "gopkg.in/soup.v01/@v/list"),
    *refused("longer than a key may be", f"soup.example/{'a' * 2100}/@v/list"),
    case("a climbing path is refused by the door's rule", "soup.example/../x/@v/list", BadPath),
    case("an empty element is as well", "soup.example//x/@v/list", BadPath),
    case("an encoded slash is one more", f"{SOUP}/@v/a%2Fb.info", BadPath),
    case("the parent of those with a major behind a dot is probed", "gopkg.in/@v/list", INDEX),
    case("a tilde before letters", "soup.example/abc~x/@v/list", INDEX),
    # the checksum database
    case("supported", f"{DB}/supported", 200, body=b""),
    case(
        "the signed tree",
        f"{DB}/latest",
        INDEX,
        f"{BASE}{DB}/latest",
        ttl=3.0,
        negative_ttl=0.0,
        teaches=True,
        foreign=False,
        absent_everywhere=True,
        sources=(f"{BASE}{DB}/latest", f"http://127.0.0.1:8081/{DB}/latest", "https://sum.go.example/latest"),
    ),
    case(
        "a record",
        LOOKUP.path,
        INDEX,
        f"{BASE}{LOOKUP.path}",
        negative_ttl=0.0,
        teaches=True,
        absent_everywhere=True,
        purl="pkg:golang/soup.example/pot@v1.2.0",
    ),
    case("a record of an escaped name", f"{DB}/lookup/code.example/!a/b@v2.0.0+incompatible", INDEX),
    case(
        "a tile",
        f"{DB}/tile/8/0/x001/x234/067",
        ARTIFACT,
        f"{BASE}{DB}/tile/8/0/x001/x234/067",
        negative_ttl=0.0,
        teachers=(),
        media_type="application/octet-stream",
    ),
    case("a tile that is not full", f"{DB}/tile/8/1/003.p/244", ARTIFACT),
    case("a tile of data", f"{DB}/tile/8/data/000", ARTIFACT),
    *refused(
        "no such tile",
        *(
            f"{DB}/tile/{t}"
            for t in ("8/0/x000/001", "8/0/1", "8/0/001/", "8/0/001.p/256", "8/0/001.p/0", "0/0/001", "31/0/001", "8/64/001", "8/x/001", "8/0/x001", "8/0/001/002")
        ),
    ),
    *refused(
        "no such record",
        *(
            f"{DB}/lookup/{r}"
            for r in ("", SOUP, f"{SOUP}@main", f"{SOUP}@v1.2", "Soup.example/a@v1.0.0", "a@v1.0.0", f"{SOUP}@v1.2.0@v1.2.0")
        ),
    ),
    *refused("no such path of a database", DB, f"{DB}/", f"{DB}/other", f"{DB}/supported/", "sumdb/", "sumdb"),
    case("a neighbour in the same domain", "sumdb/other.go.example/supported", 200),
    case("a listed database", "sumdb/sums.corp.example/latest", INDEX),
    case(
        "a listed one with its own scheme",
        "sumdb/plain.example:8082/latest",
        INDEX,
        sources=(
            f"{BASE}sumdb/plain.example:8082/latest",
            "http://127.0.0.1:8081/sumdb/plain.example:8082/latest",
            "http://plain.example:8082/latest",
        ),
    ),
    *refused(
        "a database of others",
        *(
            f"sumdb/{name}/supported"
            for name in ("sum.example", "go.example", "sum.evil.example", "a.b.go.example", "127.0.0.1", "127.0.0.1:8081", "sum.go.example:8443", ".go.example", "Sum.go.example", "x%40sum.go.example")
        ),
    ),
]  # fmt: skip

SAMPLES = [
    Sample("info", f"{SOUP}/@v/v1.2.0.info", f"{BASE}{SOUP}/@v/v1.2.0.info", "info.in"),
    Sample("branch", f"{SOUP}/@v/main.info", f"{BASE}{SOUP}/@v/main.info", "branch.in"),
    Sample("latest", "code.example/!soup/@latest", f"{BASE}code.example/!soup/@latest", "latest.in"),
    Sample("record", LOOKUP.path, f"{BASE}{LOOKUP.path}", "record.in"),
]


def links(route: Route, body: bytes, base: str) -> list[str]:
    """Nothing that this provider hands on holds an address of a file."""
    del route, body, base
    return []
