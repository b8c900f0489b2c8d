"""HEAD, ranges and conditions on a real wheel, before and after it is cached, as curl asks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.clients import Failed, Pip
from e2e.registry import File, Registry
from e2e.servers import Forwarder, Proxy
from tests.needs import require

PROJECT = "jupyterlab"
VERSION = "4.2.0"  # a wheel of more than 10 MB


@dataclass(frozen=True, slots=True)
class Wheel:
    file: File
    body: bytes

    @property
    def target(self) -> str:
        return f"pypi/{self.file.path}"


@dataclass(frozen=True, slots=True)
class Heard:
    """What curl got."""

    status: int
    headers: dict[str, str]
    body: bytes


Curl = Callable[..., Heard]


@pytest.fixture(scope="module")
def wheel(registry: Registry) -> Wheel:
    page = registry.page(PROJECT).values()
    file = next(f for f in page if f.name.endswith(".whl") and f.version == VERSION)
    return Wheel(file, registry.fetch(file.url))


@pytest.fixture(scope="module")
def curl(pip: Pip, proxy: Proxy) -> Curl:
    program = require("curl")

    def ask(target: str, *arguments: str) -> Heard:
        folder = pip.fresh("curl")
        head, body = folder / "head", folder / "body"
        body.touch()
        url = f"{proxy.url}/{target}"
        pip.run([program, "-sS", "--max-time", "60", "-D", str(head), "-o", str(body), *arguments, url])
        first, *lines = _last_head(head)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Heard(int(first.split()[1]), headers, body.read_bytes())

    return ask


def _last_head(path: Path) -> list[str]:
    return path.read_text().strip().split("\n\n")[-1].splitlines()


def test_head_of_a_cold_wheel_tells_its_size_and_transfers_nothing(
    curl: Curl, proxy: Proxy, wheel: Wheel, forwarder: Forwarder
) -> None:
    before = forwarder.counts()["bytes_down"]
    with proxy.watch() as seen:
        heard = curl(wheel.target, "--head")
    assert heard.status == 200
    assert int(heard.headers["content-length"]) == len(wheel.body)
    assert heard.headers["accept-ranges"] == "bytes"
    assert seen.fills("artifact") == []
    assert forwarder.counts()["bytes_down"] - before < len(wheel.body) // 2


def test_ranges_of_a_cold_wheel_are_its_bytes_and_one_fill(curl: Curl, proxy: Proxy, wheel: Wheel) -> None:
    size = len(wheel.body)
    with proxy.watch() as seen:
        end = curl(wheel.target, "-r", "-4096")
        start = curl(wheel.target, "-r", "0-99")
    assert (end.status, start.status) == (206, 206)
    assert end.headers["content-range"] == f"bytes {size - 4096}-{size - 1}/{size}"
    assert end.body == wheel.body[-4096:]
    assert start.headers["content-range"] == f"bytes 0-99/{size}"
    assert start.body == wheel.body[:100]
    assert [fill["path"] for fill in seen.fills("artifact")] == [wheel.file.path]


@pytest.fixture(scope="module")
def warm(curl: Curl, wheel: Wheel) -> Heard:
    heard = curl(wheel.target)
    assert heard.body == wheel.body
    return curl(wheel.target)


def test_a_warm_wheel_is_served_whole(warm: Heard, wheel: Wheel) -> None:
    assert warm.status == 200
    assert warm.body == wheel.body
    assert warm.headers["x-artifact-source"] == "cache"
    assert warm.headers["x-checksum-sha256"] == wheel.file.sha256
    assert not warm.headers["etag"].startswith("W/")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-0", 0, 1),
        ("100-199", 100, 200),
        ("-1", -1, None),
        ("5000000-", 5_000_000, None),
        ("0-99999999", 0, None),
    ],
)
def test_ranges_of_a_warm_wheel(
    asked: str, first: int, last: int | None, curl: Curl, warm: Heard, wheel: Wheel
) -> None:
    heard = curl(wheel.target, "-r", asked)
    assert heard.status == 206
    assert heard.body == wheel.body[first:last]
    assert heard.headers["x-artifact-source"] == "cache"
    assert int(heard.headers["content-length"]) == len(heard.body)


def test_a_range_past_the_end_is_416(curl: Curl, warm: Heard, wheel: Wheel) -> None:
    heard = curl(wheel.target, "-r", f"{len(wheel.body)}-")
    assert heard.status == 416
    assert heard.headers["content-range"] == f"bytes */{len(wheel.body)}"


def test_if_range_decides_between_part_and_whole(curl: Curl, warm: Heard, wheel: Wheel) -> None:
    same = curl(wheel.target, "-r", "0-9", "-H", f"If-Range: {warm.headers['etag']}")
    other = curl(wheel.target, "-r", "0-9", "-H", 'If-Range: "other"')
    assert (same.status, same.body) == (206, wheel.body[:10])
    assert (other.status, other.body) == (200, wheel.body)


def test_conditions_spare_the_body(curl: Curl, warm: Heard, wheel: Wheel) -> None:
    known = curl(wheel.target, "-H", f"If-None-Match: {warm.headers['etag']}")
    assert (known.status, known.body) == (304, b"")
    assert curl(wheel.target, "-H", 'If-None-Match: "other"').status == 200
    assert curl(wheel.target, "-H", 'If-Match: "other"').status == 412


def test_head_of_a_warm_wheel_is_that_of_get(curl: Curl, warm: Heard, wheel: Wheel) -> None:
    heard = curl(wheel.target, "--head")
    volatile = {"date", "age", "x-request-id"}
    assert heard.status == 200
    assert {k: v for k, v in heard.headers.items() if k not in volatile} == {
        k: v for k, v in warm.headers.items() if k not in volatile
    }


def test_a_broken_download_is_resumed(curl: Curl, warm: Heard, wheel: Wheel, pip: Pip, proxy: Proxy) -> None:
    part = pip.fresh("resume") / "part"
    part.write_bytes(wheel.body[:1_000_000])
    pip.run([require("curl"), "-sS", "-C", "-", "-o", str(part), f"{proxy.url}/{wheel.target}"])
    assert part.read_bytes() == wheel.body


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_fast_deps_of_pip_reads_metadata_by_ranges(state: str, pip: Pip, proxy: Proxy) -> None:
    with proxy.watch() as seen:
        try:
            pip(
                "install", "--dry-run", "--quiet", "--ignore-installed", "--use-feature", "fast-deps",
                "--target", str(pip.fresh("target")), "flask", index=proxy.index,
            )  # fmt: skip
        except Failed as failure:
            if "invalid choice" in str(failure):
                pytest.skip("this pip has no fast-deps")
            raise
    parts = [row for row in seen.requests("artifact") if row["method"] == "GET" and row["status"] == 206]
    sidecars = [row for row in seen.requests("artifact") if row["path"].endswith(".metadata")]
    assert parts or sidecars
    assert not seen.errors()
    if state == "warm":
        assert seen.sources() == {"cache"}
