-- +goose Up
-- What the last deploy left on a disk of a node, as long as nothing has begun to write to a disk of it since.
CREATE TABLE deployed (
    node  TEXT PRIMARY KEY REFERENCES nodes(name) ON DELETE CASCADE,
    data  TEXT NOT NULL                 -- api.LastDeploy as JSON
) STRICT;

-- +goose Down
DROP TABLE deployed;
