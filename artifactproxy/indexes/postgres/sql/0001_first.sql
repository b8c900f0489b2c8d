-- Times are POSIX seconds. `key` is the sha256 of repository, path and variant: their texts may be
-- longer than a row of a unique index (2704 bytes). For the same reason the indexes over texts hold
-- only their beginnings. All texts sort by bytes, whatever the locale of the database.
-- Each later step only adds: a program may meet a schema that is one step ahead of it.

CREATE TABLE entries (
    key BYTEA PRIMARY KEY,
    repo TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    variant TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    sha256 TEXT COLLATE "C",
    size BIGINT,
    status BIGINT NOT NULL,
    media_type TEXT NOT NULL,
    etag TEXT NOT NULL,
    last_modified TEXT NOT NULL,
    validator_etag TEXT NOT NULL,
    validator_modified TEXT NOT NULL,
    cache_control TEXT NOT NULL,
    source TEXT NOT NULL,
    fetched_at DOUBLE PRECISION NOT NULL,
    checked_at DOUBLE PRECISION NOT NULL,
    ttl DOUBLE PRECISION,
    verified_by TEXT NOT NULL,
    taught_by TEXT NOT NULL,
    released DOUBLE PRECISION,
    released_from TEXT NOT NULL,
    purl TEXT COLLATE "C" NOT NULL,
    first_seen DOUBLE PRECISION NOT NULL,
    last_used DOUBLE PRECISION NOT NULL,
    generation BIGINT NOT NULL
);
CREATE INDEX entries_by_path ON entries (left(repo, 100), left(path, 500));
CREATE INDEX entries_by_purl ON entries (left(repo, 100), left(purl, 500)) WHERE purl <> '';
CREATE INDEX entries_by_blob ON entries (sha256, last_used);
CREATE INDEX entries_by_use ON entries (last_used) WHERE sha256 IS NOT NULL;
CREATE INDEX absences_by_use ON entries (last_used) WHERE sha256 IS NULL;

CREATE TABLE promises (
    key BYTEA PRIMARY KEY,
    repo TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    variant TEXT COLLATE "C" NOT NULL,
    digests TEXT NOT NULL,
    size BIGINT,
    url TEXT NOT NULL,
    taught_by TEXT COLLATE "C" NOT NULL,
    released DOUBLE PRECISION,
    released_from TEXT NOT NULL,
    purl TEXT COLLATE "C" NOT NULL
);
CREATE INDEX promises_by_path ON promises (left(repo, 100), left(path, 500));
CREATE INDEX promises_by_teacher ON promises (left(repo, 100), left(taught_by, 500));

-- Every blob the index has ever named, until it is buried. doomed_at: nothing named it then.
CREATE TABLE blobs (
    sha256 TEXT COLLATE "C" PRIMARY KEY,
    size BIGINT NOT NULL,
    added_at DOUBLE PRECISION NOT NULL,
    doomed_at DOUBLE PRECISION
);
CREATE INDEX blobs_doomed ON blobs (doomed_at) WHERE doomed_at IS NOT NULL;

CREATE TABLE superseded (
    key BYTEA NOT NULL,
    repo TEXT NOT NULL,
    path TEXT NOT NULL,
    variant TEXT NOT NULL,
    sha256 TEXT COLLATE "C" NOT NULL,
    fetched_at DOUBLE PRECISION NOT NULL,
    replaced_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (key, sha256)
);
CREATE INDEX superseded_by_blob ON superseded (sha256);
CREATE INDEX superseded_by_time ON superseded (replaced_at);

-- `line` is the sha256 of caller, repository, package and blob.
CREATE TABLE uses (
    hour BIGINT NOT NULL,
    line BYTEA NOT NULL,
    caller TEXT NOT NULL,
    repo TEXT NOT NULL,
    purl TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (hour, line)
);

-- Repositories whose content was pushed. Names are only added: what was pushed stays protected
-- also when its repository leaves the configuration.
CREATE TABLE locals (repo TEXT COLLATE "C" PRIMARY KEY);

-- Periodic work that falls to one process of many: when it was last taken, by the database's clock.
CREATE TABLE turns (name TEXT PRIMARY KEY, taken_at DOUBLE PRECISION NOT NULL);

-- Uploads under way, by our own id; the id of the store is empty until it gave one.
CREATE TABLE intents (
    id TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    upload TEXT NOT NULL,
    owner TEXT NOT NULL,
    started DOUBLE PRECISION NOT NULL
);
CREATE INDEX intents_by_start ON intents (started);

-- What each transaction changed, for those that remember rows: keys, and repositories as a whole.
-- Written last in the transaction; who asks tells by `tx` and its snapshot which are new to it.
CREATE TABLE changes (
    tx XID8 NOT NULL DEFAULT pg_current_xact_id(),
    at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    keys BYTEA[] NOT NULL,
    repos TEXT[] NOT NULL
);
CREATE INDEX changes_by_tx ON changes (tx);
CREATE INDEX changes_by_time ON changes (at);

CREATE SEQUENCE generations;
