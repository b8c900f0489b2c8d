"""The rules of the house as functions: source text in, breaches out. `test_house.py` applies them.

A module is named by its path below the package, such as `engine/fill.py`; its *room* is the first
part of that. The rules and their reasons stand in `docs/architecture.md`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PACKAGE = "artifactproxy"
FUNCTION_LINES = 60
FILE_LINES = 400

_WORDS = frozenset({"model", "limits", "errors"})
_ADAPTER = _WORDS | {"rules", "ports", "failpoints"}
_ENGINE = _ADAPTER | {"providers"}

FLOORS: dict[str, frozenset[str]] = {
    "model": frozenset({"errors"}),
    "limits": frozenset(),
    "errors": frozenset(),
    "failpoints": _WORDS,
    "ports": _WORDS,
    "rules": _WORDS,
    "providers": _WORDS | {"rules"},
    "engine": _ENGINE,
    "stores": _ADAPTER,
    "upstream": _ADAPTER,
    "indexes": _ADAPTER,
    "coordination": _ADAPTER,
    "observe": _ADAPTER,
    "hosted": _ENGINE | {"engine"},
    "virtual": _ENGINE | {"engine"},
    "bundles": _ENGINE | {"engine"},
    "checkup": _ENGINE | {"engine"},
    "tokens": _ADAPTER,
    "web": _ENGINE | {"engine", "hosted", "virtual", "bundles", "checkup", "tokens"},
}
"""What a room may import besides itself. The top floor may import everything."""

TOP = frozenset(
    "__init__ __main__ backends backup channel cli cli_checkup cli_health cli_s3 cli_token config control datadir fetch inspection life migrate place "
    "questions reload serving supervisor targets terminal wiring".split()
)

PURE = frozenset({"model", "limits", "errors", "rules", "providers"})
PURE_IMPORTS = frozenset(
    "__future__ abc ast base64 binascii bisect bz2 calendar codecs collections contextlib copy dataclasses datetime "
    "decimal difflib email enum fnmatch fractions functools gzip hashlib heapq hmac html importlib io ipaddress "
    "itertools json keyword lzma math operator packageurl packaging pkgutil posixpath re string struct tarfile "
    "textwrap tomllib types typing unicodedata urllib xml zipfile zlib".split()
)
"""The standard library without I/O, and parsers that are pure."""
IMPURE_PARTS = frozenset({"urllib.request", "urllib.robotparser"})
CLOCKS = frozenset({"now", "utcnow", "today"})
BUILTINS_WITH_IO = frozenset({"open", "input", "print"})

DRIVERS = {
    "sqlite3": "indexes",
    "asyncpg": "indexes",
    "aiobotocore": "stores",
    "botocore": "stores",
    "redis": "coordination",
}
AIOHTTP_CLIENT = re.compile(
    r"Client[A-Z]\w*|TCPConnector|UnixConnector|BaseConnector|request|client\w*|connector"
)
SQL = re.compile(
    r"\s*(?:SELECT\s.+\sFROM|INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+(?:TABLE|INDEX)|PRAGMA\s+\w)",
    re.DOTALL,
)

BROAD_EXCEPTS = {
    "web/app.py": 2,  # the boundary: a bug becomes a 500, and one in reporting must not end the server
    "web/respond.py": 1,  # the same boundary, once a body has begun and only a reset is left
    "engine/fill.py": 1,  # the fill task: whatever happens reaches every reader
    "engine/reader.py": 1,  # the helper process: what a provider raises is raised again in the server
    "engine/janitor.py": 1,  # the janitor's loop outlives one bad round
    "checkup/rounds.py": 1,  # and so does that of the background scrub
}
"""Where `except Exception` may stand, and how often."""

NAMES_THAT_SAY_NOTHING = re.compile(r"(?:Manager|Handler|Service|Helper|Utils?)$")
NOQA = re.compile(r"#\s*(?:ruff:\s*)?noqa\b(?::\s*[A-Z]+[0-9]+(?:\s*,\s*[A-Z]+[0-9]+)*)?(.*)")


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    source: str

    @property
    def room(self) -> str:
        return self.name.split("/")[0].removesuffix(".py")

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.name)

    @property
    def dotted(self) -> list[str]:
        """The parts of the package that the module stands in, for relative imports."""
        return [PACKAGE, *self.name.split("/")[:-1]]


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Every imported dotted name with its line; `from a import b` yields `a.b`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.dotted[: len(module.dotted) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def floor_breaches(module: Module) -> list[str]:
    """Imports that point up or sideways."""
    if module.room in TOP:
        return []
    if module.room not in FLOORS:
        return [f"{module.name}: a room without a floor; give it one in tests/house.py"]
    allowed = FLOORS[module.room] | {module.room}
    found = []
    for name, line in imports(module):
        parts = name.split(".")
        if (
            parts[0] == PACKAGE
            and len(parts) > 1
            and parts[1] not in allowed
            and not parts[1].startswith("__")
        ):
            found.append(f"{module.name}:{line}: {module.room} may not import {parts[1]}")
    return found


def purity_breaches(module: Module) -> list[str]:
    """I/O, clocks, environment, randomness, logging or `async` on the pure floors."""
    if module.room not in PURE:
        return []
    found = []
    for name, line in imports(module):
        impure = any(name == part or name.startswith(part + ".") for part in IMPURE_PARTS)
        if name.split(".")[0] not in PURE_IMPORTS | {PACKAGE} or impure:
            found.append(f"{module.name}:{line}: a pure room may not import {name}")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
            found.append(f"{module.name}:{node.lineno}: async means I/O")
        elif isinstance(node, ast.Call):
            found += [f"{module.name}:{node.lineno}: {why}" for why in _impure_call(node)]
    return found


def _impure_call(call: ast.Call) -> list[str]:
    function = call.func
    if isinstance(function, ast.Name) and function.id in BUILTINS_WITH_IO:
        return [f"{function.id}() does I/O"]
    if isinstance(function, ast.Attribute) and function.attr in CLOCKS:
        return [f"{function.attr}() reads the clock; time is passed in"]
    return []


def driver_breaches(module: Module) -> list[str]:
    """aiohttp's two halves, database drivers and SQL outside the rooms that own them."""
    found = []
    for name, line in imports(module):
        top = name.split(".")[0]
        if top == "aiohttp" and not _may_use_aiohttp(module.room, name):
            found.append(f"{module.name}:{line}: {module.room} may not use {name}")
        if DRIVERS.get(top, module.room) != module.room:
            found.append(f"{module.name}:{line}: {top} belongs in {DRIVERS[top]}/")
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "aiohttp"
            and not _may_use_aiohttp(module.room, f"aiohttp.{node.attr}")
        ):
            found.append(f"{module.name}:{node.lineno}: {module.room} may not use aiohttp.{node.attr}")
    if module.room != "indexes":
        texts = _texts(module.tree)
        found += [f"{module.name}:{line}: SQL belongs in indexes/" for text, line in texts if SQL.match(text)]
    return found


