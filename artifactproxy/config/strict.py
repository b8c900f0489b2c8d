"""YAML without surprises: what looks like text is text, and every value knows its line.

A subset of YAML 1.2's core schema on PyYAML's parser. Only `true` and `false` are booleans, only
plain decimals are numbers, so `1:30`, `010`, `yes` and `2024-01-01` are text. Duplicate keys,
tags, merge keys and documents whose aliases grow out of hand are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

KeyPath = tuple[str, ...]

BYTES_MAX = 1 << 20
DEPTH_MAX = 32
NODES_MAX = 20_000

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}", re.ASCII)
_TEXT, _MAP, _LIST = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))


class Refused(Exception):
    """The text is not acceptable YAML. `line` counts from 1; 0 where it is not known."""

    def __init__(self, sentence: str, *, line: int = 0, path: KeyPath = ()) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.line = line
        self.path = path


@dataclass(slots=True)
class Document:
    """Plain dicts, lists and scalars, and the line of every key and list item."""

    value: object = None
    lines: dict[KeyPath, int] = field(default_factory=dict)


def scalar(text: str) -> object:
    """An unquoted scalar: null, boolean, integer, decimal, else the text itself."""
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text


def read(text: str) -> Document:
    """Parse one document. Raises `Refused`."""
    if len(text) > BYTES_MAX:
        raise Refused(f"is longer than {BYTES_MAX} characters")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "cannot be read"
        raise Refused(f"is not valid YAML: {what}", line=mark.line + 1 if mark else 0) from error
    except yaml.YAMLError as error:
        raise Refused("holds a character that YAML does not allow") from error
    document = Document()
    if node is not None:
        document.value = _Walk(document.lines).value(node, ())
    return document


class _Loader(yaml.SafeLoader):
    """Resolves no scalar by its looks, and bounds the depth so that it cannot exhaust the stack."""

    yaml_implicit_resolvers = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Walk:
    """Turns nodes into values. An alias is the same node met again, so nodes are counted as met."""

    def __init__(self, lines: dict[KeyPath, int]) -> None:
        self.lines = lines
        self.met = 0
        self.open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        line = node.start_mark.line + 1
        self.met += 1
        if self.met > NODES_MAX:
            raise Refused("its aliases stand for too many values", line=line, path=path)
        if id(node) in self.open:
            raise Refused("an alias refers to itself", line=line, path=path)
        if node.tag not in (_TEXT, _MAP, _LIST):
            raise Refused(f"tags such as {node.tag!r} are not used here", line=line, path=path)
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value) if node.style is None else node.value
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return self._sequence(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        found: dict[str, object] = {}
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise Refused("keys must be plain text", line=line, path=path)
            key = str(key_node.value)
            here = (*path, key)
            if key == "<<":
                raise Refused("merge keys are not used here", line=line, path=path)
            if key in seen:
                raise Refused(f"is written twice; first on line {seen[key]}", line=line, path=here)
            seen[key] = line
            self.lines.setdefault(here, line)
            found[key] = self.value(value_node, here)
        return found

    def _sequence(self, node: yaml.Node, path: KeyPath) -> list[object]:
        items: list[object] = []
        for index, item in enumerate(node.value):
            here = (*path, str(index))
            self.lines.setdefault(here, item.start_mark.line + 1)
            items.append(self.value(item, here))
        return items
