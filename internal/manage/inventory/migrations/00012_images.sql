-- +goose Up
-- What was said of images, whatever their revisions.
CREATE TABLE image_sets (
    image  TEXT PRIMARY KEY,
    data   TEXT NOT NULL                -- values by key, as JSON
) STRICT;

-- +goose Down
DROP TABLE image_sets;
