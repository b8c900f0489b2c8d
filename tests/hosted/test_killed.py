"""The program killed in the middle of a push, and a push that goes on at another process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from artifactproxy.rules.oci.media import OCI_MANIFEST
from tests.faults.machine import Running, command, program, until
from tests.hosted.rig import NAME, manifest_of, sha256

MIB = 2**20


def configure(folder: Path, more: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(
        f"listen: 127.0.0.1:0\ndata: {folder / 'data'}\nlog: {{file: {folder / 'log'}}}\n{more}"
        'remotes: {files: {provider: generic, upstream: "http://127.0.0.1:9/"}}\nlocals: {images: {}}\n'
    )


async def token_of(folder: Path) -> dict[str, str]:
    ended, said = await command(
        folder, "token", "create", f"t{os.urandom(4).hex()}", "--scope", "push", "--json"
    )
    assert ended == 0, said
    token = json.loads(said[said.index("{") :])["token"]
    return {"Authorization": f"Bearer {token}"}


async def half_pushed(
    running: Running, method: str, path: str, headers: dict[str, str], body: bytes
) -> asyncio.StreamWriter:
    """Half of the body is there, and the rest does not come."""
    host, _, port = running.base.removeprefix("http://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])
    await writer.drain()
    return writer


@pytest.mark.parametrize("way", ["whole", "piece"])
async def test_e6_killed_in_the_middle_of_a_push(tmp_path: Path, way: str) -> None:
    configure(tmp_path)
    body = os.urandom(4 * MIB)
    async with program(tmp_path) as running:
        token = await token_of(tmp_path)
        method, path = "PUT", f"{NAME}/blobs/{sha256(body)}"
        if way == "piece":
            begun = await running.client.post(f"{running.base}{NAME}/blobs/uploads/", headers=token)
            method, path = "PATCH", begun.headers["Location"].removeprefix(running.base)
        hanging = await half_pushed(running, method, path, token, body)
        temps = running.data / "tmp"
        await until(lambda: any(file.stat().st_size > MIB for file in temps.iterdir()))
        await running.stop(signal.SIGKILL)
        hanging.close()
    async with program(tmp_path) as running:
        assert list(temps.iterdir()) == []
        assert (await running.get(f"{NAME}/blobs/{sha256(body)}")).status == 404
        if way == "piece":  # the upload is there, at its last durable byte
            status = await running.client.get(f"{running.base}{path}", headers=token)
            assert (status.status, status.headers["Range"]) == (204, "0-0")
        pushed = await running.client.put(
            f"{running.base}{NAME}/blobs/{sha256(body)}", data=body, headers=token
        )
        assert pushed.status == 201
        assert (await running.get(f"{NAME}/blobs/{sha256(body)}")).body == body
        ended, said = await command(tmp_path, "fsck", "--full")
        assert ended == 0, said


async def test_c20_killed_in_the_middle_of_each_object_of_an_image(tmp_path: Path) -> None:
    configure(tmp_path)
    config, layer = b'{"os": "linux"}', os.urandom(MIB)
    objects = [
        (f"{NAME}/blobs/{sha256(config)}", config),
        (f"{NAME}/blobs/{sha256(layer)}", layer),
        (f"{NAME}/manifests/latest", manifest_of(config, [layer])),
    ]
    old = manifest_of(b"{}", [])
    async with program(tmp_path) as running:
        token = {**await token_of(tmp_path), "Content-Type": OCI_MANIFEST}

        async def push(path: str, body: bytes) -> None:
            got = await running.client.put(f"{running.base}{path}", data=body, headers=token)
            assert got.status == 201, await got.text()

        await push(f"{NAME}/blobs/{sha256(b'{}')}", b"{}")
        await push(f"{NAME}/manifests/latest", old)
    for number, (path, body) in enumerate(objects):
        async with program(tmp_path) as running:
            hanging = await half_pushed(running, "PUT", path, token, body)
            # The half of it is read when a later request is answered: the loop has come round.
            assert (await running.get(f"{NAME}/manifests/latest")).body == old
            await running.stop(signal.SIGKILL)
            hanging.close()
        async with program(tmp_path) as running:
            assert list((running.data / "tmp").iterdir()) == []
            assert (await running.get(f"{NAME}/manifests/latest")).body == old
            whole = [(await running.get(path)).status for path, _ in objects[:2]]
            assert whole == [200 if at < number else 404 for at in range(2)]
            await push(path, body)
    async with program(tmp_path) as running:
        assert (await running.get(f"{NAME}/manifests/latest")).body == objects[2][1]
        assert (await running.get(objects[1][0])).body == layer
    ended, said = await command(tmp_path, "fsck", "--full")
    assert ended == 0, said


async def test_e10_pieces_at_several_processes(tmp_path: Path) -> None:
    """Each request comes to any of three workers."""
    configure(tmp_path, "workers: 3\n")
    body = os.urandom(600_000)
    async with program(tmp_path) as running:
        token = await token_of(tmp_path)
        begun = await running.client.post(f"{running.base}{NAME}/blobs/uploads/", headers=token)
        where = begun.headers["Location"]
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            told = {**token, "Content-Range": f"{start}-{start + len(piece) - 1}"}
            got = await running.client.patch(where, data=piece, headers=told)
            assert got.status == 202
            status = await running.client.get(where, headers=token)
            assert status.headers["Range"] == f"0-{start + len(piece) - 1}"
        got = await running.client.put(f"{where}?digest={sha256(body)}", headers=token)
        assert got.status == 201
        for _ in range(6):
            assert (await running.get(f"{NAME}/blobs/{sha256(body)}")).body == body
