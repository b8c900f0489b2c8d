"""What upstream did wrong, counted and told where the upstream port does not see it."""

from __future__ import annotations

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Tools
from artifactproxy.errors import BrokenPromise, Fault
from artifactproxy.model import Route

UNVOUCHED = ("empty", "unexpected_html")  # wrong though nothing was promised


class Trouble:
    """The complaints of one fill."""

    def __init__(self, tools: Tools, mount: Mount, route: Route) -> None:
        self._observer = tools.observer
        self._mount = mount
        self._route = route

    def count(self, fault: Fault) -> None:
        """A head that was refused, a body that broke and is continued, a document that is none."""
        self._observer.increment("upstream_errors", remote=self._mount.name, kind=fault.code)

    def broken(self, fault: BrokenPromise) -> None:
        """Complete bytes that are not the right ones."""
        if fault.code in UNVOUCHED:
            self.count(fault)
            return
        self._observer.increment("integrity_failures", where="upstream")
        self._observer.warning(
            "broken_promise", repo=self._mount.name, path=self._route.key.path, detail=fault.detail
        )
