package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// ImageSet reads what was said of an image: values by key, nil where nothing was.
func (d *DB) ImageSet(ctx context.Context, image string) (map[string]string, error) {
	return imageSet(d.sql.QueryRowContext(ctx, selectImageSet, image), image)
}

const selectImageSet = `SELECT data FROM image_sets WHERE image = ?`

func imageSet(row *sql.Row, image string) (set map[string]string, err error) {
	var s string
	if err := row.Scan(&s); errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	} else if err != nil {
		return nil, explain(err)
	}
	if err := json.Unmarshal([]byte(s), &set); err != nil {
		return nil, fmt.Errorf("inventory: what was said of the image %s cannot be read: %w", image, err)
	}
	return set, nil
}

// PutImageSet changes what is said of an image. An empty value unsets.
func (d *DB) PutImageSet(ctx context.Context, image string, change map[string]string) error {
	return d.Update(ctx, func(t *Tx) error {
		set, err := imageSet(t.tx.QueryRowContext(ctx, selectImageSet, image), image)
		if err != nil {
			return err
		}
		if set == nil {
			set = map[string]string{}
		}
		maps.Copy(set, change)
		maps.DeleteFunc(set, func(_, v string) bool { return v == "" })
		if len(set) == 0 {
			_, err := t.tx.ExecContext(ctx, `DELETE FROM image_sets WHERE image = ?`, image)
			return explain(err)
		}
		b, err := json.Marshal(set)
		if err != nil {
			return err
		}
		_, err = t.tx.ExecContext(ctx, `INSERT INTO image_sets(image, data) VALUES(?, ?) ON CONFLICT(image) DO UPDATE SET data = excluded.data`, image, string(b))
		return explain(err)
	})
}
