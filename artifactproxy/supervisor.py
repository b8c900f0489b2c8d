"""Several processes as one instance: a supervisor that binds, forks, watches and stops its workers.

It is plain blocking code without threads and without an event loop, so that it may fork at any
time. It holds the data folder's lock, and what its workers share: the sockets, and what each has
counted. Messages between workers go through it; what they ask of all the others it gathers.
"""

from __future__ import annotations

import ctypes
import gc
import os
import secrets
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import closing, suppress
from typing import Any

from artifactproxy import serving, wiring
from artifactproxy.channel import Channel
from artifactproxy.config import Config
from artifactproxy.datadir import DataFolder
from artifactproxy.errors import ConfigError, Fault
from artifactproxy.life import Life, WorkerFailed, counters_of, how_ended
from artifactproxy.observe.metrics import Metrics
from artifactproxy.place import FOLDER, Place
from artifactproxy.questions import Questions
from artifactproxy.reload import Reread, fresh, packed, rejected
from artifactproxy.web import sockets

GATHER = 1.0  # seconds for all workers to answer a question
GATHER_RELOAD = 30.0
SETTLED = 10.0  # a worker that lived for this long had no trouble at its start
PAUSE, PAUSE_MAX = 0.1, 10.0  # before one that had is started again
GRACE = 30.0  # beyond the drain, for what is written down at the end
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def serve(config: Config, *, announce: serving.Announce, reread: Reread | None = None) -> int:
    """As `serving.serve`, with `config.workers` processes. Raises `WorkerFailed` and `ConfigError` where
    a worker cannot start."""
    with closing(DataFolder(config.data)) as folder:
        return Supervisor(config, folder, announce, reread).run()


