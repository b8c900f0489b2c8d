-- Types are written so that both engines read them; times are POSIX seconds.

CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    repo TEXT NOT NULL,
    path TEXT NOT NULL,
    variant TEXT NOT NULL,
    kind TEXT NOT NULL,
    sha256 TEXT,
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
    purl TEXT NOT NULL,
    first_seen DOUBLE PRECISION NOT NULL,
    last_used DOUBLE PRECISION NOT NULL,
    generation BIGINT NOT NULL,
    UNIQUE (repo, path, variant)
);
CREATE INDEX entries_by_blob ON entries (sha256, last_used);
CREATE INDEX entries_by_use ON entries (last_used) WHERE sha256 IS NOT NULL;
CREATE INDEX entries_by_purl ON entries (repo, purl) WHERE purl <> '';
CREATE INDEX absences_by_use ON entries (last_used) WHERE sha256 IS NULL;

CREATE TABLE promises (
    repo TEXT NOT NULL,
    path TEXT NOT NULL,
    variant TEXT NOT NULL,
    digests TEXT NOT NULL,
    size BIGINT,
    url TEXT NOT NULL,
    taught_by TEXT NOT NULL,
    released DOUBLE PRECISION,
    released_from TEXT NOT NULL,
    purl TEXT NOT NULL,
    PRIMARY KEY (repo, path, variant)
);
CREATE INDEX promises_by_teacher ON promises (repo, taught_by);

-- Every blob the index has ever named, until it is buried. doomed_at: nothing named it then.
CREATE TABLE blobs (
    sha256 TEXT PRIMARY KEY,
    size BIGINT NOT NULL,
    added_at DOUBLE PRECISION NOT NULL,
    doomed_at DOUBLE PRECISION
);
CREATE INDEX blobs_doomed ON blobs (doomed_at) WHERE doomed_at IS NOT NULL;

CREATE TABLE superseded (
    repo TEXT NOT NULL,
    path TEXT NOT NULL,
    variant TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    fetched_at DOUBLE PRECISION NOT NULL,
    replaced_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (repo, path, variant, sha256)
);
CREATE INDEX superseded_by_blob ON superseded (sha256);
CREATE INDEX superseded_by_time ON superseded (replaced_at);

CREATE TABLE uses (
    hour BIGINT NOT NULL,
    caller TEXT NOT NULL,
    repo TEXT NOT NULL,
    purl TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    requests BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (hour, caller, repo, purl, sha256)
);

-- Repositories whose content was pushed. Names are only added: what was pushed stays protected
-- also when its repository leaves the configuration.
CREATE TABLE locals (repo TEXT PRIMARY KEY);

CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO counters (name, value) VALUES ('generation', 0), ('clean', 1);
