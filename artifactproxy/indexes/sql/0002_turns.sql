-- Periodic work that falls to one process of many: when it was last taken.
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
