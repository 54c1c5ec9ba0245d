-- +goose Up
CREATE TABLE groups (
    name        TEXT PRIMARY KEY,
    own         TEXT NOT NULL DEFAULT '{}',  -- keys and values, as JSON
    bmc_sealed  BLOB                         -- a BMC's password, sealed
) STRICT;

INSERT INTO groups(name) SELECT DISTINCT g.value FROM nodes, json_each(nodes.data, '$.groups') AS g;

ALTER TABLE nodes ADD COLUMN own TEXT NOT NULL DEFAULT '{}';     -- keys and values that were said of the node itself
ALTER TABLE nodes ADD COLUMN learnt TEXT NOT NULL DEFAULT '{}';  -- those that its requests have shown

-- A patch of nothing by an object leaves out what is null in it.
UPDATE nodes SET own = json_patch(
    json_patch('{}', json_object(
        'groups', (SELECT group_concat(g.value, ',') FROM json_each(nodes.data, '$.groups') AS g),
        'mac', (SELECT group_concat(json_extract(c.value, '$.mac'), ',') FROM json_each(nodes.data, '$.nics') AS c),
        'ip', (SELECT group_concat(coalesce(json_extract(c.value, '$.ip'), '-'), ',') FROM json_each(nodes.data, '$.nics') AS c),
        'bmc', json_extract(data, '$.bmc.url'),
        'bmc.user', json_extract(data, '$.bmc.user'),
        'bmc.insecure', CASE WHEN json_extract(data, '$.bmc.insecure') THEN 'true' END,
        'bmc.cipher_suite', CAST(json_extract(data, '$.bmc.cipher_suite') AS TEXT),
        'profile', json_extract(data, '$.profile'),
        'hostname', json_extract(data, '$.hostname'),
        'disk.serial', json_extract(data, '$.disk.serial'),
        'disk.wwn', json_extract(data, '$.disk.wwn'),
        'disk.bus', json_extract(data, '$.disk.bus'),
        'disk.by_path', json_extract(data, '$.disk.by_path'),
        'disk.min_size', CAST(json_extract(data, '$.disk.min_size') AS TEXT),
        'disk.max_size', CAST(json_extract(data, '$.disk.max_size') AS TEXT),
        'knobs.disk_boot', json_extract(data, '$.knobs.disk_boot'),
        'knobs.loader', json_extract(data, '$.knobs.loader'),
        'knobs.console', json_extract(data, '$.knobs.console'),
        'knobs.cmdline', json_extract(data, '$.knobs.cmdline')
    )),
    (SELECT json_group_object('label.' || l.key, l.value) FROM json_each(nodes.data, '$.labels') AS l)
);

-- Until now, what a node showed went over what was said of it.
UPDATE nodes SET learnt = json_patch('{}', json_object('arch', json_extract(data, '$.arch'), 'firmware', json_extract(data, '$.firmware')));

-- +goose Down
ALTER TABLE nodes DROP COLUMN learnt;
ALTER TABLE nodes DROP COLUMN own;
DROP TABLE groups;
