"""Every SQL text once. Parameters are written `?1`; PostgreSQL wants them as `$1`."""

# ruff: noqa: S608 - every part of these texts is a constant of this file, values are always bound

from __future__ import annotations

_KEY = "repo = ?1 AND path = ?2 AND variant = ?3"

ENTRY_COLUMNS = (
    "repo", "path", "variant", "kind", "sha256", "size", "status", "media_type", "etag",
    "last_modified", "validator_etag", "validator_modified", "cache_control", "source",
    "fetched_at", "checked_at", "ttl", "verified_by", "taught_by", "released", "released_from",
    "purl", "first_seen", "last_used", "generation",
)  # fmt: skip
PROMISE_COLUMNS = (
    "repo", "path", "variant", "digests", "size", "url", "taught_by", "released",
    "released_from", "purl",
)  # fmt: skip


def _columns(names: tuple[str, ...], table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in names)


def _marks(names: tuple[str, ...]) -> str:
    return ", ".join(f"?{number}" for number in range(1, len(names) + 1))


def _updates(names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} = excluded.{name}" for name in names[3:])


_NAMED = (
    "(EXISTS (SELECT 1 FROM entries e WHERE e.sha256 = b.sha256)"
    " OR EXISTS (SELECT 1 FROM superseded s WHERE s.sha256 = b.sha256))"
)

# --- while serving --------------------------------------------------------------------------

FIND = (
    f"SELECT {_columns(ENTRY_COLUMNS[3:], 'e')}, {_columns(PROMISE_COLUMNS[3:], 'p')}"
    " FROM (SELECT ?1 AS repo, ?2 AS path, ?3 AS variant) k"
    " LEFT JOIN entries e ON e.repo = k.repo AND e.path = k.path AND e.variant = k.variant"
    " LEFT JOIN promises p ON p.repo = k.repo AND p.path = k.path AND p.variant = k.variant"
)
HELD = f"SELECT kind, sha256, fetched_at FROM entries WHERE {_KEY}"
RECORD = (
    f"INSERT INTO entries ({', '.join(ENTRY_COLUMNS)}) VALUES ({_marks(ENTRY_COLUMNS)})"
    f" ON CONFLICT (repo, path, variant) DO UPDATE SET {_updates(ENTRY_COLUMNS)}"
    " WHERE excluded.generation >= entries.generation"
)
WANT_BLOB = (
    "INSERT INTO blobs (sha256, size, added_at) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (sha256) DO UPDATE SET size = excluded.size, doomed_at = NULL"
)
SUPERSEDE = (
    "INSERT INTO superseded (repo, path, variant, sha256, fetched_at, replaced_at)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (repo, path, variant, sha256)"
    " DO UPDATE SET fetched_at = excluded.fetched_at, replaced_at = excluded.replaced_at"
)
PROMISED = (
    f"SELECT {_columns(PROMISE_COLUMNS[3:], 'p')}, e.kind, e.sha256"
    " FROM (SELECT ?1 AS repo, ?2 AS path, ?3 AS variant) k"
    " LEFT JOIN promises p ON p.repo = k.repo AND p.path = k.path AND p.variant = k.variant"
    " LEFT JOIN entries e ON e.repo = k.repo AND e.path = k.path AND e.variant = k.variant"
)
LEARN = (
    f"INSERT INTO promises ({', '.join(PROMISE_COLUMNS)}) VALUES ({_marks(PROMISE_COLUMNS)})"
    f" ON CONFLICT (repo, path, variant) DO UPDATE SET {_updates(PROMISE_COLUMNS)}"
)
TOUCH = f"UPDATE entries SET last_used = ?4 WHERE {_KEY} AND last_used < ?4"
COUNT = (
    "INSERT INTO uses (hour, caller, repo, purl, sha256, requests, bytes)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (hour, caller, repo, purl, sha256)"
    " DO UPDATE SET requests = uses.requests + excluded.requests, bytes = uses.bytes + excluded.bytes"
)
RESERVE = "UPDATE counters SET value = value + ?1 WHERE name = 'generation' RETURNING value"

# --- for the janitor ------------------------------------------------------------------------

