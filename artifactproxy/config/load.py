"""Merging the layers: defaults, then the file, then the environment, then flags.

The caller hands in the environment; nothing here looks for one. `null` means the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from artifactproxy.config import strict
from artifactproxy.config.build import Providers, build, default_remotes
from artifactproxy.config.problems import Problems, unknown
from artifactproxy.config.resolved import Config
from artifactproxy.config.schema import File
from artifactproxy.config.strict import KeyPath
from artifactproxy.errors import ConfigError
from artifactproxy.providers._base import PublicOrigins

PREFIX = "ARTIFACTPROXY_"
NOT_KEYS = frozenset((PREFIX + "CONFIG", PREFIX + "FAILPOINTS"))


def load(
    path: Path | None,
    *,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    providers: Providers | None = None,
    origins: PublicOrigins | None = None,
) -> Config:
    """The configuration in force. Raises `ConfigError`, one line per problem.

    `flags` are top-level keys; None means that the flag was not given. `providers` and `origins`
    are those of the program unless a test brings its own.
    """
    if providers is None:
        from artifactproxy.providers import PROVIDERS

        providers = PROVIDERS
    origins = origins or PublicOrigins()
    problems = Problems()
    tree = _from_file(path, problems) if path is not None else {}
    defaults = default_remotes(providers, origins)
    _mount_defaults(tree, defaults)
    _add_environment(tree, env, problems)
    _mount_defaults(tree, defaults)
    for key, value in flags.items():
        if value is not None:
            tree[key] = value
            problems.origins[(key,)] = f"--{key.replace('_', '-')}"
    try:
        file = File.model_validate(_without_nulls(tree))
    except ValidationError as error:
        problems.add(error)
        problems.tell()
        raise AssertionError("a refused configuration without a problem") from error
    return build(file, problems, env=env, providers=providers, origins=origins)


def _mount_defaults(tree: dict[str, object], mounts: Mapping[str, tuple[str, str]]) -> None:
    """Before the environment, which may tune them, and after it, which may have said null."""
    if tree.get("remotes") in (None, {}):
        tree["remotes"] = {
            name: {} if name == provider else {"provider": provider, "upstream": url}
            for name, (provider, url) in mounts.items()
        }


def _from_file(path: Path, problems: Problems) -> dict[str, object]:
    try:
        document = strict.read(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except strict.Refused as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise ConfigError(": ".join(filter(None, (where, ".".join(error.path), error.sentence)))) from error
    if document.value is None:
        return {}
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:1: must be a mapping of keys such as `listen: 127.0.0.1:8080`")
    problems.origins |= {key: f"{path}:{line}" for key, line in document.lines.items()}
    return document.value


def _add_environment(tree: dict[str, object], env: Mapping[str, str], problems: Problems) -> None:
    for variable in sorted(env):
        if not variable.startswith(PREFIX) or variable in NOT_KEYS:
            continue
        path = _key_path(variable, tree)
        try:
            value = _env_value(env[variable])
        except strict.Refused as error:
            problems.at(path, error.sentence, source=variable)
            continue
        if _put(tree, path, value):
            problems.origins[path] = variable
        else:
            problems.at(path, unknown(path), source=variable)


def _key_path(variable: str, tree: Mapping[str, object]) -> KeyPath:
    """`REMOTES__MY_REPO__TTL` names `remotes.my-repo.ttl` where such a remote is written."""
    parts = variable.removeprefix(PREFIX).split("__")
    keys = [part.lower() for part in parts]
    section = tree.get(keys[0])
    if len(keys) > 1 and keys[0] == "remotes" and isinstance(section, dict):
        spelt = keys[1]
        same = [name for name in section if name.lower().replace("-", "_").replace(".", "_") == spelt]
        if len(same) == 1 and spelt not in section:
            keys[1] = same[0]
    return tuple(keys)


def _env_value(text: str) -> object:
    """A YAML scalar; text that opens a quote, a list or a mapping is read as such."""
    if text[:1] not in ("[", "{", '"', "'"):
        return strict.scalar(text)
    return strict.read(text).value


def _put(tree: dict[str, object], path: KeyPath, value: object) -> bool:
    """Set a leaf; False if a part of the way is a value, not a section."""
    section = tree
    for key in path[:-1]:
        inner = section.get(key)
        if inner is None:
            inner = section[key] = {}
        if not isinstance(inner, dict):
            return False
        section = inner
    section[path[-1]] = value
    return True


def _without_nulls(tree: Mapping[str, object], *, names: bool = False) -> dict[str, object]:
    """Drop keys whose value is null; a *name* (of a remote) without a value is an empty section."""
    kept: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            kept[key] = _without_nulls(value, names=key == "remotes")
        elif value is not None:
            kept[key] = value
        elif names:
            kept[key] = {}
    return kept