class Supervisor:
    """`run` returns the exit code when all workers have ended."""

    def __init__(
        self, config: Config, folder: DataFolder, announce: serving.Announce, reread: Reread | None
    ) -> None:
        self._config = config
        self._folder = folder
        self._announce = announce
        self._reread = reread or (lambda: self._config)
        self._log = wiring.log(config)
        self._secret = secrets.token_hex(32)
        self._workers: dict[int, Life] = {}
        self._due: dict[int, float] = {}  # when to start which worker
        self._pauses: dict[int, float] = {}
        self._kept: dict[int, dict[str, Any]] = {}
        self._questions = Questions()
        self._pid = os.getpid()
        self._greeted = self._stopping = False
        self._kill_at = float("inf")
        self._worst = 0
        self._shares: list[tuple[socket.socket, ...]] = []
        self._control: socket.socket | None = None
        self._clean = self._claimed = False

    def run(self) -> int:
        """Raises OSError, `Fault` and `ConfigError` when it cannot start."""
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        former = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        self._wake = (woken, wake)
        try:
            self._open()
            self._due = dict.fromkeys(range(1, self._config.workers + 1), 0.0)
            while self._workers or (self._due and not self._stopping):
                self._turn()
        finally:
            self._close()
            if self._claimed and not self._worst and (self._greeted or self._clean):
                wiring.disclaim(self._config, self._folder.path)
            signal.set_wakeup_fd(-1)
            for number, handler in former.items():
                signal.signal(number, handler)
            woken.close()
            wake.close()
        return self._worst

    def _open(self) -> None:
        config, data = self._config, self._folder.path
        first = sockets.tcp(config.listen.host, config.listen.port)
        self._address = first[0].getsockname()
        # Kept here too, so that who waits in the queue of a worker that died waits for its successor.
        self._shares = sockets.shares(first, config.workers)
        self._control = sockets.unix(self._folder.control_socket)
        self._control.listen(sockets.BACKLOG)
        place = data / FOLDER
        place.mkdir(mode=0o700, exist_ok=True)
        place.chmod(0o700)
        self._clean = wiring.claim(config, data)
        self._claimed = True
        gc.collect()
        gc.freeze()  # what is there now is never looked at again, and its pages stay shared

    def _close(self) -> None:
        """Nothing of ours outlives us."""
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            worker.line.close()
        self._release()
        sockets.remove(self._folder.control_socket)
        self._log.close()

    def _release(self) -> None:
        """What only the workers hold from now on ends with the last of them that closes it."""
        for share in self._shares:
            for sock in share:
                sock.close()
        if self._control is not None:
            self._control.close()
        self._shares, self._control = [], None

    # --- one turn ---------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        for number in [number for number, at in self._due.items() if at <= now]:
            del self._due[number]
            self._start(number)
        self._wait(now)
        for worker in list(self._workers.values()):
            self._hear(worker)
        self._bury()
        self._questions.close_overdue()
        if time.monotonic() >= self._kill_at:
            self._worst = 1
            self._end_now()

    def _wait(self, now: float) -> None:
        """Until a signal, a message, or the next thing that is due."""
        patience = min([*self._due.values(), self._questions.due, self._kill_at]) - now
        poll = select.poll()
        poll.register(self._wake[0].fileno(), select.POLLIN)
        for worker in self._workers.values():
            poll.register(worker.line.fileno(), select.POLLIN | (select.POLLOUT if worker.waiting else 0))
        poll.poll(None if patience == float("inf") else int(max(0.0, patience) * 1000) + 1)
        for worker in self._workers.values():
            worker.flush()
        with suppress(BlockingIOError):
            for number in self._wake[0].recv(1024):
                self._signalled(number)

    def _signalled(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping:
                self._worst = 1
                self._end_now()
            else:
                self._stop()
        elif number == signal.SIGHUP:
            self._reload(None, 0)

    def _stop(self) -> None:
        self._stopping = True
        self._announce(serving.STOPPING)
        limits = self._config.limits
        self._kill_at = time.monotonic() + limits.drain_notice + limits.drain + wiring.STORING_SECONDS + GRACE
        self._release()
        self._due.clear()
        for worker in self._workers.values():
            worker.say({"is": "stop"})

    def _end_now(self) -> None:
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        self._kill_at = float("inf")

    # --- lives ------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._become(number, theirs)
        theirs.close()
        ours.setblocking(False)
        self._workers[number] = Life(number, pid, ours, time.monotonic(), self._config)

    def _become(self, number: int, line: socket.socket) -> None:
        """The rest of a worker's life; it never returns into the supervisor's."""
        code = 1
        try:
            self._forget(number, line)
            channel = Channel(line)
            try:
                code = serving.work(self._config, self._place(number, channel))
            except ConfigError as error:
                channel.last_word({"is": "failed", "said": str(error), "usage": True})
            except Fault as error:
                channel.last_word({"is": "failed", "said": error.detail})
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                channel.last_word({"is": "failed", "said": f"{where}{error.strerror or error}"})
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)

    def _forget(self, number: int, line: socket.socket) -> None:
        """What is the supervisor's and the others': signals, lines, sockets."""
        signal.set_wakeup_fd(-1)
        for ignored in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all
            signal.signal(ignored, signal.SIG_IGN)
        for usual in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(usual, signal.SIG_DFL)
        for end in self._wake:
            end.close()
        for worker in self._workers.values():
            worker.line.close()
        for share in (*self._shares[: number - 1], *self._shares[number:]):
            for sock in share:
                sock.close()
        line.setblocking(False)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._pid:
            os._exit(1)  # it died meanwhile

    def _place(self, number: int, channel: Channel) -> Place:
        assert self._control is not None
        return Place(
            number=number,
            folder=self._folder,
            channel=channel,
            listeners=self._shares[number - 1],
            control=self._control,
            secret=self._secret,
            clean=self._clean,
            kept=self._kept.get(number),
            again=self._greeted,
        )

    def _bury(self) -> None:
        """Workers that have ended; each is heard out first."""
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if not pid:
                continue
            self._hear(worker)
            del self._workers[worker.number]
            worker.line.close()
            self._questions.died(worker.number)
            self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Life, code: int) -> None:
        if self._stopping:
            self._worst = self._worst or int(code != 0)
            return
        said = worker.failed["said"] if worker.failed else ""
        if not self._greeted:
            if worker.failed and worker.failed.get("usage"):
                raise ConfigError(said)
            raise WorkerFailed(
                said or f"worker {worker.number} ended with {how_ended(code)} before it could serve"
            )
        now, pause = time.monotonic(), 0.0
        if now - worker.born < SETTLED:
            pause = min(self._pauses.get(worker.number, 0.0) * 2 or PAUSE, PAUSE_MAX)
        self._pauses[worker.number] = pause
        self._due[worker.number] = now + pause
        self._log.warning(
            "worker_ended",
            worker=worker.number,
            pid=worker.pid,
            how=how_ended(code),
            cause=said,
            action="it is started again",
        )

    # --- messages ---------------------------------------------------------------------------

    def _hear(self, worker: Life) -> None:
        for message in worker.hear():
            self._take(worker, message, message["is"])

    def _take(self, worker: Life, message: dict[str, Any], kind: str) -> None:
        if kind == "news":
            for other in [other for other in self._workers.values() if other is not worker]:
                other.say(message)
        elif kind == "numbers":
            self._kept[worker.number] = message["value"]
        elif kind == "ask":
            self._relay(worker, message)
        elif kind == "said":
            if message["what"] == "numbers" and "value" in message:
                self._kept[worker.number] = message["value"]
            self._questions.said(worker.number, message)
        elif kind == "reload":
            self._reload(worker, message["id"])
        elif kind == "failed":
            worker.failed = message
        elif kind == "listening":
            worker.listening = True
            self._catch_up(worker)
            self._greet()

    def _greet(self) -> None:
        """Once, when the last of the first workers listens."""
        listening = sum(worker.listening for worker in self._workers.values())
        if self._greeted or self._stopping or listening < self._config.workers:
            return
        self._greeted = True
        mounts = wiring.mounts(self._config)
        root = serving.root_of(self._config, *self._address[:2])
        for line in serving.greeting(self._config, mounts, root):
            self._announce(line)

    def _relay(self, worker: Life, message: dict[str, Any]) -> None:
        """A question of one worker to all others."""
        others = [other for other in self._workers.values() if other is not worker and other.listening]

        def done(answers: dict[int, Any], silent: set[int]) -> None:
            values = list(answers.values())
            if message["what"] == "numbers":
                # Of those that are silent, and of the dead until a successor goes on counting.
                left = self._kept.keys() - answers.keys() - {worker.number}
                values += [counters_of(self._kept[number]) for number in left]
                values.append(self._numbers(silent))
            worker.say({"is": "said", "id": message["id"], "values": values})

        self._questions.ask(message["what"], message["value"], others, GATHER, done)

    def _numbers(self, silent: set[int]) -> dict[str, Any]:
        """What only the supervisor knows."""
        mine = Metrics(process=False)
        mine.gauge("workers", len(self._workers))
        mine.gauge("workers_silent", len(silent))
        return mine.numbers()

    def _catch_up(self, worker: Life) -> None:
        """It was started with a configuration that another has replaced since."""
        if worker.config is not self._config:
            config = packed(self._config)
            self._questions.ask("reload", config, [worker], GATHER_RELOAD, _no_matter)

    # --- reload -----------------------------------------------------------------------------

    def _reload(self, worker: Life | None, number: int) -> None:
        """For a worker that was told to, or by a signal: read once, then every worker takes it."""

        def tell(told: dict[str, Any]) -> None:
            if worker is not None:
                worker.say({"is": "said", "id": number, "value": told})
            noting = [other for other in self._workers.values() if other.listening][:1]
            self._questions.ask("reloaded", told, noting, GATHER, _no_matter)

        if self._stopping:
            tell({"result": "rejected", "reasons": ["the instance is stopping"]})
            return
        try:
            change = fresh(self._reread, self._config)
        except ConfigError as error:
            tell(rejected(error))
            return

        def done(answers: dict[int, Any], silent: set[int]) -> None:
            told = change.told()
            refused = [f"worker {n}: {why}" for n, a in answers.items() for why in a.get("reasons", ())]
            refused += [f"worker {n} does not answer" for n in sorted(silent)]
            if refused:
                told |= {"result": "rejected", "reasons": refused}
            tell(told)

        self._config = change.config
        among = [each for each in self._workers.values() if each.listening]
        self._questions.ask("reload", packed(change.config), among, GATHER_RELOAD, done)


def _no_matter(answers: dict[int, Any], silent: set[int]) -> None:
    del answers, silent
