-- +goose Up
-- Which revisions of an image stay, by rule and by name.
CREATE TABLE retention (
    image TEXT PRIMARY KEY,
    data  TEXT NOT NULL                    -- api.RetentionRule as JSON
) STRICT;
CREATE TABLE pins (
    image TEXT NOT NULL,
    rev   INTEGER NOT NULL,
    PRIMARY KEY (image, rev)
) STRICT;

-- +goose Down
DROP TABLE pins; DROP TABLE retention;
