"""A certificate authority that lives for one test, made with the openssl command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(slots=True)
class Authority:
    """`Authority.make(tmp_path)`, then `server(names)` for a listening context."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, name: str = "ca") -> Authority:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl command is not installed")
        home = folder / name
        home.mkdir()
        made = cls(home)
        made._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", f"/CN=test {name}"),
        )
        return made

    @property
    def pem(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, *names: str, expired: bool = False) -> tuple[Path, Path]:
        """Certificate and key for DNS names and `IP:` addresses."""
        stem = names[0].replace(":", "_").replace("*", "_") + ("-old" if expired else "")
        wanted = ",".join(n if n.startswith("IP:") else f"DNS:{n}" for n in names)
        (self.folder / f"{stem}.ext").write_text(f"subjectAltName={wanted}\n")
        self._openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{stem}.key", "-out", f"{stem}.csr", "-subj", f"/CN={names[0][:60]}"),
        )
        (self.folder / "index.txt").write_text("")
        (self.folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\npolicy=p\nrand_serial=yes\n"
            "default_md=sha256\n[p]\ncommonName=supplied\n"
        )
        dates = ("20200101000000Z", "20200201000000Z") if expired else ("20240101000000Z", "20490101000000Z")
        self._openssl(
            *("ca", "-batch", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-notext"),
            *("-in", f"{stem}.csr", "-out", f"{stem}.pem", "-extfile", f"{stem}.ext"),
            *("-startdate", dates[0], "-enddate", dates[1]),
        )
        return self.folder / f"{stem}.pem", self.folder / f"{stem}.key"

    def server(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        certificate, key = self.issue(*names, expired=expired)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
