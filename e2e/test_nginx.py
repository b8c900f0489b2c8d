"""Behind nginx with TLS, on a host of its own and under a path, configured as docs/nginx.md says."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from e2e.clients import Pip, Uv
from e2e.conftest import StartProxy
from e2e.nginx import Nginx, documented, free_port
from e2e.node_clients import Npm
from e2e.node_registry import NodeRegistry
from e2e.registry import Registry
from e2e.servers import Forwarder, Proxy
from tests.chaos.certs import Authority
from tests.needs import needs

pytestmark = needs("nginx", "openssl")

PROJECT = "idna"
SCOPED = "@proxy-test/scoped"
OWN, BELOW = documented()
SHORT = BELOW.replace("http://127.0.0.1:8080$artifacts_target", "http://127.0.0.1:8080/")
TRUSTING = "trusted_proxies: [127.0.0.1/32]\n"
LARGE = hashlib.shake_256(b"large").digest(30_000_000)

Front = tuple[Nginx, str]


class _Files(BaseHTTPRequestHandler):
    """`/large.bin` is whole, `/cut.bin` ends midway, `/chunked.json` tells no length."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = len(LARGE)
        if self.path == "/chunked.json":
            self._head(("Transfer-Encoding", "chunked"))
            for at in range(0, 1_000_000, 100_000):
                self.wfile.write(b"186a0\r\n%b\r\n" % LARGE[at : at + 100_000])
            self.wfile.write(b"0\r\n\r\n")
        elif self.path in ("/large.bin", "/cut.bin"):
            self._head(("Content-Length", str(size)))
            self.wfile.write(LARGE if self.path == "/large.bin" else LARGE[: size // 2])
            self.close_connection = self.path == "/cut.bin"
        else:
            self.send_error(404)

    def _head(self, *fields: tuple[str, str]) -> None:
        self.send_response(200)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def repositories(files: str, node_registry: NodeRegistry) -> str:
    """Further repositories beside the public one."""
    node_registry.publish(SCOPED, "1.0.0")
    limits = "{retry_base: 1ms, resumes: 1, retries: 0, breaker_failures: 1000}"
    return (
        f"  files: {{provider: generic, upstream: '{files}', limits: {limits}}}\n"
        f"  npm: {{provider: npm, upstream: '{node_registry.url}'}}\n"
    )


@pytest.fixture(scope="module")
def proxy(start_proxy: StartProxy, forwarder: Forwarder, repositories: str) -> Proxy:
    return start_proxy("trusting", forwarder=forwarder, remote=repositories, top=TRUSTING)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority.make(folder)


@pytest.fixture(scope="module")
def start_nginx(folder: Path, authority: Authority) -> Iterator[Callable[..., Nginx]]:
    with ExitStack() as stack:

        def start(name: str, text: str, listen: str) -> Nginx:
            nginx = Nginx(folder / f"nginx-{name}", text, listen, authority)
            stack.callback(nginx.stop)
            return nginx

        yield start


@pytest.fixture(scope="module")
def own(start_nginx: Callable[..., Nginx], proxy: Proxy) -> Front:
    return start_nginx("own", OWN, proxy.listen), ""


@pytest.fixture(scope="module")
def below(start_nginx: Callable[..., Nginx], proxy: Proxy) -> Front:
    return start_nginx("below", BELOW, proxy.listen), "/artifacts"


@pytest.fixture(scope="module")
def short(start_nginx: Callable[..., Nginx], proxy: Proxy) -> Front:
    return start_nginx("short", SHORT, proxy.listen), "/artifacts"


@pytest.fixture(params=["own", "below", "short"])
def front(request: pytest.FixtureRequest) -> Front:
    found: Front = request.getfixturevalue(request.param)
    return found


# --- clients --------------------------------------------------------------------------------


@pytest.fixture(params=["", "/artifactory/api/pypi"], ids=["plain", "alias"])
def index(request: pytest.FixtureRequest, front: Front) -> str:
    nginx, prefix = front
    return f"{nginx.url}{prefix}{request.param}/pypi/simple/"


def test_pip_installs_through_it(front: Front, index: str, pip: Pip, proxy: Proxy) -> None:
    with proxy.watch() as seen:
        python = pip.install("--cert", front[0].cafile, PROJECT, index=index)
    assert PROJECT in pip.installed(python)
    assert seen.files()
    assert seen.errors() == []


def test_uv_installs_through_it(front: Front, index: str, uv: Uv, proxy: Proxy) -> None:
    python = uv.venv()
    with proxy.watch() as seen:
        uv(
            "pip", "install", "--python", str(python), PROJECT,
            index=index, SSL_CERT_FILE=front[0].cafile,
        )  # fmt: skip
    assert PROJECT in uv.installed(python)
    assert seen.files()


@needs("npm")
def test_npm_installs_a_scoped_package_through_it(front: Front, npm: Npm, proxy: Proxy) -> None:
    nginx, prefix = front
    with proxy.watch() as seen:
        project = npm.install(
            {SCOPED: "1.0.0"}, registry=f"{nginx.url}{prefix}/npm/", npm_config_cafile=nginx.cafile
        )
    lock = json.loads((project / "package-lock.json").read_text())
    resolved = lock["packages"][f"node_modules/{SCOPED}"]["resolved"]
    assert resolved.startswith(f"{nginx.url}{prefix}/npm/{SCOPED}/-/")
    assert seen.errors() == []


def test_an_audit_larger_than_nginx_takes_by_itself(front: Front, node_registry: NodeRegistry) -> None:
    nginx, prefix = front
    asked = json.dumps({f"package-{n}": ["1.0.0"] for n in range(80_000)}).encode()
    assert len(asked) > 2_000_000
    answer = nginx.get(
        f"{prefix}/npm/-/npm/v1/security/advisories/bulk",
        method="POST",
        body=asked,
        Content_Type="application/json",
    )
    assert (answer.status, json.loads(answer.body)) == (200, {})
    assert node_registry.posts[-1].body == asked


# --- addresses ------------------------------------------------------------------------------


def test_setup_tells_the_outer_address(front: Front) -> None:
    nginx, prefix = front
    outer = f"{nginx.url}{prefix}"
    assert f"{outer}/setup/pip" in nginx.get(f"{prefix}/setup").body.decode().split()
    text = nginx.get(f"{prefix}/setup/pip").body.decode()
    assert f"{outer}/pypi/simple" in text
    assert "trusted-host" not in text


def test_what_clients_claim_is_not_believed(front: Front, proxy: Proxy) -> None:
    nginx, prefix = front
    claimed: dict[str, Any] = {
        "Forwarded": "for=192.0.2.1;host=evil.example;proto=http",
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Proto": "http",
        "X_Forwarded_Port": "1",
        "X_Forwarded_Prefix": "/evil",
        "X_Forwarded_For": "192.0.2.1",
    }
    with proxy.watch() as seen:
        text = nginx.get(f"{prefix}/setup/pip", **claimed).body.decode()
        nginx.get(f"{prefix}/files/none.json", **claimed)
    assert f"{nginx.url}{prefix}/pypi/simple" in text
    assert "evil" not in text
    assert {row["caller"] for row in seen.requests()} == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["own", "below"])
def test_paths_arrive_as_they_were_written(name: str, request: pytest.FixtureRequest, proxy: Proxy) -> None:
    nginx, prefix = request.getfixturevalue(name)
    written = ["npm/@proxy-test%2fscoped", "npm/@proxy-test%2Fscoped", "npm/@proxy-test/scoped"]
    with proxy.watch() as seen:
        statuses = [nginx.get(f"{prefix}/{path}").status for path in written]
    assert statuses == [200, 200, 200]
    assert [f"npm/{row['path']}" for row in seen.requests()] == written


def test_the_short_form_decodes_and_means_the_same(short: Front, proxy: Proxy) -> None:
    nginx, prefix = short
    with proxy.watch() as seen:
        bodies = {nginx.get(f"{prefix}/npm/@proxy-test{slash}scoped").body for slash in ("%2f", "%2F", "/")}
    assert len(bodies) == 1
    assert {row["path"] for row in seen.requests()} == {"@proxy-test/scoped"}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/%61rtifacts/pypi/simple/", 400),
        ("/artifacts/pypi/%2e%2e/livez", 400),
        ("/artifacts/pypi/a%00", 400),
        ("/artifacts/files/a%5cb", 400),
        ("/artifacts/../livez", 404),
        ("/artifacts/livez", 200),
    ],
)
def test_tricks_with_the_prefix(below: Front, target: str, status: int) -> None:
    assert below[0].get(target).status == status


