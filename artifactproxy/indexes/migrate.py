"""Numbered steps of `sql/`, each applied once, all pending ones in one transaction."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from artifactproxy.errors import IndexUnavailable

_NAME = re.compile(r"(\d{4})_\w+\.sql")
_MADE = "CREATE TABLE IF NOT EXISTS steps (number INTEGER PRIMARY KEY, name TEXT NOT NULL)"
_APPLIED = "SELECT number FROM steps"
_APPLY = "INSERT INTO steps (number, name) VALUES (?1, ?2)"


@dataclass(frozen=True, slots=True)
class Step:
    number: int
    name: str
    sql: str


def steps(package: str = "artifactproxy.indexes") -> list[Step]:
    """Every step this program knows of a package's `sql/`, in order."""
    folder = files(package) / "sql"
    return sorted(
        (
            Step(int(match[1]), match[0], file.read_text(encoding="utf-8"))
            for file in folder.iterdir()
            if (match := _NAME.fullmatch(file.name))
        ),
        key=lambda step: step.number,
    )


def migrate(connection: sqlite3.Connection, known: list[Step]) -> list[str]:
    """Bring the schema up to date; returns the names of the steps it took.

    Raises `IndexUnavailable` if a newer program has been here, sqlite3.Error otherwise.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_MADE)
        applied = {number for (number,) in connection.execute(_APPLIED)}
        latest = known[-1].number
        if applied and max(applied) > latest:
            raise IndexUnavailable(
                f"the index was made by a newer version (schema {max(applied)}, this one knows {latest}):"
                " run that version, or restore a backup from before the upgrade",
                code="index_newer",
                retry_after=None,
            )
        pending = [step for step in known if step.number not in applied]
        for step in pending:
            for statement in split(step.sql):
                connection.execute(statement)
            connection.execute(_APPLY, (step.number, step.name))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return [step.name for step in pending]


def split(script: str) -> Iterator[str]:
    """Single statements, because executescript would commit the transaction around them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
