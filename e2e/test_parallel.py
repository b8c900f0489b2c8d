"""Many clients that want the same large file at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from e2e.clients import Pip
from e2e.registry import Registry, sha256
from e2e.servers import Forwarder, Proxy

PROJECT = "numpy"
CLIENTS = 20


def test_twenty_cold_downloads_are_one_upstream_transfer(
    pip: Pip, proxy: Proxy, forwarder: Forwarder, registry: Registry
) -> None:
    folders = [pip.fresh("out") for _ in range(CLIENTS)]

    def download(number: int) -> None:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folders[number])]
        pip("download", *options, PROJECT, index=proxy.index)

    with proxy.watch() as seen, ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(download, range(CLIENTS)))
    received = forwarder.counts()["bytes_down"]

    names = {file.name for folder in folders for file in folder.iterdir()}
    assert len(names) == 1
    [name] = names
    promised = registry.page(PROJECT)[name].sha256
    assert {sha256((folder / name).read_bytes()) for folder in folders} == {promised}

    whole = [r for r in seen.requests("artifact") if r["method"] == "GET" and r["status"] == 200]
    assert len(whole) == CLIENTS
    assert "remote" in {row["source"] for row in whole}
    [fill] = seen.fills("artifact")
    assert fill["path"].endswith(f"/{name}")
    assert received < 2 * fill["bytes"]
    assert seen.errors() == []
    assert len(seen.fills("index")) == 1
