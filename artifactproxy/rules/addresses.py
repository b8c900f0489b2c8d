"""Which repository a request is for: by its own address, or by one that another product taught its clients.

    /{repo}/{path}                                 our own
    /api/v1/remote|local|virtual/{repo}/{path}     by the kind of the repository
    /repository/{repo}/{path}
    /artifactory/{repo}/{path}
    /artifactory/api/{format}/{repo}/{path}        by the format of its packages

Of a registry's API, which stands under `/v2/`, only the first segment is told here (`oci/addresses.py`).

What stands behind the words of an alias is read exactly as our own address would be, and the
prefix is kept, so that every address that we hand out is of the kind the client came by.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from artifactproxy.errors import BadPath, NotServed
from artifactproxy.rules.paths import REPO_NAME, RESERVED, judge_target, split_repository

_FIRST_WORDS: Final = frozenset({"api", "artifactory", "repository"})
_UNESCAPED: Final = _FIRST_WORDS | {"v2"}
_ALIAS: Final = re.compile(
    r"\A(?:api/v1/(?P<kind>remote|local|virtual)"
    r"|artifactory(?:/api/(?P<format>[a-z0-9_-]+))?"
    r"|repository)/"
)


class Address(NamedTuple):
    """`path` and `query` are as the client spelled them, without the leading `/` and `?`.

    `prefix` is what stands before the repository, with a leading slash, "" for our own address;
    `format` and `kind` are the package format and the kind of repository that an alias holds, which must
    be the repository's.
    `api` is the address of a registry's API, behind which `path` begins (`oci.addresses`), "" elsewhere.
    """

    repo: str
    path: str
    query: str
    prefix: str = ""
    format: str = ""
    api: str = ""
    kind: str = ""

    def base(self, root: str) -> str:
        """The repository's address for a client that knows us as `root`."""
        return f"{root}{self.api or f'{self.prefix}/{self.repo}'}"


def address_of(raw: str) -> Address:
    """Judge a whole request target and read it.

    Raises `BadPath`, and `NotServed` for an alias without a repository that can exist.
    """
    whole, query = judge_target(raw)
    repo, path = split_repository(whole)
    if repo in _UNESCAPED and not whole.startswith(repo):
        raise BadPath("this part of an address is written without escapes")
    if repo not in _FIRST_WORDS:
        return Address(repo, path, query)
    alias = _ALIAS.match(whole)
    return _behind(alias, whole[alias.end() :], query) if alias else Address(repo, path, query)


def _behind(alias: re.Match[str], rest: str, query: str) -> Address:
    if alias["kind"] == "virtual":
        raise NotServed("there are no virtual repositories here")
    repo, path = split_repository(rest)
    if repo in RESERVED or not REPO_NAME.match(repo):
        raise NotServed("this address names no repository")
    prefix = f"/{alias[0][:-1]}"
    return Address(repo, path, query, prefix, alias["format"] or "", kind=alias["kind"] or "")


def written(text: str, public_url: str) -> tuple[str, Address]:
    """An address as a person writes it, a URL of ours or the path of one: our root, and its reading.

    `public_url` ("" if there is none) may hold a path, which is no part of ours. Raises as
    `address_of`.
    """
    root = public_url or "http://localhost"
    if public_url and f"{text}/".startswith(f"{public_url}/"):
        text = text[len(public_url) :] or "/"
    elif "://" in text:
        parts = urlsplit(text)
        root = f"{parts.scheme}://{parts.netloc}"
    elif not text.startswith("/"):
        text = f"/{text}"
    return root, address_of(text)