def test_redirects_stay_behind_the_prefix(front: Front) -> None:
    nginx, prefix = front
    answer = nginx.get(f"{prefix}/pypi/simple/{PROJECT}")
    assert answer.status == 301
    assert not answer.headers["Location"].startswith(("/", "http"))


# --- bodies ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old(start_nginx: Callable[..., Nginx], proxy: Proxy) -> Nginx:
    """As nginx speaks when nothing is said: HTTP/1.0, and buffering on disk."""
    text = OWN.replace("proxy_http_version 1.1;", "").replace("proxy_max_temp_file_size 0;", "")
    return start_nginx("old", text, proxy.listen)


@pytest.fixture(params=["own", "below", "old"])
def any_nginx(request: pytest.FixtureRequest) -> Front:
    found: Front | Nginx = request.getfixturevalue(request.param)
    return found if isinstance(found, tuple) else (found, "")


def test_a_large_file_arrives_whole_and_in_parts(any_nginx: Front, proxy: Proxy) -> None:
    nginx, prefix = any_nginx
    for _ in range(2):
        answer = nginx.get(f"{prefix}/files/large.bin")
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(LARGE)))
        assert answer.body == LARGE
    part = nginx.get(f"{prefix}/files/large.bin", Range="bytes=29000000-29999999")
    assert (part.status, part.body) == (206, LARGE[29_000_000:])
    same = nginx.get(f"{prefix}/files/large.bin", If_None_Match=answer.headers["ETag"])
    assert same.status == 304
    head = nginx.get(f"{prefix}/files/large.bin", method="HEAD")
    assert (head.headers["Content-Length"], head.body) == (str(len(LARGE)), b"")


