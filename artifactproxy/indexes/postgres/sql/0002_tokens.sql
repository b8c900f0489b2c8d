-- What is kept of tokens: never the token itself. Scopes as they are written, with blanks between them.
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created DOUBLE PRECISION NOT NULL,
    expires DOUBLE PRECISION,
    revoked DOUBLE PRECISION,
    used DOUBLE PRECISION
);
CREATE INDEX tokens_by_name ON tokens (name, created);

-- Under which tickets are sealed, common to all processes.
CREATE TABLE seals (name TEXT PRIMARY KEY, value TEXT NOT NULL);