COLDEST = (
    "SELECT e.sha256, e.size, e.last_used FROM entries e"
    " WHERE e.sha256 IS NOT NULL AND e.last_used < ?1"
    " AND NOT EXISTS (SELECT 1 FROM entries o WHERE o.sha256 = e.sha256"
    " AND (o.last_used > e.last_used OR (o.last_used = e.last_used AND o.id > e.id)))"
    " AND NOT EXISTS (SELECT 1 FROM entries l JOIN locals ON locals.repo = l.repo"
    " WHERE l.sha256 = e.sha256)"
    " ORDER BY e.last_used LIMIT ?2"
)
_ENTRIES = (
    f"SELECT {_columns(ENTRY_COLUMNS[3:], 'e')}, e.repo, e.path, e.variant FROM entries e WHERE e.repo = ?1"
)
ENTRIES_OF_PATH = f"{_ENTRIES} AND e.path = ?3 ORDER BY e.variant LIMIT ?2"
ENTRIES_BELOW = (
    f"{_ENTRIES} AND e.path >= ?3 AND (CAST(?4 AS TEXT) IS NULL OR e.path < ?4)"
    " ORDER BY e.path, e.variant LIMIT ?2"
)
ENTRIES_OF_PACKAGE = (
    f"{_ENTRIES} AND e.purl <> '' AND (e.purl = ?3 OR (e.purl >= ?4 AND e.purl < ?5)"
    " OR (e.purl >= ?6 AND e.purl < ?7)) ORDER BY e.path, e.variant LIMIT ?2"
)
REF_OF = f"SELECT sha256, size FROM entries WHERE {_KEY}"
FORGET = f"DELETE FROM entries WHERE {_KEY}"
FORGET_TAUGHT = "DELETE FROM promises WHERE repo = ?1 AND taught_by = ?2"
UNLEARN_PATH = "DELETE FROM promises WHERE repo = ?1 AND path = ?2 AND taught_by = ?3"
UNLEARN_WHOLE_PATH = "DELETE FROM promises WHERE repo = ?1 AND path = ?2"
UNLEARN_PACKAGE = (
    "DELETE FROM promises WHERE repo = ?1 AND purl <> '' AND (purl = ?2 OR (purl >= ?3 AND purl < ?4)"
    " OR (purl >= ?5 AND purl < ?6))"
)
UNLEARN_REPO = "DELETE FROM promises WHERE repo = ?1"
ENTRIES_NAMING = (
    f"SELECT {_columns(ENTRY_COLUMNS[3:], 'e')}, e.repo, e.path, e.variant FROM entries e WHERE e.sha256 = ?1"
)
# What was pushed is nowhere else: its rows stay, whatever becomes of its bytes.
UNPUSHED = "repo NOT IN (SELECT repo FROM locals)"
KEYS_OF_BLOB = f"SELECT repo, path, variant FROM entries WHERE sha256 = ?1 AND {UNPUSHED}"
FORGET_BLOB = f"DELETE FROM entries WHERE sha256 = ?1 AND {UNPUSHED}"
FORGET_OLD_BLOB = f"DELETE FROM superseded WHERE sha256 = ?1 AND {UNPUSHED}"
DOOM = (
    "INSERT INTO blobs (sha256, size, added_at, doomed_at)"
    " SELECT b.sha256, 0, ?2, ?2 FROM (SELECT ?1 AS sha256) b WHERE NOT " + _NAMED + " ON CONFLICT (sha256)"
    " DO UPDATE SET doomed_at = excluded.doomed_at WHERE blobs.doomed_at IS NULL RETURNING sha256"
)
CONDEMNED = (
    "SELECT b.sha256, b.size FROM blobs b WHERE b.doomed_at <= ?1 AND NOT "
    + _NAMED
    + " ORDER BY b.doomed_at LIMIT ?2"
)
_BURY = "DELETE FROM blobs AS b WHERE b.sha256 = ?1 AND b.doomed_at IS NOT NULL AND NOT " + _NAMED
BURY = f"{_BURY} AND b.seized_at IS NULL"
BURY_SEIZED = _BURY
SEIZE = (
    "UPDATE blobs AS b SET seized_at = ?2 WHERE b.sha256 = ?1 AND b.doomed_at IS NOT NULL AND NOT "
    + _NAMED
    + " RETURNING sha256"
)
RELEASE = "UPDATE blobs SET seized_at = NULL WHERE sha256 = ?1 AND seized_at IS NOT NULL"
KNOWN = (
    "SELECT 1 FROM (SELECT ?1 AS sha256) b WHERE " + _NAMED + " OR EXISTS"
    " (SELECT 1 FROM blobs d WHERE d.sha256 = b.sha256 AND d.doomed_at IS NOT NULL)"
)
EXPIRE_ABSENCES = (
    "DELETE FROM entries WHERE id IN (SELECT id FROM entries"
    " WHERE sha256 IS NULL AND checked_at + ttl < ?1 LIMIT ?2)"
)
REDATE_USES = (
    "UPDATE entries SET last_used = ?1 WHERE id IN (SELECT id FROM entries"
    " WHERE sha256 IS NOT NULL AND last_used > ?2 LIMIT ?3)"
)
COUNT_ABSENCES = "SELECT count(*) FROM entries WHERE sha256 IS NULL"
DROP_ABSENCES = (
    "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE sha256 IS NULL"
    " ORDER BY last_used, id LIMIT ?1)"
)
EXPIRED_BODIES = (
    "SELECT repo, path, variant, sha256 FROM superseded WHERE replaced_at < ?1 ORDER BY replaced_at LIMIT ?2"
)
DROP_BODY = f"DELETE FROM superseded WHERE {_KEY} AND sha256 = ?4"
EXPIRE_USES = (
    "DELETE FROM uses WHERE (hour, caller, repo, purl, sha256) IN"
    " (SELECT hour, caller, repo, purl, sha256 FROM uses WHERE hour < ?1 LIMIT ?2)"
)
TOTAL_BLOBS = "SELECT count(*), coalesce(sum(size), 0) FROM blobs"
TOTAL_PROMISES = "SELECT count(*) FROM promises"
TOTAL_BY_REPO = (
    "SELECT repo, count(*), coalesce(sum(size), 0), sum(CASE WHEN sha256 IS NULL THEN 1 ELSE 0 END)"
    " FROM entries GROUP BY repo ORDER BY repo"
)