def _may_use_aiohttp(room: str, name: str) -> bool:
    part = [*name.split("."), ""][1]
    if room in ("upstream", "stores"):  # what goes to registries, and to the bucket
        return not part.startswith("web")
    return room == "web" and AIOHTTP_CLIENT.fullmatch(part) is None


def _texts(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """String constants that are not docstrings or other bare statements."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value, node.lineno


def size_breaches(module: Module, limit: int = FUNCTION_LINES) -> list[str]:
    """Functions that do not fit on a screen."""
    return [
        f"{module.name}:{node.lineno}: {node.name} has {lines} lines; {limit} are allowed"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > limit
    ]


def except_breaches(module: Module) -> list[str]:
    """Broad handlers outside the table; `BaseException` and bare `except` anywhere."""
    found, broad = [], []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = (
            {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            if node.type
            else {"BaseException"}
        )
        if "BaseException" in caught:
            found.append(f"{module.name}:{node.lineno}: catches what only the interpreter may catch")
        elif "Exception" in caught:
            broad.append(f"{module.name}:{node.lineno}: `except Exception` hides bugs here")
    return found + broad[BROAD_EXCEPTS.get(module.name, 0) :]


def environment_breaches(module: Module) -> list[str]:
    """Reading the environment is the command line's; `failpoints` is armed by it once."""
    if module.room in TOP - {"config"} or module.room == "failpoints":
        return []
    return [
        f"{module.name}:{node.lineno}: reads the environment"
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(a.name in ("environ", "getenv") for a in node.names)
        )
    ]


def response_breaches(module: Module) -> list[str]:
    """One file writes bodies: only it makes a streaming response."""
    if module.name == "web/respond.py":
        return []
    return [
        f"{module.name}:{node.lineno}: only web/respond.py writes bodies"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and _last_name(node.func) in ("StreamResponse", "FileResponse")
    ]


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def docstring_breaches(module: Module) -> list[str]:
    if not module.source.strip() or ast.get_docstring(module.tree):
        return []
    return [f"{module.name}: says nowhere what lives here"]


def name_breaches(module: Module) -> list[str]:
    return [
        f"{module.name}:{node.lineno}: {node.name} says nothing"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and NAMES_THAT_SAY_NOTHING.search(node.name)
    ]


def noqa_breaches(module: Module) -> list[str]:
    """An exception from a lint rule names the rule and says why, on the line."""
    found = []
    for number, line in enumerate(module.source.splitlines(), 1):
        match = NOQA.search(line)
        if match and (":" not in match[0].split("noqa", 1)[1][:1] or not re.search(r"\w{3}", match[1])):
            found.append(f"{module.name}:{number}: noqa without a rule and a reason")
    return found


RULES = (
    floor_breaches,
    purity_breaches,
    driver_breaches,
    size_breaches,
    except_breaches,
    environment_breaches,
    response_breaches,
    docstring_breaches,
    name_breaches,
    noqa_breaches,
)


def host_breaches(texts: Iterable[tuple[str, str]], hosts: Iterable[str]) -> list[str]:
    """Lines that hold one of these hosts or a name below it; the found text itself is not repeated."""
    names = "|".join(re.escape(host) for host in sorted(hosts, key=len, reverse=True))
    pattern = re.compile(rf"(?<![a-z0-9-])(?:{names})(?![a-z0-9-]|\.[a-z0-9])", re.IGNORECASE)
    return [
        f"{name}:{number}: the host name of a public registry; take it from PublicOrigins"
        for name, text in texts
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
