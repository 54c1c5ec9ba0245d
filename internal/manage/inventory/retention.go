package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"mimeo/internal/cluster/api"
)

// PutRetention makes a rule that of an image; one that keeps everything is no rule.
func (d *DB) PutRetention(ctx context.Context, image string, r api.RetentionRule) error {
	return d.Update(ctx, func(t *Tx) error {
		if r == (api.RetentionRule{}) {
			_, err := t.tx.ExecContext(ctx, `DELETE FROM retention WHERE image = ?`, image)
			return explain(err)
		}
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = t.tx.ExecContext(ctx, `INSERT INTO retention(image, data) VALUES(?, ?) ON CONFLICT(image) DO UPDATE SET data = excluded.data`, image, string(b))
		return explain(err)
	})
}

// Retention reads the rule of an image: zero where there is none.
func (d *DB) Retention(ctx context.Context, image string) (r api.RetentionRule, err error) {
	var s string
	err = d.sql.QueryRowContext(ctx, `SELECT data FROM retention WHERE image = ?`, image).Scan(&s)
	if errors.Is(err, sql.ErrNoRows) {
		return r, nil
	} else if err != nil {
		return r, explain(err)
	}
	if err := json.Unmarshal([]byte(s), &r); err != nil {
		return r, fmt.Errorf("inventory: the retention rule of %s cannot be read: %w", image, err)
	}
	return r, nil
}

// Retained lists the images that have a rule.
func (d *DB) Retained(ctx context.Context) (images []string, err error) {
	rows, err := d.sql.QueryContext(ctx, `SELECT image FROM retention ORDER BY image`)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var image string
		if err := rows.Scan(&image); err != nil {
			return nil, explain(err)
		}
		images = append(images, image)
	}
	return images, explain(rows.Err())
}

// SetPin pins a revision, or takes its pin away. Doing so twice is no error.
func (d *DB) SetPin(ctx context.Context, image string, rev int, pinned bool) error {
	query := `DELETE FROM pins WHERE image = ? AND rev = ?`
	if pinned {
		query = `INSERT INTO pins(image, rev) VALUES(?, ?) ON CONFLICT DO NOTHING`
	}
	return d.Update(ctx, func(t *Tx) error {
		_, err := t.tx.ExecContext(ctx, query, image, rev)
		return explain(err)
	})
}

// Pins returns the pinned revisions of an image.
func (d *DB) Pins(ctx context.Context, image string) (_ map[int]bool, err error) {
	rows, err := d.sql.QueryContext(ctx, `SELECT rev FROM pins WHERE image = ?`, image)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	out := make(map[int]bool)
	for rows.Next() {
		var rev int
		if err := rows.Scan(&rev); err != nil {
			return nil, explain(err)
		}
		out[rev] = true
	}
	return out, explain(rows.Err())
}
