"""TLS on the listener: what is spoken, whole bodies and honest ends, certificates that change."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from pathlib import Path

import pytest

from artifactproxy.engine.answer import Bytes, Chunks, Tail
from artifactproxy.web import tls
from artifactproxy.web.tls import Certificate, PairRefused, context_of
from tests.chaos.certs import Authority

from .scripted import Pieces, Watch, chunks, file_body

NAME = "proxy.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def pair(authority, tmp_path) -> tuple[Path, Path]:
    """Files of this test alone."""
    cert, key = authority.issue(NAME, "IP:127.0.0.1")
    return Path(shutil.copy(cert, tmp_path / "cert.pem")), Path(shutil.copy(key, tmp_path / "key.pem"))


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def certificate(pair, watch, monkeypatch) -> Certificate:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    return Certificate(*pair, watch)


@pytest.fixture
async def rig(rigs, certificate):
    return await rigs(ssl=certificate.context, keepalive=1.0, send_stall=0.5)


class Session:
    """A TLS client on streams; `serial` tells which certificate the server showed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @property
    def tls(self) -> ssl.SSLObject:
        return self.writer.get_extra_info("ssl_object")

    @property
    def serial(self) -> str:
        return self.tls.getpeercert()["serialNumber"]

    async def get(self, target: str, *, close: bool = False) -> tuple[bytes, bytes]:
        end = "Connection: close\r\n" if close else ""
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: {NAME}\r\n{end}\r\n".encode())
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head, await asyncio.wait_for(self.reader.readexactly(length), 20)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await asyncio.wait_for(self.writer.wait_closed(), 20)


@pytest.fixture
async def connect(rig, authority):
    opened: list[Session] = []

    async def run(**options) -> Session:
        context = ssl.create_default_context(cafile=authority.pem)
        context.set_alpn_protocols(["h2", "http/1.1"])
        for name, value in options.items():
            setattr(context, name, value)
        session = Session(
            *await asyncio.open_connection(*rig.address, ssl=context, server_hostname=NAME, limit=1 << 16)
        )
        opened.append(session)
        return session

    yield run
    for session in opened:
        await session.close()


async def test_a_modern_client_gets_http_1_1_and_https_addresses(rig, connect) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    session = await connect()
    assert session.tls.version() == "TLSv1.3"
    assert session.tls.selected_alpn_protocol() == "http/1.1"
    assert (await session.get("/paper/a"))[1] == b"content"
    assert rig.engine.asked[0].base == f"https://{NAME}/paper"
    text = (await session.get("/setup/scissors"))[1]
    assert f'registry = "https://{NAME}/paper/"'.encode() in text
    assert b"insecure" not in text


