"""SQL for PostgreSQL: the shared texts with `$1` for `?1`, and those that address rows by the digest of
their key, lock them in a fixed order, or take many rows at once (arrays and `unnest`).

Every transaction locks rows of `entries` first and of `blobs` last, each in the order of their keys;
so two of them never wait for each other in a circle. Whether a blob is named is asked in a statement of
its own after its row is locked: only then does the answer include whoever held the lock before.
"""

# ruff: noqa: S608 - every part of these texts is a constant of this file, values are always bound

from __future__ import annotations

import re

from artifactproxy.indexes import statements as shared

_ENTRY_TYPES = {
    "size": "bigint", "status": "bigint", "generation": "bigint",
    **dict.fromkeys(("fetched_at", "checked_at", "ttl", "released", "first_seen", "last_used"), "float8"),
}  # fmt: skip
_ENTRY = ("key", *shared.ENTRY_COLUMNS)
_PROMISE = ("key", *shared.PROMISE_COLUMNS)


def pg(text: str) -> str:
    """A shared text; where it means a row by its `id`, that is its key here."""
    return _numbered(re.sub(r"\bid\b", "key", text))


def _numbered(text: str) -> str:
    """Parameters as PostgreSQL writes them."""
    return re.sub(r"\?(\d+)", r"$\1", text)


def _columns(names: tuple[str, ...], table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in names)


def _arrays(names: tuple[str, ...]) -> str:
    """One array parameter for each column; key and digest of rows come as bytes."""
    types = {"key": "bytea", **_ENTRY_TYPES}
    return ", ".join(f"${n}::{types.get(name, 'text')}[]" for n, name in enumerate(names, 1))


def _insert(table: str, names: tuple[str, ...]) -> str:
    """In the order of the key: others that insert the same rows wait in the same order."""
    listed = ", ".join(names)
    return (
        f"INSERT INTO {table} ({listed}) SELECT {listed} FROM unnest({_arrays(names)}) AS n({listed})"
        " ORDER BY 1 ON CONFLICT DO NOTHING RETURNING key"
    )


def _update(table: str, names: tuple[str, ...], condition: str) -> str:
    sets = ", ".join(f"{name} = n.{name}" for name in names[4:])
    return (
        f"UPDATE {table} t SET {sets} FROM unnest({_arrays(names)}) AS n({', '.join(names)})"
        f" WHERE t.key = n.key{condition} RETURNING t.key"
    )


def _named(sha256: str) -> str:
    return (
        f"(EXISTS (SELECT 1 FROM entries e WHERE e.sha256 = {sha256})"
        f" OR EXISTS (SELECT 1 FROM superseded s WHERE s.sha256 = {sha256}))"
    )


# --- while serving --------------------------------------------------------------------------

FIND = (
    f"SELECT {_columns(_ENTRY[4:], 'e')}, {_columns(_PROMISE[4:], 'p')} FROM (SELECT $1::bytea AS key) k"
    " LEFT JOIN entries e ON e.key = k.key LEFT JOIN promises p ON p.key = k.key"
)
GENERATION = "SELECT nextval('generations')"
INSERT_ENTRIES = _insert("entries", _ENTRY)
HOLD_ENTRIES = (
    "SELECT key, kind, sha256, fetched_at FROM entries WHERE key = ANY($1::bytea[]) ORDER BY key FOR UPDATE"
)
REPLACE_ENTRIES = _update("entries", _ENTRY, " AND n.generation >= t.generation")
SUPERSEDE = (
    "INSERT INTO superseded (key, repo, path, variant, sha256, fetched_at, replaced_at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (key, sha256)"
    " DO UPDATE SET fetched_at = excluded.fetched_at, replaced_at = excluded.replaced_at"
)
# A row that is as it should be is locked all the same, and not written anew.
WANT_BLOBS = (
    "INSERT INTO blobs (sha256, size, added_at) SELECT sha256, size, $3 FROM"
    " unnest($1::text[], $2::bigint[]) AS n(sha256, size) ORDER BY 1 ON CONFLICT (sha256)"
    " DO UPDATE SET size = excluded.size, doomed_at = NULL"
    " WHERE blobs.doomed_at IS NOT NULL OR blobs.size <> excluded.size"
)
PROMISED = (
    f"SELECT key, {_columns(_PROMISE[4:], 'p')} FROM promises p WHERE key = ANY($1::bytea[])"
    " ORDER BY key"
)  # fmt: skip
HOLD_PROMISES = f"{PROMISED} FOR UPDATE"
STORED = "SELECT key, kind, sha256 FROM entries WHERE key = ANY($1::bytea[])"
INSERT_PROMISES = _insert("promises", _PROMISE)
UPDATE_PROMISES = _update("promises", _PROMISE, "")
# Who is held by somebody else is not waited for: a touch may be lost (I6).
TOUCH = (
    "UPDATE entries SET last_used = $2 FROM (SELECT key FROM entries WHERE key = ANY($1::bytea[])"
    " AND last_used < $2 ORDER BY key FOR NO KEY UPDATE SKIP LOCKED) k WHERE entries.key = k.key"
)
USE_COLUMNS = ("hour", "line", "caller", "repo", "purl", "sha256", "requests", "bytes")
STAGED = "staged_uses"
STAGE_USES = f"CREATE TEMPORARY TABLE {STAGED} (LIKE uses) ON COMMIT DROP"
COUNT = (
    f"INSERT INTO uses SELECT * FROM {STAGED} ORDER BY hour, line ON CONFLICT (hour, line) DO UPDATE"
    " SET requests = uses.requests + excluded.requests, bytes = uses.bytes + excluded.bytes"
)

