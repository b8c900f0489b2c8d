-- Uploads in pieces to repositories that take pushes. Their pieces are rows of entries whose variant is
-- `part:`, this id and a number.
CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    repo TEXT NOT NULL,
    name TEXT NOT NULL,
    caller TEXT NOT NULL,
    size BIGINT NOT NULL,
    parts BIGINT NOT NULL,
    started DOUBLE PRECISION NOT NULL,
    touched DOUBLE PRECISION NOT NULL
);
CREATE INDEX uploads_by_touch ON uploads (touched);
CREATE INDEX uploads_by_caller ON uploads (caller);
CREATE INDEX entries_of_uploads ON entries (fetched_at) WHERE variant >= 'part:' AND variant < 'part;';

-- Whoever deletes a doomed blob says so first: until it is buried nobody may count on it.
ALTER TABLE blobs ADD COLUMN seized_at DOUBLE PRECISION;