async def test_tls_1_2_is_spoken_and_nothing_older(rig, connect) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    session = await connect(maximum_version=ssl.TLSVersion.TLSv1_2)
    assert session.tls.version() == "TLSv1.2"
    assert (await session.get("/paper/a"))[1] == b"content"
    with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, OSError)):
        await connect(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


async def test_files_and_tails_arrive_whole(rig, connect, tmp_path) -> None:
    body = bytes(range(256)) * 20_000
    rig.engine.give("paper/file", file_body(tmp_path / "file", body))
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    rig.engine.give("paper/tail", lambda: Tail(Pieces(*pieces), len(body)))
    rig.engine.give("paper/small", file_body(tmp_path / "small", b"small"))
    session = await connect()
    for target, expected in (("file", body), ("small", b"small"), ("tail", body), ("file", body)):
        assert (await session.get(f"/paper/{target}"))[1] == expected


@pytest.mark.parametrize("length", [300_000, None])
async def test_a_body_that_fails_never_ends_cleanly(rig, connect, length) -> None:
    rig.engine.give("paper/bad", lambda: Chunks(chunks(b"x" * 200_000, RuntimeError("broke")), length))
    session = await connect()
    session.writer.write(f"GET /paper/bad HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    await session.reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(OSError, ssl.SSLError):
        got = await asyncio.wait_for(session.reader.read(-1), 20)
        assert not got.endswith(b"0\r\n\r\n")
        assert len(got) < 300_000
    assert (await rig.watch.last()).error == "internal"


async def test_a_client_that_reads_nothing_is_let_go_a_slow_one_is_not(rig, connect, tmp_path) -> None:
    body = bytes(8_000_000)
    rig.engine.give("paper/file", file_body(tmp_path / "file", body))
    # More than the buffers of two sockets and of TLS hold together.
    rig.engine.give("paper/large", lambda: Tail(Pieces(*[bytes(1_000_000)] * 60), 60_000_000))
    stuck = await connect()
    stuck.writer.write(f"GET /paper/large HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    slow = await connect()
    slow.writer.write(f"GET /paper/file HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    await slow.reader.readuntil(b"\r\n\r\n")
    got = 0
    while got < len(body):
        got += len(await asyncio.wait_for(slow.reader.read(400_000), 20))
        await asyncio.sleep(0.002)
    assert (await rig.watch.last(2)).bytes
    errors = sorted(outcome.error for outcome in rig.watch.outcomes)
    assert errors == ["", "client_slow"]


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01", b"\0" * 100, b""])
async def test_what_is_no_tls_ends_quietly(rig, connect, sent, capfd, caplog) -> None:
    for _ in range(20):
        client = await rig.connect()
        await client.send(sent)
        if len(sent) < 4:
            client.close()
            continue
        with contextlib.suppress(ConnectionResetError):
            await client.rest()
        client.close()
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    assert (await (await connect()).get("/paper/a"))[1] == b"content"
    assert rig.watch.warnings == []
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    assert capfd.readouterr().err == ""


async def test_a_handshake_that_never_comes_is_not_waited_for(rig) -> None:
    client = await rig.connect()
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""
    client.close()


# --- certificates ---------------------------------------------------------------------------


async def test_a_renewed_certificate_is_used_without_dropping_connections(
    rig, connect, authority, pair, watch
) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"content"))
    old = await connect()
    first = old.serial
    for source, target in zip(authority.issue(NAME, "other.example"), pair, strict=True):
        shutil.copy(source, target)
    new = await connect()
    assert new.serial != first
    assert (await new.get("/paper/a"))[1] == b"content"
    assert (await old.get("/paper/a"))[1] == b"content"
    assert [event for event, _ in watch.notices] == ["certificate_loaded"]


@pytest.mark.parametrize("damage", ["gone", "empty", "mismatch", "half"])
async def test_a_broken_renewal_keeps_the_old_one_and_says_so(
    rig, connect, authority, pair, watch, damage
) -> None:
    first = (await connect()).serial
    fresh = authority.issue(NAME, "third.example")
    kept = [path.read_bytes() for path in pair]
    if damage == "gone":
        pair[0].unlink()
    elif damage == "empty":
        pair[1].write_bytes(b"")
    elif damage == "mismatch":
        shutil.copy(fresh[0], pair[0])
    else:
        pair[0].write_bytes(kept[0][: len(kept[0]) // 2])
    for _ in range(3):
        assert (await connect()).serial == first
    assert [event for event, _ in watch.warnings] == ["certificate_refused"]
    for source, target in zip(fresh, pair, strict=True):
        shutil.copy(source, target)
    assert (await connect()).serial != first


async def test_reload_reads_at_once(certificate, pair, watch, monkeypatch, rig, connect, authority) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 3600.0)
    first = (await connect()).serial
    for source, target in zip(authority.issue(NAME), pair, strict=True):
        shutil.copy(source, target)
    assert (await connect()).serial == first
    certificate.reload()
    assert (await connect()).serial != first
    pair[1].unlink()
    certificate.reload()
    assert [event for event, _ in watch.warnings] == ["certificate_refused"]
    assert str(pair[1]) in watch.warnings[0][1]["error"]


def test_pairs_that_are_refused(pair, authority, tmp_path) -> None:
    cert, key = pair
    other = authority.issue("else.example")
    encrypted = tmp_path / "encrypted.pem"
    authority._openssl("ec", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(encrypted))
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    bad_key = tmp_path / "bad.key"
    bad_key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for certificate, private, which, words in [
        (tmp_path / "none", key, "cert", "No such file"),
        (cert, tmp_path / "none", "key", "No such file"),
        (cert, tmp_path, "key", "cannot read"),
        (key, key, "cert", "no certificate"),
        (cert, cert, "key", "no private key"),
        (cert, other[1], "key", "not the key"),
        (cert, encrypted, "key", "encrypted"),
        (garbage, key, "cert", "cannot be read"),
        (cert, bad_key, "key", "cannot be read"),
    ]:
        with pytest.raises(PairRefused, match=words) as caught:
            context_of(certificate, private)
        assert caught.value.which == which
        assert "secret" not in str(caught.value)