# --- what others must hear of ---------------------------------------------------------------

CHANGED = (
    "INSERT INTO changes (keys, repos) VALUES ($1::bytea[], $2::text[]) RETURNING pg_current_xact_id()::text"
)
XID = "SELECT pg_current_xact_id_if_assigned()::text"
XID_STATUS = "SELECT pg_xact_status($1::text::xid8)"
# All that is visible now and was not in the snapshot of the last look, late commits too.
CHANGES = (
    "SELECT pg_current_snapshot()::text, (SELECT timeline_id FROM pg_control_checkpoint()),"
    " c.tx::text, c.keys, c.repos FROM (SELECT 1) one LEFT JOIN changes c"
    " ON c.tx >= pg_snapshot_xmin($1::text::pg_snapshot)"
    " AND NOT pg_visible_in_snapshot(c.tx, $1::text::pg_snapshot)"
)
SNAPSHOT = "SELECT pg_current_snapshot()::text, (SELECT timeline_id FROM pg_control_checkpoint())"
DROP_CHANGES = "DELETE FROM changes WHERE at < now() - $1::float8 * INTERVAL '1 second'"

# --- for the janitor ------------------------------------------------------------------------

COLDEST = pg(shared.COLDEST)
_ROW = f"SELECT {_columns(_ENTRY[4:], 'e')}, e.repo, e.path, e.variant FROM entries e"
_OF_REPO = "left(e.repo, 100) = left($1, 100) AND e.repo = $1"
ENTRIES_OF_PATH = (
    f"{_ROW} WHERE {_OF_REPO} AND left(e.path, 500) = left($3, 500) AND e.path = $3"
    " ORDER BY e.variant LIMIT $2"
)
_FROM = f"{_ROW} WHERE {_OF_REPO} AND left(e.path, 500) >= left($3, 500) AND e.path >= $3"
ENTRIES_FROM = f"{_FROM} ORDER BY e.path, e.variant LIMIT $2"
ENTRIES_BELOW = (
    f"{_FROM} AND left(e.path, 500) <= left($4, 500) AND e.path < $4 ORDER BY e.path, e.variant LIMIT $2"
)
ENTRIES_OF_PACKAGE = (
    f"{_ROW} WHERE {_OF_REPO} AND e.purl <> '' AND left(e.purl, 500) >= left($3, 500)"
    " AND left(e.purl, 500) <= left($5, 500) AND (e.purl = $3 OR (e.purl >= $4 AND e.purl < $5)"
    " OR (e.purl >= $6 AND e.purl < $7)) ORDER BY e.path, e.variant LIMIT $2"
)
ENTRIES_NAMING = pg(shared.ENTRIES_NAMING)
HOLD_REFS = (
    "SELECT key, sha256, size FROM entries WHERE key = ANY($1::bytea[]) ORDER BY key FOR UPDATE"
)  # fmt: skip
FORGET = "DELETE FROM entries WHERE key = ANY($1::bytea[])"
FORGET_TAUGHT = (
    "DELETE FROM promises p USING unnest($1::text[], $2::text[]) AS t(repo, path)"
    " WHERE left(p.repo, 100) = left(t.repo, 100) AND left(p.taught_by, 500) = left(t.path, 500)"
    " AND p.repo = t.repo AND p.taught_by = t.path RETURNING p.key"
)
_UNLEARN = "DELETE FROM promises WHERE left(repo, 100) = left($1, 100) AND repo = $1"
UNLEARN_SOME = (
    "DELETE FROM promises WHERE key IN (SELECT key FROM promises"
    " WHERE left(repo, 100) = left($1, 100) AND repo = $1 LIMIT $2)"
)
UNLEARN_WHOLE_PATH = f"{_UNLEARN} AND left(path, 500) = left($2, 500) AND path = $2 RETURNING key"
UNLEARN_PATH = (
    f"{_UNLEARN} AND left(path, 500) = left($2, 500) AND path = $2 AND taught_by = $3 RETURNING key"
)
UNLEARN_PACKAGE = (
    f"{_UNLEARN} AND purl <> '' AND (purl = $2 OR (purl >= $3 AND purl < $4)"
    " OR (purl >= $5 AND purl < $6)) RETURNING key"
)
_UNPUSHED = shared.UNPUSHED
HOLD_NAMING = f"SELECT key FROM entries WHERE sha256 = $1 AND {_UNPUSHED} ORDER BY key FOR UPDATE"
FORGET_BLOB = f"DELETE FROM entries WHERE sha256 = $1 AND {_UNPUSHED} RETURNING key, repo, path, variant"
FORGET_OLD_BLOB = pg(shared.FORGET_OLD_BLOB)
HOLD_BLOBS = "SELECT sha256 FROM blobs WHERE sha256 = ANY($1::text[]) ORDER BY sha256 FOR UPDATE"
NOTE_UNNAMED = (
    "INSERT INTO blobs (sha256, size, added_at) SELECT n.sha256, 0, $2 FROM unnest($1::text[]) AS n(sha256)"
    f" WHERE NOT {_named('n.sha256')} ORDER BY 1 ON CONFLICT DO NOTHING"
)
DOOM = (
    "UPDATE blobs b SET doomed_at = $2 WHERE b.sha256 = ANY($1::text[]) AND b.doomed_at IS NULL"
    f" AND NOT {_named('b.sha256')} RETURNING b.sha256"
)
BURY_SEIZED = (
    "DELETE FROM blobs b WHERE b.sha256 = ANY($1::text[]) AND b.doomed_at IS NOT NULL"
    f" AND NOT {_named('b.sha256')}"
)
BURY = f"{BURY_SEIZED} AND b.seized_at IS NULL"
SEIZE = (
    "UPDATE blobs b SET seized_at = $2 WHERE b.sha256 = ANY($1::text[]) AND b.doomed_at IS NOT NULL"
    f" AND NOT {_named('b.sha256')} RETURNING b.sha256"
)
RELEASE = "UPDATE blobs SET seized_at = NULL WHERE sha256 = ANY($1::text[]) AND seized_at IS NOT NULL"
CONDEMNED = pg(shared.CONDEMNED)
# Each half ends at its limit: else all names would be sorted for every page.
NAMED_BLOBS = (
    "SELECT n.sha256, coalesce((SELECT e.size FROM entries e WHERE e.sha256 = n.sha256 LIMIT 1),"
    " (SELECT b.size FROM blobs b WHERE b.sha256 = n.sha256), 0) FROM"
    " ((SELECT DISTINCT sha256 FROM entries WHERE sha256 > $1 ORDER BY sha256 LIMIT $2)"
    " UNION (SELECT DISTINCT sha256 FROM superseded WHERE sha256 > $1 ORDER BY sha256 LIMIT $2)"
    " ORDER BY sha256 LIMIT $2) n ORDER BY n.sha256"
)
UNKNOWN = (
    f"SELECT n.sha256 FROM unnest($1::text[]) AS n(sha256) WHERE NOT {_named('n.sha256')}"
    " AND NOT EXISTS (SELECT 1 FROM blobs d WHERE d.sha256 = n.sha256 AND d.doomed_at IS NOT NULL)"
)
EXPIRE_ABSENCES = f"{pg(shared.EXPIRE_ABSENCES)} RETURNING key"
REDATE_USES = f"{pg(shared.REDATE_USES)} RETURNING key"
COUNT_ABSENCES = pg(shared.COUNT_ABSENCES)
DROP_ABSENCES = f"{pg(shared.DROP_ABSENCES)} RETURNING key"
EXPIRE_BODIES = (
    "DELETE FROM superseded WHERE (key, sha256) IN (SELECT key, sha256 FROM superseded"
    " WHERE replaced_at < $1 ORDER BY replaced_at LIMIT $2) RETURNING sha256"
)
EXPIRE_USES = (
    "DELETE FROM uses WHERE (hour, line) IN (SELECT hour, line FROM uses WHERE hour < $1 LIMIT $2)"
)  # fmt: skip
TOTAL_BLOBS = pg(shared.TOTAL_BLOBS)
TOTAL_PROMISES = pg(shared.TOTAL_PROMISES)
TOTAL_BY_REPO = pg(shared.TOTAL_BY_REPO)
LAST_GENERATION = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM generations"
# Others take numbers meanwhile: the margin keeps the sequence from going back behind them.
SURPASS = "SELECT setval('generations', $1::bigint + 1000) FROM generations WHERE last_value <= $1::bigint"

