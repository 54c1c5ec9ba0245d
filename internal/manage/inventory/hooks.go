package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
)

// PutHook keeps a message for a receiver, unless most wait for it already: then it is not kept, and kept is false.
func (t *Tx) PutHook(receiver string, message []byte, most int) (kept bool, err error) {
	r, err := t.tx.ExecContext(t.ctx, `INSERT INTO hooks(receiver, data) SELECT ?, ? WHERE (SELECT count(*) FROM hooks WHERE receiver = ?) < ?`, receiver, string(message), receiver, most)
	if err != nil {
		return false, explain(err)
	}
	n, err := r.RowsAffected()
	return n > 0, explain(err)
}

// NextHook reads the oldest message that waits for a receiver. ok is false where none does.
func (d *DB) NextHook(ctx context.Context, receiver string) (seq int64, message []byte, ok bool, err error) {
	var s string
	err = d.sql.QueryRowContext(ctx, `SELECT seq, data FROM hooks WHERE receiver = ? ORDER BY seq LIMIT 1`, receiver).Scan(&seq, &s)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil, false, nil
	}
	return seq, []byte(s), err == nil, explain(err)
}

// DeleteHook forgets a message that was told, or given up.
func (d *DB) DeleteHook(ctx context.Context, seq int64) error {
	_, err := d.sql.ExecContext(ctx, `DELETE FROM hooks WHERE seq = ?`, seq)
	return explain(err)
}

// KeepHooks forgets the messages for all receivers but these, and returns how many they were.
func (d *DB) KeepHooks(ctx context.Context, receivers []string) (forgotten int64, err error) {
	b, err := json.Marshal(receivers)
	if err != nil {
		return 0, err
	}
	r, err := d.sql.ExecContext(ctx, `DELETE FROM hooks WHERE receiver NOT IN (SELECT value FROM json_each(?))`, string(b))
	if err != nil {
		return 0, explain(err)
	}
	n, err := r.RowsAffected()
	return n, explain(err)
}