# --- for the checker ------------------------------------------------------------------------

_HELD = (
    f"SELECT {_columns(ENTRY_COLUMNS[3:], 'e')}, {_columns(PROMISE_COLUMNS[3:], 'p')},"
    " b.sha256, b.size, b.added_at, b.doomed_at, e.repo, e.path, e.variant, e.id FROM entries e"
    " LEFT JOIN promises p ON p.repo = e.repo AND p.path = e.path AND p.variant = e.variant"
    " LEFT JOIN blobs b ON b.sha256 = e.sha256"
)
HELD_AFTER = f"{_HELD} WHERE e.id > ?1 ORDER BY e.id LIMIT ?2"
HELD_OF_KEY = f"{_HELD} WHERE e.repo = ?1 AND e.path = ?2 AND e.variant = ?3"
_PROMISES = f"SELECT {_columns(PROMISE_COLUMNS[3:], 'p')}, p.repo, p.path, p.variant, p.rowid FROM promises p"
PROMISES_AFTER = f"{_PROMISES} WHERE p.rowid > ?1 ORDER BY p.rowid LIMIT ?2"
PROMISE_OF_KEY = f"{_PROMISES} WHERE p.repo = ?1 AND p.path = ?2 AND p.variant = ?3"
_BLOBS = f"SELECT b.sha256, b.size, b.added_at, b.doomed_at, {_NAMED}, b.rowid FROM blobs b"
BLOBS_AFTER = f"{_BLOBS} WHERE b.rowid > ?1 ORDER BY b.rowid LIMIT ?2"
BLOB_OF_NAME = f"{_BLOBS} WHERE b.sha256 = ?1"
IS_NAMED = f"SELECT 1 FROM (SELECT ?1 AS sha256) b WHERE {_NAMED}"
OLD_AFTER = (
    "SELECT repo, path, variant, sha256, replaced_at, rowid FROM superseded WHERE rowid > ?1"
    " ORDER BY rowid LIMIT ?2"
)
LAST_GENERATION = "SELECT value FROM counters WHERE name = 'generation'"
SURPASS = "UPDATE counters SET value = max(value, ?1) WHERE name = 'generation'"
INTEGRITY = "PRAGMA integrity_check(20)"
FOREIGN_KEYS = "PRAGMA foreign_key_check"
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"

# --- salvage --------------------------------------------------------------------------------

SALVAGED_COLUMNS = {
    "entries": ENTRY_COLUMNS,
    "promises": PROMISE_COLUMNS,
    "blobs": ("sha256", "size", "added_at", "doomed_at"),
    "superseded": ("repo", "path", "variant", "sha256", "fetched_at", "replaced_at"),
    "uses": ("hour", "caller", "repo", "purl", "sha256", "requests", "bytes"),
    "locals": ("repo",),
    "uploads": ("id", "repo", "name", "caller", "size", "parts", "started", "touched"),
    "tokens": ("id", "name", "fingerprint", "scopes", "created", "expires", "revoked", "used"),
    "seals": ("name", "value"),
    "counters": ("name", "value"),
}
"""Every table with its columns, in the order in which they are worth most."""


