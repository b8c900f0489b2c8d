"""A visit to the proxy's index page, after which it knows what was promised."""

from __future__ import annotations

import re
import urllib.request
from urllib.parse import urljoin, urlsplit


def taught_paths(port: int, project: str) -> list[str]:
    """The addresses of the project's files at the proxy, as its index page gives them."""
    page = f"http://127.0.0.1:{port}/index/simple/{project}/"
    with urllib.request.urlopen(page, timeout=20) as answer:
        links = re.findall(r'href="([^"]+)"', answer.read().decode())
    return [urlsplit(urljoin(page, link)).path for link in links]