# --- turns and uploads under way ------------------------------------------------------------

# The database's clock: those of the replicas may differ by more than a turn lasts. A turn dated ahead
# by that much (its clock was set back since) is nobody's.
TAKE_TURN = (
    "INSERT INTO turns AS t (name, taken_at) VALUES ($1, extract(epoch FROM clock_timestamp()))"
    " ON CONFLICT (name) DO UPDATE SET taken_at = excluded.taken_at"
    " WHERE abs(excluded.taken_at - t.taken_at) >= $2 RETURNING name"
)
INTEND = (
    "INSERT INTO intents (id, sha256, upload, owner, started) VALUES ($1, $2, $3, $4, $5)"
    " ON CONFLICT (id) DO UPDATE SET sha256 = excluded.sha256, upload = excluded.upload,"
    " owner = excluded.owner, started = excluded.started"
)
FULFIL = "DELETE FROM intents WHERE id = ANY($1::text[])"
INTENTS = (
    "SELECT id, sha256, upload, owner, started FROM intents WHERE started < $1 ORDER BY started, id LIMIT $2"
)

# --- repositories that take pushes ----------------------------------------------------------

ENTRY_OF_KEY = f"SELECT {_columns(_ENTRY[4:], 'e')} FROM entries e WHERE e.key = $1"
# Whoever sets a key that may be set once waits for others who do.
LOCK_FIXED = "SELECT pg_advisory_xact_lock(('x' || encode(substr($1::bytea, 1, 8), 'hex'))::bit(64)::bigint)"
HOLD_NEEDED = (
    "SELECT key, sha256 FROM entries WHERE key = ANY($1::bytea[]) AND sha256 IS NOT NULL"
    " ORDER BY key FOR KEY SHARE"
)
_OF_PATH = f"{_OF_REPO} AND left(e.path, 400) = left($2, 400) AND e.path = $2 AND e.variant <> ''"
VARIANTS = (
    f"{_ROW} WHERE {_OF_PATH} AND left(e.variant, 100) >= left($3, 100) AND e.variant > $3"
    " AND left(e.variant, 100) <= left($4, 100) AND e.variant < $4 AND e.sha256 IS NOT NULL"
    " ORDER BY e.variant LIMIT $5"
)
PATHS = (
    f"SELECT DISTINCT e.path FROM entries e WHERE {_OF_REPO} AND left(e.path, 400) >= left($2, 400)"
    " AND e.path > $2 AND e.variant <> '' AND e.variant >= $3 AND e.variant < $4 ORDER BY e.path LIMIT $5"
)
ALIKE = (
    f"SELECT e.key FROM entries e WHERE {_OF_PATH} AND e.variant >= $3 AND e.variant < $4 AND e.sha256 = $5"
)
FORGET_RETURNING = "DELETE FROM entries WHERE key = ANY($1::bytea[]) RETURNING key, sha256"
UPLOAD_COLUMNS = ", ".join(shared.UPLOAD_COLUMNS)
OPEN_UPLOAD = (
    f"INSERT INTO uploads ({UPLOAD_COLUMNS}) SELECT $1::text, $2::text, $3::text, $4::text, $5::bigint,"
    " $6::bigint, $7::float8, $8::float8 WHERE (SELECT count(*) FROM uploads"
    " WHERE left(caller, 500) = left($4::text, 500) AND caller = $4::text) < $9"
)
UPLOAD = f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE id = $1"
ADVANCE_UPLOAD = (
    "UPDATE uploads SET size = size + $3, parts = parts + 1, touched = $4 WHERE id = $1 AND size = $2"
    f" RETURNING {UPLOAD_COLUMNS}"
)
CLOSE_UPLOAD = "DELETE FROM uploads WHERE id = $1 AND size = $2 AND parts = $3"
IDLE_UPLOADS = f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE touched < $1 ORDER BY touched, id LIMIT $2"
IS_SEIZED = "SELECT 1 FROM blobs WHERE sha256 = $1 AND seized_at IS NOT NULL"
STRAYS = (
    "SELECT e.repo, e.path, e.variant FROM entries e WHERE e.variant >= 'part:' AND e.variant < 'part;'"
    " AND e.fetched_at < $1 AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.id = substr(e.variant, 6, 32))"
    " ORDER BY e.fetched_at LIMIT $2"
)

