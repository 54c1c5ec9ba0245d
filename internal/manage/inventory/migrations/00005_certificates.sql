-- +goose Up
-- What was wiped is proved for longer than the node or its jobs are known.
CREATE TABLE certificates (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    job   TEXT NOT NULL UNIQUE,
    data  TEXT NOT NULL                    -- api.SignedCertificate as JSON
) STRICT;

-- +goose Down
DROP TABLE certificates;
