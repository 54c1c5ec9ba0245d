-- +goose Up
CREATE TABLE nodes (
    name        TEXT PRIMARY KEY,
    data        TEXT NOT NULL,             -- node.Node as JSON, without the BMC's password
    bmc_sealed  BLOB,                      -- the BMC's password, sealed
    boot_nonce  TEXT NOT NULL DEFAULT '',  -- goes into the token of a boot that belongs to no job
    ssh_keys    TEXT NOT NULL DEFAULT '[]',
    hardware    TEXT,                      -- api.Hardware as last reported
    seen_at     INTEGER,                   -- Unix milliseconds
    last_event  TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE nics (
    mac   TEXT PRIMARY KEY,
    node  TEXT NOT NULL REFERENCES nodes(name) ON DELETE CASCADE,
    ip    TEXT UNIQUE
) STRICT;
CREATE INDEX nics_node ON nics(node);

CREATE TABLE leases (
    addr      TEXT PRIMARY KEY,
    mac       TEXT NOT NULL,
    node      TEXT NOT NULL,
    expires   INTEGER NOT NULL,            -- Unix milliseconds
    declined  INTEGER NOT NULL
) STRICT;

CREATE TABLE jobs (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT NOT NULL UNIQUE,
    node    TEXT NOT NULL,
    active  INTEGER NOT NULL,
    data    TEXT NOT NULL                  -- job.Record as JSON
) STRICT;
CREATE UNIQUE INDEX jobs_one_active ON jobs(node) WHERE active = 1;
CREATE INDEX jobs_node ON jobs(node);

CREATE TABLE job_keys (
    key   TEXT PRIMARY KEY,
    jobs  TEXT NOT NULL,                   -- IDs as a JSON list
    made  INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    time  INTEGER NOT NULL,                -- Unix milliseconds
    node  TEXT NOT NULL,
    job   TEXT NOT NULL,
    kind  TEXT NOT NULL,
    addr  TEXT NOT NULL,
    text  TEXT NOT NULL
) STRICT;
CREATE INDEX events_node ON events(node, id);
CREATE INDEX events_job ON events(job, id);

CREATE TABLE revisions (
    image   TEXT NOT NULL,
    rev     INTEGER NOT NULL,
    node    TEXT NOT NULL,
    job     TEXT NOT NULL,
    fresh   INTEGER NOT NULL,              -- raw bytes that the store did not have before
    stored  INTEGER NOT NULL,              -- bytes that they took
    PRIMARY KEY (image, rev)
) STRICT;

CREATE TABLE tokens (
    hash     TEXT PRIMARY KEY,             -- SHA-256 of a token of 256 random bits, hexadecimal
    name     TEXT NOT NULL,
    role     TEXT NOT NULL,                -- viewer, operator, admin
    created  INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    time  INTEGER NOT NULL,
    who   TEXT NOT NULL,                   -- name of the token
    addr  TEXT NOT NULL,
    what  TEXT NOT NULL,                   -- method and path
    data  TEXT NOT NULL                    -- the request, passwords blanked
) STRICT;

-- +goose Down
DROP TABLE audit; DROP TABLE tokens; DROP TABLE revisions; DROP TABLE events; DROP TABLE job_keys; DROP TABLE jobs;
DROP TABLE leases; DROP TABLE nics; DROP TABLE nodes;
