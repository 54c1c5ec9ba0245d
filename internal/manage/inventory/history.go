package inventory

import (
	"context"
	"database/sql"
	"time"
)

// keepLast is how many events of a node stay, however old.
const keepLast = 20

// window is how many rows are looked through at once: others must get to the one connection in between.
const window = 500

// Forgotten counts what Forget forgot.
type Forgotten struct{ Jobs, Batches, Events int64 }

// Forget forgets the jobs that ended before a time, the batches that have no job any more, and the events of before, in small steps. What
// stays: jobs that run or wait, and those of the same batch; of each node that is there, its newest jobs, with their events, and its
// newest twenty events. Audit log and certificates stay as they are.
func (d *DB) Forget(ctx context.Context, before time.Time, jobs int) (f Forgotten, err error) {
	for _, step := range []struct {
		table, key, query string
		args              []any
		n                 *int64
	}{
		{"jobs", "seq", `DELETE FROM jobs WHERE seq BETWEEN ? AND ? AND active = 0 AND unixepoch(json_extract(data, '$.ended')) < ?
			AND (batch = '' OR NOT EXISTS (SELECT 1 FROM jobs AS mate WHERE mate.batch = jobs.batch AND mate.batch != '' AND mate.active = 1))
			AND (node NOT IN (SELECT name FROM nodes) OR seq NOT IN (SELECT seq FROM jobs AS other WHERE other.node = jobs.node ORDER BY seq DESC LIMIT ?))`,
			[]any{before.Unix(), jobs}, &f.Jobs},
		{"batches", "seq", `DELETE FROM batches WHERE seq BETWEEN ? AND ? AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.batch = batches.id AND jobs.batch != '')`, nil, &f.Batches},
		{"events", "id", `DELETE FROM events WHERE id BETWEEN ? AND ? AND time < ? AND (job = '' OR job NOT IN (SELECT id FROM jobs))
			AND (node NOT IN (SELECT name FROM nodes) OR id NOT IN (SELECT id FROM events AS other WHERE other.node = events.node ORDER BY id DESC LIMIT ?))`,
			[]any{millis(before), keepLast}, &f.Events},
	} {
		var first, last sql.NullInt64
		if err := d.sql.QueryRowContext(ctx, `SELECT min(`+step.key+`), max(`+step.key+`) FROM `+step.table).Scan(&first, &last); err != nil {
			return f, explain(err)
		}
		for from := first.Int64; last.Valid && from <= last.Int64; from += window {
			r, err := d.sql.ExecContext(ctx, step.query, append([]any{from, min(from+window-1, last.Int64)}, step.args...)...)
			if err != nil {
				return f, explain(err)
			}
			n, err := r.RowsAffected()
			if err != nil {
				return f, explain(err)
			}
			*step.n += n
		}
	}
	return f, nil
}
