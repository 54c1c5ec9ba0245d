-- +goose Up
CREATE TABLE batches (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    id        TEXT NOT NULL UNIQUE,
    schedule  TEXT NOT NULL DEFAULT '',    -- that started it
    data      TEXT NOT NULL                -- api.Batch as JSON, without what its jobs say
) STRICT;
CREATE INDEX batches_schedule ON batches(schedule, seq);

ALTER TABLE jobs ADD COLUMN batch TEXT NOT NULL DEFAULT '';
CREATE INDEX jobs_batch ON jobs(batch) WHERE batch != '';
CREATE INDEX jobs_active ON jobs(active) WHERE active = 1;

CREATE TABLE schedules (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    id    TEXT NOT NULL UNIQUE,
    key   TEXT NOT NULL UNIQUE,            -- made by the client
    data  TEXT NOT NULL                    -- api.Schedule as JSON
) STRICT;

-- +goose Down
DROP TABLE schedules;
DROP INDEX jobs_active;
DROP INDEX jobs_batch;
ALTER TABLE jobs DROP COLUMN batch;
DROP TABLE batches;
