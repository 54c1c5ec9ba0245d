-- +goose Up
-- What hooks have to be told, until they were.
CREATE TABLE hooks (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    receiver  TEXT NOT NULL,               -- a URL, or the folder of programs
    data      TEXT NOT NULL                -- hook.Message as JSON
) STRICT;
CREATE INDEX hooks_receiver ON hooks(receiver, seq);

-- +goose Down
DROP TABLE hooks;
