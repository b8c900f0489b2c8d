"""What is wrong with a configuration, collected so that all of it is told at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from artifactproxy.config.schema import File
from artifactproxy.config.strict import KeyPath
from artifactproxy.errors import ConfigError

_SENTENCES = {
    "missing": "is required",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "tuple_type": "must be a list",
    "dict_type": "must be a section of keys and values",
    "model_type": "must be a section of keys and values",
    "string_too_short": "must not be empty",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
    "later": "{sentence}",
}


class Problems:
    """Knows where each key was written: `FILE:LINE`, the name of a variable, or a flag."""

    def __init__(self) -> None:
        self.origins: dict[KeyPath, str] = {}
        self._lines: list[str] = []

    def at(self, path: KeyPath, sentence: str, *, source: str = "") -> None:
        line = ": ".join(filter(None, (source or self._source(path), ".".join(path), sentence)))
        if line not in self._lines:
            self._lines.append(line)

    def add(self, error: ValidationError) -> None:
        details = error.errors(include_url=False)
        later = {d["loc"][:-1] for d in details if d["type"] == "later" and d["loc"][-1] == "kind"}
        for detail in details:
            # Keys beside `kind: s3` are not misspelt, they come with s3.
            if detail["type"] == "extra_forbidden" and detail["loc"][:-1] in later:
                continue
            self.at(tuple(str(part) for part in detail["loc"]), _sentence(detail))

    def tell(self) -> None:
        """Raises `ConfigError` with one line per problem, if there is any."""
        if self._lines:
            raise ConfigError("\n".join(self._lines))

    def _source(self, path: KeyPath) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return next((o for p, o in self.origins.items() if p[: len(path)] == path), "")


def _sentence(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return unknown(tuple(str(part) for part in detail["loc"]))
    if detail["type"] == "string_type":
        quotable = isinstance(detail["input"], bool | int | float)
        return "must be text; put it in quotes" if quotable else "must be text"
    template = _SENTENCES.get(detail["type"])
    return template.format(**detail.get("ctx", {})) if template else detail["msg"]


def unknown(path: KeyPath) -> str:
    """The sentence about a key that does not exist."""
    near = get_close_matches(path[-1], _known(path[:-1]), n=1, cutoff=0.0)
    if not near:
        return f"unknown key; {'.'.join(path[:-1])} has no keys below it"
    return f"unknown key; the nearest known key is {near[0]}"


def _known(path: KeyPath) -> list[str]:
    section: Any = File
    for part in path:
        if isinstance(section, type) and issubclass(section, BaseModel):
            known = section.model_fields.get(part)
            section = _inner(known.annotation) if known else None
        else:  # a mapping of names to sections
            section = _inner(get_args(section)[1]) if section else None
    is_section = isinstance(section, type) and issubclass(section, BaseModel)
    return list(section.model_fields) if is_section else []


def _inner(annotation: Any) -> Any:
    """The section inside an annotation such as `Auth | None` or `dict[str, Remote]`, else None."""
    if get_origin(annotation) is dict:
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner, get_args(annotation))), None)
