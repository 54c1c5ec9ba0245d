package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"mimeo/internal/cluster/api"
)

// PutCertificate keeps the certificate of a wipe. It outlives the job and the node.
func (t *Tx) PutCertificate(job string, c api.SignedCertificate) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	_, err = t.tx.ExecContext(t.ctx, `INSERT INTO certificates(job, data) VALUES(?, ?) ON CONFLICT(job) DO UPDATE SET data = excluded.data`, job, string(b))
	return explain(err)
}

// Certificate reads the certificate of a wipe.
func (d *DB) Certificate(ctx context.Context, job string) (c api.SignedCertificate, err error) {
	var s string
	if err := d.sql.QueryRowContext(ctx, `SELECT data FROM certificates WHERE job = ?`, job).Scan(&s); err != nil {
		return c, notFound(err, "certificate of job "+job)
	}
	return c, json.Unmarshal([]byte(s), &c)
}

// Certificates reads all certificates, newest first.
func (d *DB) Certificates(ctx context.Context) (out []api.SignedCertificate, err error) {
	rows, err := d.sql.QueryContext(ctx, `SELECT data FROM certificates ORDER BY seq DESC`)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		var c api.SignedCertificate
		if err := rows.Scan(&s); err != nil {
			return nil, explain(err)
		}
		if err := json.Unmarshal([]byte(s), &c); err != nil {
			return nil, fmt.Errorf("inventory: a certificate cannot be read: %w", err)
		}
		out = append(out, c)
	}
	return out, explain(rows.Err())
}
