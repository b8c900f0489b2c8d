"""Debian's docker-registry as an upstream, open or behind a token server, and skopeo before it."""

from __future__ import annotations

import base64
import http.server
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from e2e.clients import Client

START_SECONDS = 20.0
ISSUER, SERVICE = "issuer.example", "registry.example"


class ImageRegistry:
    """One `docker-registry` on a free port, over the content in `content`; with `tokens` it gives nothing
    to who has none."""

    def __init__(self, folder: Path, content: Path, tokens: TokenServer | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self._config = folder / "registry.yml"
        auth = ""
        if tokens is not None:
            auth = (
                f"auth: {{token: {{realm: '{tokens.url}/token', service: {SERVICE}, issuer: {ISSUER}, "
                f"rootcertbundle: {tokens.certificate}}}}}\n"
            )
        self._config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {content}}}}}\n"
            f"http: {{addr: '{self.host}'}}\n{auth}"
        )
        self._log = folder / "registry.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            said = self._log.read_text(errors="replace")[-2000:]
            assert self._process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.05)

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/v2/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


class TokenServer:
    """Gives whoever asks a token for pulling what is asked for, and counts them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self._key = folder / "issuer.pem", folder / "issuer.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=issuer",
             "-keyout", str(self._key), "-out", str(self.certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        self.asked: list[str] = []
        server = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                body = json.dumps({"token": server.token(self.path), "expires_in": 300}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing to say."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def token(self, target: str) -> str:
        """A JSON web token (RFC 7519), signed by openssl."""
        scopes = parse_qs(urlsplit(target).query).get("scope", [])
        access = [
            {"type": kind, "name": name, "actions": ["pull"]}
            for kind, name, _ in (scope.split(":", 2) for scope in scopes)
        ]
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": SERVICE, "sub": "", "jti": str(time.monotonic_ns()),
            "iat": now, "nbf": now - 60, "exp": now + 300, "access": access,
        }  # fmt: skip
        pem = self.certificate.read_text()
        x5c = [pem.partition("CERTIFICATE-----\n")[2].partition("-----END")[0].replace("\n", "")]
        signed = f"{_part({'typ': 'JWT', 'alg': 'RS256', 'x5c': x5c})}.{_part(claims)}"
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=signed.encode(), check=True, capture_output=True).stdout
        return f"{signed}.{_url_safe(signature)}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Skopeo(Client):
    """`configuration` is a registries.conf, "" for an empty one."""

    def __init__(self, folder: Path, configuration: str = "") -> None:
        super().__init__(folder)
        self._registries = folder / "registries.conf"
        self._registries.write_text(configuration)
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def copy(self, source: str, target: str) -> None:
        """Every platform, with the bytes of every manifest as they are."""
        self(
            "copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
            source, target,
        )  # fmt: skip

    def pull(self, source: str) -> Path:
        """Into a new layout."""
        path = self.fresh("pulled") / "image"
        self.copy(source, f"oci:{path}:v1")
        return path

    def __call__(self, *arguments: str) -> str:
        env = self.environment()
        return self.run(
            ["skopeo", "--policy", str(self._policy), "--registries-conf", str(self._registries), *arguments],
            env,
        )


def _part(value: object) -> str:
    return _url_safe(json.dumps(value).encode())


def _url_safe(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def _free_port() -> int:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as probe:
        return int(probe.server_address[1])