# --- tokens ---------------------------------------------------------------------------------

HOLD_TOKENS = "LOCK TABLE tokens IN SHARE ROW EXCLUSIVE MODE"
TOKEN = _numbered(shared.TOKEN)
ALL_TOKENS = shared.TOKENS
ADD_TOKEN = _numbered(shared.ADD_TOKEN)
ADOPT_TOKEN = _numbered(shared.ADOPT_TOKEN)
FORGET_TOKENS = _numbered(shared.FORGET_TOKENS)
REVOKE = _numbered(shared.REVOKE)
NOTE_USE = _numbered(shared.NOTE_USE)
PROPOSE_SEAL = _numbered(shared.PROPOSE_SEAL)
SEAL = shared.SEAL

# --- for the checker ------------------------------------------------------------------------

_HELD = (
    f"SELECT {_columns(_ENTRY[4:], 'e')}, {_columns(_PROMISE[4:], 'p')},"
    " b.sha256, b.size, b.added_at, b.doomed_at, e.repo, e.path, e.variant, e.key FROM entries e"
    " LEFT JOIN promises p ON p.key = e.key LEFT JOIN blobs b ON b.sha256 = e.sha256"
)
HELD_AFTER = f"{_HELD} WHERE e.key > $1 ORDER BY e.key LIMIT $2"
HELD_OF_KEY = f"{_HELD} WHERE e.key = $1"
_PROMISES = f"SELECT {_columns(_PROMISE[4:], 'p')}, p.repo, p.path, p.variant, p.key FROM promises p"
PROMISES_AFTER = f"{_PROMISES} WHERE p.key > $1 ORDER BY p.key LIMIT $2"
PROMISE_OF_KEY = f"{_PROMISES} WHERE p.key = $1"
_BLOBS = f"SELECT b.sha256, b.size, b.added_at, b.doomed_at, {_named('b.sha256')} FROM blobs b"
BLOBS_AFTER = f"{_BLOBS} WHERE b.sha256 > $1 ORDER BY b.sha256 LIMIT $2"
BLOB_OF_NAME = f"{_BLOBS} WHERE b.sha256 = $1"
IS_NAMED = f"SELECT 1 WHERE {_named('$1')}"
OLD_AFTER = (
    "SELECT repo, path, variant, sha256, replaced_at, key FROM superseded"
    " WHERE (key, sha256) > ($1, $2) ORDER BY key, sha256 LIMIT $3"
)
# Not to_regclass: that may answer from a cache which has not heard of a commit just made.
PRESENT = (
    "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid)"
    " AND c.relname = ANY($1::text[])"
)
TABLES = (
    "entries", "promises", "blobs", "superseded", "uses", "locals", "turns", "intents", "uploads", "changes",
    "tokens", "seals",
)  # fmt: skip
INVALID_INDEXES = (
    "SELECT format('the index %s is not valid: run REINDEX INDEX %s', c.relname, c.relname) FROM pg_index i"
    " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid"
    " WHERE t.relname = ANY($1::text[]) AND pg_table_is_visible(t.oid) AND NOT (i.indisvalid AND i.indisready)"
)
MISSING_KEYS = (
    "SELECT format('the table %s has no primary key', c.relname) FROM pg_class c WHERE c.relkind = 'r'"
    " AND pg_table_is_visible(c.oid) AND c.relname = ANY($1::text[]) AND c.relname <> 'changes'"
    " AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
)
CHECKSUM_FAILURES = (
    "SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()"
    " AND checksum_failures > 0"
)

# --- life -----------------------------------------------------------------------------------

LOCK_STEPS = "SELECT pg_advisory_xact_lock(7310577183340871)"  # a number of our own; any would do
MAKE_STEPS = "CREATE TABLE IF NOT EXISTS steps (number INTEGER PRIMARY KEY, name TEXT NOT NULL)"
STEPS = "SELECT number FROM steps"
TAKE_STEP = "INSERT INTO steps (number, name) VALUES ($1, $2)"
SERVER = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
ADD_LOCALS = "INSERT INTO locals (repo) SELECT unnest($1::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
READ_ONLY = "SELECT current_setting('transaction_read_only')"
SET_LOCAL = "SET LOCAL {name} = {value}"
