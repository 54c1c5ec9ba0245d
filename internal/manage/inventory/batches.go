package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
)

// NextBatchID makes a short ID that was never used.
func (t *Tx) NextBatchID() (string, error) { return t.nextID("b", "batches") }

// nextID is what the next row of a table will be called.
func (t *Tx) nextID(letter, table string) (string, error) {
	var n int64
	err := t.tx.QueryRowContext(t.ctx, `SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = ?), 0) + 1`, table).Scan(&n)
	return fmt.Sprintf("%s%d", letter, n), explain(err)
}

// AddBatch keeps what was asked for together; schedule is the one that started it, or "".
func (t *Tx) AddBatch(id, schedule string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	_, err = t.tx.ExecContext(t.ctx, `INSERT INTO batches(id, schedule, data) VALUES(?, ?, ?)`, id, schedule, string(b))
	return explain(err)
}

// Batch reads a batch into data.
func (d *DB) Batch(ctx context.Context, id string, data any) error {
	var s string
	if err := d.sql.QueryRowContext(ctx, `SELECT data FROM batches WHERE id = ?`, id).Scan(&s); err != nil {
		return notFound(err, "batch "+id)
	}
	return json.Unmarshal([]byte(s), data)
}

// BatchesOf are the IDs of the batches that a schedule started, newest first.
func (d *DB) BatchesOf(ctx context.Context, schedule string, limit int) ([]string, error) {
	return d.strings(ctx, `SELECT id FROM batches WHERE schedule = ? ORDER BY seq DESC LIMIT ?`, schedule, limit)
}

// strings reads a column of texts.
func (d *DB) strings(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := d.sql.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, explain(err)
		}
		out = append(out, s)
	}
	return out, explain(rows.Err())
}

// AddSchedule keeps a schedule that make gives for a new ID. The same key twice gives the same schedule: then make is
// not called, and data is read into have.
func (d *DB) AddSchedule(ctx context.Context, key string, make func(id string) any, have any) error {
	return d.Update(ctx, func(t *Tx) error {
		var old string
		err := t.tx.QueryRowContext(ctx, `SELECT data FROM schedules WHERE key = ?`, key).Scan(&old)
		if err == nil {
			return json.Unmarshal([]byte(old), have)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return explain(err)
		}
		id, err := t.nextID("s", "schedules")
		if err != nil {
			return err
		}
		b, err := json.Marshal(make(id))
		if err != nil {
			return err
		}
		if _, err := t.tx.ExecContext(ctx, `INSERT INTO schedules(id, key, data) VALUES(?, ?, ?)`, id, key, string(b)); err != nil {
			return explain(err)
		}
		return json.Unmarshal(b, have)
	})
}

// ChangeSchedule reads a schedule into data, calls change and keeps data as it is then.
func (d *DB) ChangeSchedule(ctx context.Context, id string, data any, change func() error) error {
	return d.Update(ctx, func(t *Tx) error {
		var s string
		if err := t.tx.QueryRowContext(ctx, `SELECT data FROM schedules WHERE id = ?`, id).Scan(&s); err != nil {
			return notFound(err, "schedule "+id)
		}
		if err := json.Unmarshal([]byte(s), data); err != nil {
			return err
		}
		if err := change(); err != nil {
			return err
		}
		b, err := json.Marshal(data)
		if err != nil {
			return err
		}
		_, err = t.tx.ExecContext(ctx, `UPDATE schedules SET data = ? WHERE id = ?`, string(b), id)
		return explain(err)
	})
}

// Schedule reads a schedule into data.
func (d *DB) Schedule(ctx context.Context, id string, data any) error {
	var s string
	if err := d.sql.QueryRowContext(ctx, `SELECT data FROM schedules WHERE id = ?`, id).Scan(&s); err != nil {
		return notFound(err, "schedule "+id)
	}
	return json.Unmarshal([]byte(s), data)
}

// Schedules calls fn with the data of each schedule, oldest first.
func (d *DB) Schedules(ctx context.Context, fn func(data []byte) error) error {
	all, err := d.strings(ctx, `SELECT data FROM schedules ORDER BY seq`)
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := fn([]byte(s)); err != nil {
			return err
		}
	}
	return nil
}

// DeleteSchedule forgets a schedule. What it started goes on.
func (d *DB) DeleteSchedule(ctx context.Context, id string) error {
	res, err := d.sql.ExecContext(ctx, `DELETE FROM schedules WHERE id = ?`, id)
	if err != nil {
		return explain(err)
	}
	if n, err := res.RowsAffected(); err == nil && n == 0 {
		return fmt.Errorf("schedule %s: %w", id, ErrNotFound)
	}
	return explain(err)
}