def test_a_document_without_a_length_arrives_whole(any_nginx: Front) -> None:
    nginx, prefix = any_nginx
    assert nginx.get(f"{prefix}/files/chunked.json", Cache_Control="no-cache").body == LARGE[:1_000_000]


def test_a_transfer_that_breaks_is_never_whole(any_nginx: Front) -> None:
    nginx, prefix = any_nginx
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        nginx.get(f"{prefix}/files/cut.bin")


# --- whose word counts ----------------------------------------------------------------------


FORWARDED = {"X_Forwarded_Host": "c.example", "X_Forwarded_Proto": "https", "X_Forwarded_Prefix": "/x"}


def test_forwarded_headers_count_only_from_trusted_proxies(
    start_proxy: StartProxy, proxy: Proxy, registry: Registry
) -> None:
    del registry
    assert "https://c.example/x/pypi/simple" in proxy.get("setup/pip", **FORWARDED).body.decode()
    distrusting = start_proxy("distrusting")
    for headers in (FORWARDED, {"Forwarded": "host=c.example;proto=https"}):
        text = distrusting.get("setup/pip", **headers).body.decode()
        assert f"{distrusting.url}/pypi/simple" in text
        assert "c.example" not in text
    elsewhere = start_proxy("elsewhere", top="trusted_proxies: [192.0.2.0/24]\n")
    assert "c.example" not in elsewhere.get("setup/pip", **FORWARDED).body.decode()


def test_the_public_url_wins_and_hosts_can_be_listed(
    start_proxy: StartProxy, start_nginx: Callable[..., Nginx]
) -> None:
    top = f"{TRUSTING}public_url: https://cache.example/artifacts\nallowed_hosts: [127.0.0.1]\n"
    # The address that is printed is the public one, so the port is chosen here.
    port = free_port()
    proxy = start_proxy("public", top=top, listen=f"127.0.0.1:{port}")
    assert proxy.url == "https://cache.example/artifacts"
    nginx = start_nginx("public", BELOW, f"127.0.0.1:{port}")
    text = nginx.get("/artifacts/setup/pip").body.decode()
    assert "https://cache.example/artifacts/pypi/simple" in text
    assert str(nginx.port) not in text
    assert nginx.get("/artifacts/setup/pip", Host="cache.example").status == 200
    refused = nginx.get("/artifacts/setup/pip", Host="other.example")
    assert (refused.status, refused.headers["X-Proxy-Error"]) == (421, "unknown_host")
    assert nginx.get("/artifacts/livez", Host="other.example").status == 200
    code, said = proxy.command("explain", "https://cache.example/artifacts/repository/pypi/simple/idna/")
    assert code == 0, said