def salvage_from(table: str, *, backwards: bool = False) -> str:
    """Rows from rowid ?1 on, in either direction, at most ?2; the rowid comes last."""
    names = ", ".join(SALVAGED_COLUMNS[table])
    if backwards:
        return f"SELECT {names}, rowid FROM {table} WHERE rowid <= ?1 ORDER BY rowid DESC LIMIT ?2"
    return f"SELECT {names}, rowid FROM {table} WHERE rowid >= ?1 ORDER BY rowid LIMIT ?2"


def salvage_into(table: str) -> str:
    """A row that breaks a constraint is left out."""
    names = SALVAGED_COLUMNS[table]
    return f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({_marks(names)})"


SALVAGED_COUNTER = "UPDATE counters SET value = max(value, ?2) WHERE name = ?1 AND typeof(?2) = 'integer'"
COUNT_NAMED = (
    "INSERT OR IGNORE INTO blobs (sha256, size, added_at) SELECT sha256, max(size), max(fetched_at)"
    " FROM entries WHERE sha256 IS NOT NULL GROUP BY sha256"
)
BEYOND_ROWS = (
    "UPDATE counters SET value = max(value, (SELECT coalesce(max(generation), 0) FROM entries))"
    " WHERE name = 'generation'"
)

# --- turns and uploads under way ------------------------------------------------------------

TAKE_TURN = (
    "INSERT INTO turns (name, taken_at) VALUES (?1, ?2) ON CONFLICT (name)"
    " DO UPDATE SET taken_at = excluded.taken_at"
    " WHERE turns.taken_at <= ?3 OR turns.taken_at > excluded.taken_at RETURNING name"
)
INTEND = (
    "INSERT INTO intents (id, sha256, upload, owner, started) VALUES (?1, ?2, ?3, ?4, ?5)"
    " ON CONFLICT (id) DO UPDATE SET sha256 = excluded.sha256, upload = excluded.upload,"
    " owner = excluded.owner, started = excluded.started"
)
FULFIL = "DELETE FROM intents WHERE id = ?1"
INTENTS = (
    "SELECT id, sha256, upload, owner, started FROM intents WHERE started < ?1 ORDER BY started LIMIT ?2"
)

# --- repositories that take pushes ----------------------------------------------------------

ENTRY_OF_KEY = f"SELECT {_columns(ENTRY_COLUMNS[3:], 'e')} FROM entries e WHERE {_KEY}"
VARIANTS = (
    f"SELECT {_columns(ENTRY_COLUMNS[3:], 'e')}, e.repo, e.path, e.variant FROM entries e"
    " WHERE e.repo = ?1 AND e.path = ?2 AND e.variant > ?3 AND e.variant < ?4 AND e.sha256 IS NOT NULL"
    " ORDER BY e.variant LIMIT ?5"
)
PATHS = (
    "SELECT DISTINCT path FROM entries WHERE repo = ?1 AND path > ?2 AND variant >= ?3 AND variant < ?4"
    " ORDER BY path LIMIT ?5"
)
ALIKE = (
    "SELECT repo, path, variant, sha256 FROM entries WHERE repo = ?1 AND path = ?2 AND variant >= ?3"
    " AND variant < ?4 AND sha256 = ?5"
)
UPLOAD_COLUMNS = ("id", "repo", "name", "caller", "size", "parts", "started", "touched")
OPEN_UPLOAD = (
    f"INSERT INTO uploads ({', '.join(UPLOAD_COLUMNS)}) SELECT {_marks(UPLOAD_COLUMNS)}"
    " WHERE (SELECT count(*) FROM uploads WHERE caller = ?4) < ?9"
)
UPLOAD = f"SELECT {', '.join(UPLOAD_COLUMNS)} FROM uploads WHERE id = ?1"
ADVANCE_UPLOAD = (
    "UPDATE uploads SET size = size + ?3, parts = parts + 1, touched = ?4 WHERE id = ?1 AND size = ?2"
    f" RETURNING {', '.join(UPLOAD_COLUMNS)}"
)
CLOSE_UPLOAD = "DELETE FROM uploads WHERE id = ?1 AND size = ?2 AND parts = ?3"
IDLE_UPLOADS = (
    f"SELECT {', '.join(UPLOAD_COLUMNS)} FROM uploads WHERE touched < ?1 ORDER BY touched, id LIMIT ?2"
)
IS_SEIZED = "SELECT 1 FROM blobs WHERE sha256 = ?1 AND seized_at IS NOT NULL"
STRAYS = (
    "SELECT repo, path, variant FROM entries e WHERE e.variant >= 'part:' AND e.variant < 'part;'"
    " AND e.fetched_at < ?1 AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.id = substr(e.variant, 6, 32))"
    " ORDER BY e.fetched_at LIMIT ?2"
)

