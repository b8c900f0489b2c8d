"""A large file whose copy is on this disk, in front of a bucket: as fast as nginx's sendfile?"""

from __future__ import annotations

from bench.backends import in_bucket, minio
from bench.content import Blob, cold_paths
from bench.measures.warm import COLUMNS, Place, goals, race
from bench.model import GIB, MIB, Bench, Result
from bench.pull import pull
from bench.servers import nginx_cache, origin, proxy, remotes_of

_OURS, _SENDFILE = "artifactproxy, local tier", "nginx sendfile"


def measure(bench: Bench) -> Result:
    root = bench.folder / "files"
    with (
        minio(bench.folder / "minio", bench.all_cores) as bucket_server,
        origin(bench.folder / "origin", root, bench.client_cores) as source,
        nginx_cache(bench.folder / "nginx", source, bench.server_cores) as (nginx, nginx_port, _),
    ):
        behind = in_bucket(bucket_server.fresh_bucket(), 4 * GIB)
        config = behind.top + remotes_of(source.port)
        with proxy(bench.folder / "proxy", bench.server_cores, config, env=behind.env) as (ours, port):
            blob = Blob(root / "large.bin", bench.scale.large)
            (path,) = cold_paths(blob)
            places: dict[str, Place] = {
                _SENDFILE: (nginx, nginx_port, f"/static/{blob.path.name}"),
                _OURS: (ours, port, f"/files{path}"),
            }
            for _, at, what in places.values():
                for _ in range(2):  # one after the other: the second finds it stored
                    pull(at, [what], bench.client_cores, like=blob.path)
            bucket_server.pause()
            try:
                samples = race(bench, places)
            finally:
                bucket_server.resume()
    return Result(
        title="Warm large file in front of a bucket",
        method=(
            f"As above, with artifactproxy storing into MinIO and keeping copies on its own disk "
            f"({bench.scale.large // MIB} MiB is there after the first fetch). MinIO stands still (SIGSTOP) during the "
            "rounds: what is served comes from the disk alone."
        ),
        columns=COLUMNS,
        samples=samples,
        goals=goals(bench, samples, "local tier, warm", _OURS, _SENDFILE),
    )
