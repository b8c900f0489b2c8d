"""Ceph's S3 gateway on one monitor and one OSD in memory: a second real store with other habits.

Starting takes half a minute; only `make e2e-ceph` does it.
"""

from __future__ import annotations

import http.client
import secrets
import uuid
from pathlib import Path

from tests.needs import require

from .minio import FreshBucket
from .process import HOST, NotStarted, Server, free_port, one_per_process, wait_for

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
ACCESS_KEY, SECRET_KEY = "ceph-access", "ceph-secret/+key"


class _Part(Server):
    """A daemon of the cluster, in the folder of the whole."""

    def __init__(self, home: Path, program: str, *arguments: str) -> None:
        super().__init__(home)
        self.name = program
        self._arguments = [require(program), "-f", "-c", str(home / "ceph.conf"), *arguments]

    def command(self) -> list[str]:
        return self._arguments

    def answers(self) -> bool:
        return True


class Radosgw(Server):
    name = "radosgw"

    def __init__(self, folder: Path | None = None, *, port: int = 0) -> None:
        super().__init__(folder, port=port)
        self._programs = {name: require(name) for name in PROGRAMS}
        self._parts: list[_Part] = []
        self._monitor = 0

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def fresh_bucket(self, name: str = "bucket") -> FreshBucket:
        """An empty bucket whose name begins so (three letters at least)."""
        bucket = FreshBucket(
            self.endpoint, f"{name}-{secrets.token_hex(5)}", ACCESS_KEY, SECRET_KEY, region="default"
        )
        bucket.client().create_bucket(Bucket=bucket.name)
        return bucket

    def start(self) -> Radosgw:
        super().start()
        wait_for(self.name, self._has_user, self.log)
        return self

    def stop(self) -> None:
        self.end()
        for part in reversed(self._parts):
            part.stop()
        self._parts.clear()
        super().stop()

    def command(self) -> list[str]:
        frontend = f"beast endpoint={HOST}:{self.port}"
        return [*self._tool("radosgw"), "-f", "-n", "client.rgw", "--rgw-frontends", frontend]

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def prepare(self) -> None:
        if self._parts:
            return
        self._monitor = free_port()
        cluster = str(uuid.uuid4())
        self._configure(cluster)
        where = f"[v2:{HOST}:{self._monitor}]"
        plan = str(self.folder / "monmap")
        self.run(self._programs["monmaptool"], "--create", "--fsid", cluster, "--addv", "a", where, plan)
        self.run(*self._tool("ceph-mon"), "--mkfs", "-i", "a", "--monmap", plan)
        self._begin("ceph-mon", "-i", "a")
        wait_for("ceph-mon", self._has_quorum, self._logs)
        disk = str(uuid.uuid4())
        self.run(*self._tool("ceph"), "osd", "new", disk, "0")
        self.run(*self._tool("ceph-osd"), "--mkfs", "-i", "0", "--osd-uuid", disk)
        self._begin("ceph-osd", "-i", "0")
        wait_for("ceph-osd", self._has_disk, self._logs)

    def _configure(self, cluster: str) -> None:
        for name in ("mon", "osd"):
            (self.folder / name).mkdir()
        settings = {
            "fsid": cluster,
            "mon host": f"[v2:{HOST}:{self._monitor}]",
            "mon initial members": "a",
            "public addr": HOST,
            "cluster addr": HOST,
            **{f"auth {who} required": "none" for who in ("cluster", "service", "client")},
            "ms mon client mode": "crc",  # the gateway's own is "secure", which needs keys
            "mon data": self.folder / "mon",
            "osd data": self.folder / "osd",
            "osd objectstore": "memstore",
            "osd crush chooseleaf type": 0,
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd pool default pg num": 1,
            "osd pool default pg autoscale mode": "off",
            "mon allow pool size one": "true",
            "mon data avail crit": 1,
            "admin socket": self.folder / "$name.asok",
            "run dir": self.folder,
            "crash dir": self.folder,
            "pid file": "",
            "log to file": "false",
            "log to stderr": "true",
            "rgw data": self.folder,
            "rgw thread pool size": 64,
            "rgw enable usage log": "false",
        }
        lines = (f"{name} = {value}" for name, value in settings.items())
        self.write("ceph.conf", "\n".join(["[global]", *lines]) + "\n")

    def _tool(self, name: str) -> list[str]:
        return [self._programs[name], "-c", str(self.folder / "ceph.conf")]

    def _begin(self, program: str, *arguments: str) -> None:
        self._parts.append(_Part(self.folder, program, *arguments).start())

    def _logs(self) -> str:
        return "\n".join(part.log() for part in self._parts)

    def _says(self, *command: str) -> str:
        try:
            return self.run(*self._tool("ceph"), "--connect-timeout", "5", *command, seconds=30)
        except NotStarted:
            return ""

    def _has_quorum(self) -> bool:
        return '"leader"' in self._says("mon", "stat", "-f", "json")

    def _has_disk(self) -> bool:
        return '"num_up_osds":1' in self._says("osd", "stat", "-f", "json")

    def _has_user(self) -> bool:
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        wanted = ("user", "create", "--uid", "tests", "--display-name", "tests", *keys)
        try:
            self.run(*self._tool("radosgw-admin"), "-n", "client.rgw", *wanted)
        except NotStarted as error:
            return "exist" in str(error)
        return True


def shared() -> Radosgw:
    return one_per_process(Radosgw)