# --- tokens ---------------------------------------------------------------------------------

TOKEN_COLUMNS = ("id", "name", "fingerprint", "scopes", "created", "expires", "revoked", "used")
_TOKEN = ", ".join(TOKEN_COLUMNS)
TOKEN = f"SELECT {_TOKEN} FROM tokens WHERE id = ?1"
TOKENS = f"SELECT {_TOKEN} FROM tokens ORDER BY name, created"
# The casts are for PostgreSQL, which would take these for texts.
ADD_TOKEN = (
    f"INSERT INTO tokens ({_TOKEN}) SELECT ?1, ?2, ?3, ?4, CAST(?5 AS DOUBLE PRECISION),"
    " CAST(?6 AS DOUBLE PRECISION), CAST(?7 AS DOUBLE PRECISION), CAST(?8 AS DOUBLE PRECISION)"
    " WHERE NOT EXISTS (SELECT 1 FROM tokens t WHERE t.name = ?2 AND t.revoked IS NULL"
    " AND (t.expires IS NULL OR t.expires > CAST(?5 AS DOUBLE PRECISION)))"
)
ADOPT_TOKEN = (
    f"INSERT INTO tokens ({_TOKEN}) VALUES ({_marks(TOKEN_COLUMNS)})"
    f" ON CONFLICT (id) DO UPDATE SET {_updates(TOKEN_COLUMNS)}, name = excluded.name, fingerprint = excluded.fingerprint"
)
FORGET_TOKENS = "DELETE FROM tokens WHERE revoked < ?1 OR expires < ?1"
REVOKE = f"UPDATE tokens SET revoked = ?2 WHERE name = ?1 AND revoked IS NULL RETURNING {_TOKEN}"
NOTE_USE = "UPDATE tokens SET used = ?2 WHERE id = ?1 AND (used IS NULL OR used < ?2)"
PROPOSE_SEAL = "INSERT INTO seals (name, value) VALUES ('tickets', ?1) ON CONFLICT (name) DO NOTHING"
SEAL = "SELECT value FROM seals WHERE name = 'tickets'"

# --- life -----------------------------------------------------------------------------------

ADD_LOCAL = "INSERT INTO locals (repo) VALUES (?1) ON CONFLICT (repo) DO NOTHING"
READ_CLEAN = "SELECT value FROM counters WHERE name = 'clean'"
QUICK_CHECK = "PRAGMA quick_check(1)"
MARK_CLEAN = "UPDATE counters SET value = ?1 WHERE name = 'clean'"

# --- whole copies ---------------------------------------------------------------------------

COPY_INTO = "VACUUM INTO ?1"
NAMED_BLOBS = (
    "SELECT n.sha256, coalesce((SELECT e.size FROM entries e WHERE e.sha256 = n.sha256 LIMIT 1),"
    " (SELECT b.size FROM blobs b WHERE b.sha256 = n.sha256), 0) FROM"
    " (SELECT sha256 FROM entries WHERE sha256 > ?1 UNION SELECT sha256 FROM superseded WHERE sha256 > ?1"
    " ORDER BY sha256 LIMIT ?2) n"
)
BURY_ALL_UNNAMED = f"DELETE FROM blobs AS b WHERE NOT {_NAMED}"
OBJECTS = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY type, name"
COLUMNS = (
    'SELECT m.name, c.name, c.type, c."notnull", c.pk, c.hidden FROM sqlite_master m'
    " JOIN pragma_table_xinfo(m.name) c WHERE m.type = 'table' ORDER BY m.name, c.cid"
)
ACTIVE_OBJECTS = (
    "SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%' LIMIT 1"
)
ODD_NAMES = (
    "SELECT 1 FROM entries WHERE sha256 IS NOT NULL AND"
    " (typeof(sha256) <> 'text' OR typeof(size) <> 'integer' OR size < 0)"
    " UNION ALL SELECT 1 FROM superseded WHERE typeof(sha256) <> 'text'"
    " UNION ALL SELECT 1 FROM blobs WHERE typeof(sha256) <> 'text' OR typeof(size) <> 'integer' OR size < 0"
    " LIMIT 1"
)
