-- Uploads in pieces to repositories that take pushes. Their pieces are rows of entries whose variant is
-- `part:`, this id and a number.
CREATE TABLE uploads (
    id TEXT COLLATE "C" PRIMARY KEY,
    repo TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    caller TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    parts BIGINT NOT NULL,
    started DOUBLE PRECISION NOT NULL,
    touched DOUBLE PRECISION NOT NULL
);
CREATE INDEX uploads_by_touch ON uploads (touched);
CREATE INDEX uploads_by_caller ON uploads (left(caller, 500));
CREATE INDEX entries_of_uploads ON entries (fetched_at) WHERE variant >= 'part:' AND variant < 'part;';
CREATE INDEX entries_by_variant ON entries (left(repo, 100), left(path, 400), left(variant, 100))
    WHERE variant <> '';

-- Whoever deletes a doomed blob says so first: until it is buried nobody may count on it.
ALTER TABLE blobs ADD COLUMN seized_at DOUBLE PRECISION;
