BEGIN;
CREATE TABLE goose_db_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	);
CREATE TABLE nodes (
    name        TEXT PRIMARY KEY,
    data        TEXT NOT NULL,             -- node.Node as JSON, without the BMC's password
    bmc_sealed  BLOB,                      -- the BMC's password, sealed
    boot_nonce  TEXT NOT NULL DEFAULT '',  -- goes into the token of a boot that belongs to no job
    ssh_keys    TEXT NOT NULL DEFAULT '[]',
    hardware    TEXT,                      -- api.Hardware as last reported
    seen_at     INTEGER,                   -- Unix milliseconds
    last_event  TEXT NOT NULL DEFAULT ''
, own TEXT NOT NULL DEFAULT '{}', learnt TEXT NOT NULL DEFAULT '{}') STRICT;
CREATE TABLE nics (
    mac   TEXT PRIMARY KEY,
    node  TEXT NOT NULL REFERENCES nodes(name) ON DELETE CASCADE,
    ip    TEXT UNIQUE
) STRICT;
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
, batch TEXT NOT NULL DEFAULT '') STRICT;
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
CREATE TABLE groups (
    name        TEXT PRIMARY KEY,
    own         TEXT NOT NULL DEFAULT '{}',  -- keys and values, as JSON
    bmc_sealed  BLOB                         -- a BMC's password, sealed
) STRICT;
CREATE TABLE batches (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    id        TEXT NOT NULL UNIQUE,
    schedule  TEXT NOT NULL DEFAULT '',    -- that started it
    data      TEXT NOT NULL                -- api.Batch as JSON, without what its jobs say
) STRICT;
CREATE TABLE schedules (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    id    TEXT NOT NULL UNIQUE,
    key   TEXT NOT NULL UNIQUE,            -- made by the client
    data  TEXT NOT NULL                    -- api.Schedule as JSON
) STRICT;
CREATE TABLE certificates (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    job   TEXT NOT NULL UNIQUE,
    data  TEXT NOT NULL                    -- api.SignedCertificate as JSON
) STRICT;
CREATE TABLE retention (
    image TEXT PRIMARY KEY,
    data  TEXT NOT NULL                    -- api.RetentionRule as JSON
) STRICT;
CREATE TABLE pins (
    image TEXT NOT NULL,
    rev   INTEGER NOT NULL,
    PRIMARY KEY (image, rev)
) STRICT;
CREATE TABLE hooks (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    receiver  TEXT NOT NULL,               -- a URL, or the folder of programs
    data      TEXT NOT NULL                -- hook.Message as JSON
) STRICT;
CREATE TABLE image_sets (
    image  TEXT PRIMARY KEY,
    data   TEXT NOT NULL                -- values by key, as JSON
) STRICT;
CREATE TABLE deployed (
    node  TEXT PRIMARY KEY REFERENCES nodes(name) ON DELETE CASCADE,
    data  TEXT NOT NULL                 -- api.LastDeploy as JSON
) STRICT;
CREATE INDEX nics_node ON nics(node);
CREATE UNIQUE INDEX jobs_one_active ON jobs(node) WHERE active = 1;
CREATE INDEX jobs_node ON jobs(node);
CREATE INDEX events_node ON events(node, id);
CREATE INDEX events_job ON events(job, id);
CREATE INDEX batches_schedule ON batches(schedule, seq);
CREATE INDEX jobs_batch ON jobs(batch) WHERE batch != '';
CREATE INDEX jobs_active ON jobs(active) WHERE active = 1;
CREATE INDEX hooks_receiver ON hooks(receiver, seq);
INSERT INTO audit VALUES(1, 1767323045000, 'admin', '127.0.0.1', 'POST /v1/jobs', '{}');
INSERT INTO batches VALUES(1, 'b1', 's1', '{"id":"b1"}');
INSERT INTO certificates VALUES(1, 'j1', '{"certificate":{"version":1},"algorithm":"ed25519","key":"AAAA","signature":"AAAA"}');
INSERT INTO events VALUES(1, 1767323045000, 'n01', 'j1', 'agent', '10.0.0.11', 'speaks');
INSERT INTO goose_db_version VALUES(1, 0, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(2, 1, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(3, 2, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(4, 3, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(5, 5, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(6, 7, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(7, 11, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(8, 12, 1, '2026-01-01 00:00:00');
INSERT INTO goose_db_version VALUES(9, 13, 1, '2026-01-01 00:00:00');
INSERT INTO groups VALUES('rack1', '{"profile":"rack"}', NULL);
INSERT INTO hooks VALUES(1, 'https://ops.example/mimeo', '{"version":1,"id":"0123456789abcdef01234567","time":"2026-01-02T03:14:05Z","event":"job.done","job":{"id":"j1"}}');
INSERT INTO image_sets VALUES('web', '{"postscripts.root":"motd"}');
INSERT INTO job_keys VALUES('key', '["j1"]', 1767323045000);
INSERT INTO jobs VALUES(1, 'j1', 'n01', 0, '{"id":"j1","kind":"capture","node":"n01","image":"web","rev":1,"active":false,"created":"2026-01-02T03:04:05Z","phase":"done","ended":"2026-01-02T03:14:05Z"}', '');
INSERT INTO jobs VALUES(7, 'j7', 'n01', 1, '{"id":"j7","kind":"capture","node":"n01","image":"web","rev":1,"active":true,"created":"2026-01-02T03:04:05Z","phase":"powering"}', 'b1');
INSERT INTO leases VALUES('10.0.0.100', '52:54:00:00:00:09', '', 4102444800000, 0);
INSERT INTO nics VALUES('52:54:00:00:00:01', 'n01', '10.0.0.11');
INSERT INTO nodes VALUES('n01', '{"name":"n01","groups":["rack1"],"nics":[{"mac":"52:54:00:00:00:01","ip":"10.0.0.11"}],"bmc":{"url":"ipmi://10.0.9.1","user":"ops"},"arch":"amd64","firmware":"bios","disk":{"serial":"S1"},"boot":"capture","knobs":{},"labels":{"row":"7"},"created":"2026-01-02T03:04:05Z","last_image":"web@1"}', X'5C5D441D43F7BAABF3E9DD757D9B5DE3BD29C6A1535A0309B6866EE929C65A2326FC996FB67AB8A86628CFAD087C', 'nonce', '["ssh-ed25519 AAAA"]', '{"arch":"amd64","product":"box"}', 1767323045000, 'agent', '{"groups":"rack1","mac":"52:54:00:00:00:01","ip":"10.0.0.11","bmc":"ipmi://10.0.9.1","bmc.user":"ops","disk.serial":"S1","label.row":"7"}', '{"arch":"amd64","firmware":"bios"}');
INSERT INTO pins VALUES('web', 1);
INSERT INTO retention VALUES('web', '{"last":3,"daily":0,"weekly":0}');
INSERT INTO revisions VALUES('web', 1, 'n01', 'j1', 1000, 400);
INSERT INTO schedules VALUES(1, 's1', 'skey', '{"id":"s1"}');
INSERT INTO tokens VALUES('e3316e2bafebb6103a3418e8778c0adc960d40213a03a7e7f4fcd3426ed807bf', 'admin', 'admin', 1767323045000);
INSERT INTO deployed VALUES('n01', '{"image":"web","rev":1,"manifest":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","disk":{"name":"sda","size":1000204886016,"sector_size":512,"serial":"S1"},"job":"j1","time":"2026-01-02T03:14:05Z"}');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('jobs', 7);
INSERT INTO sqlite_sequence VALUES('events', 1);
INSERT INTO sqlite_sequence VALUES('audit', 1);
INSERT INTO sqlite_sequence VALUES('goose_db_version', 9);
INSERT INTO sqlite_sequence VALUES('batches', 1);
INSERT INTO sqlite_sequence VALUES('schedules', 1);
INSERT INTO sqlite_sequence VALUES('certificates', 1);
INSERT INTO sqlite_sequence VALUES('hooks', 1);
COMMIT;
