"""A server program as a test sees it: started, asked until it answers, paused, killed, gone at the end."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self, TypeVar

START_SECONDS = 60.0
STOP_SECONDS = 20.0
HOST = "127.0.0.1"


class NotStarted(AssertionError):
    """The text holds the end of the server's log."""


class Server:
    """`with Redis() as redis`, or `Redis().start()` and `stop()`. Its data are gone after `stop`, and are
    kept over `kill` and `restart`; its port stays the same. Everything blocks: call it from a thread
    (`asyncio.to_thread`) while the loop has other work. `folder`: where its own folder is made."""

    name = "server"
    account = ""
    """Who runs it where we are root."""

    def __init__(self, folder: Path | None = None, *, port: int = 0) -> None:
        self._parent = folder
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._fixed = port
        self.port = port

    # --- what each kind of server says of itself

    def prepare(self) -> None:
        """Once per folder, before the first launch."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def answers(self) -> bool:
        """Whether it serves now; may raise OSError."""
        with socket.create_connection((HOST, self.port), 1):
            return True

    # --- life

    @property
    def folder(self) -> Path:
        assert self._folder is not None, f"{self.name} is not started"
        return self._folder

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it, after `kill` or a `restart` on the same data, and wait until it answers."""
        if self._folder is None:
            self._folder = _own_folder(self._parent, self.name, self.account)
            self._give(self._folder)
        attempts = 1 if self.port else 3
        for left in reversed(range(attempts)):
            self.port = self.port or free_port()
            try:
                self.prepare()
                self._launch()
            except NotStarted:
                self.kill()
                if not left:
                    raise
                self.port = 0  # perhaps somebody took it
            else:
                break
        return self

    def stop(self) -> None:
        """End it politely, by force after a while, and throw its data away."""
        self.end(signal.SIGTERM)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
            self.port = self._fixed

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the program with this signal; data and port are kept."""
        if self.running:
            self.resume()
            os.kill(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self._process is not None
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, with all of its processes; nothing is flushed."""
        if self._process is not None:
            if self._process.poll() is None:
                self._all(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            self._process = None
            self._unguard()

    def restart(self) -> None:
        """Gone without a word, and back on the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Connections stay and nothing answers: a machine that hangs."""
        self._all(signal.SIGSTOP)

    def resume(self) -> None:
        self._all(signal.SIGCONT)

    def log(self) -> str:
        """The last that it said."""
        with contextlib.suppress(OSError):
            return (self.folder / "log").read_bytes()[-4000:].decode("utf-8", "replace")
        return ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # --- how

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 60.0) -> str:
        """The output of a program that runs as the server's account; raises with what it said."""
        done = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            user=self._account(),
        )
        if done.returncode:
            raise NotStarted(f"{arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _launch(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                user=self._account(),
                start_new_session=True,
            )
        self._watch()
        wait_for(self.name, self._up, self.log)

    def _up(self) -> bool:
        if not self.running:
            code = self._process.returncode if self._process else None
            raise NotStarted(f"{self.name} ended with {code}: {self.log()}")
        try:
            return self.answers()
        except OSError:
            return False

    def _watch(self) -> None:
        """A shell that ends the server and its data if we die without stopping it."""
        self._unguard()
        script = 'read -r _; kill -9 "$0"; rm -rf "$1"'
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", script, str(self.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _unguard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard = None

    def _all(self, number: signal.Signals) -> None:
        for pid in (self.pid, *_children(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _account(self) -> str | None:
        """None: we are not root, or it does not mind."""
        if not self.account or os.getuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return self.account if self.account in names else "nobody"

    def _give(self, path: Path) -> None:
        if account := self._account():
            entry = pwd.getpwnam(account)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def write(self, name: str, text: str) -> Path:
        """A file in the folder that only the server's account reads."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        self._give(path)
        return path


def wait_for(
    name: str,
    is_there: Callable[[], bool],
    log: Callable[[], str] = str,
    seconds: float = START_SECONDS,
) -> None:
    """Ask until the answer is yes; fails with the log."""
    deadline = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > deadline:
            raise NotStarted(f"{name} did not answer within {seconds:.0f} s: {log()}")
        time.sleep(0.03)


def free_port() -> int:
    """A port of the loopback that no outgoing connection takes while its server is down."""
    with contextlib.suppress(OSError, ValueError):
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        for _ in range(100):
            port = random.SystemRandom().randrange(10_240, max(lowest, 10_241))
            with socket.socket() as trial, contextlib.suppress(OSError):
                trial.bind((HOST, port))
                return port
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        return int(trial.getsockname()[1])


def _own_folder(parent: Path | None, name: str, account: str) -> Path:
    """In `parent` or the temporary folder, unless the server's account could not get there."""
    place = (parent or Path(tempfile.gettempdir())).resolve()
    if account and os.getuid() == 0 and not all(_passable(p) for p in (place, *place.parents)):
        place = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))


def _passable(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def _children(pid: int) -> Iterator[int]:
    """All below a process, also those with a session of their own."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    heap = [pid]
    while heap:
        found = parents.get(heap.pop(), [])
        yield from found
        heap += found


S = TypeVar("S", bound=Server)
_shared: dict[type[Server], Server] = {}
_lock = threading.Lock()


def one_per_process(kind: type[S], *arguments: Server) -> S:
    """The server of this kind that all tests of a process share; started by whoever asks first, and
    again if it has ended. Tests that hurt a server start their own."""
    with _lock:
        found = _shared.get(kind)
        if found is None:
            found = _shared[kind] = kind(*arguments)  # type: ignore[arg-type]
            atexit.register(_stop, found, os.getpid())
        if not found.running:
            found.start()
        assert isinstance(found, kind)
        return found


def _stop(server: Server, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork of ours
        server.stop()
