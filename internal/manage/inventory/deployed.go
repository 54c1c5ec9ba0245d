package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// PutDeployed keeps what a deploy that is done has left on a disk of a node.
func (t *Tx) PutDeployed(n node.Name, d api.LastDeploy) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	_, err = t.tx.ExecContext(t.ctx, `INSERT INTO deployed(node, data) VALUES(?, ?) ON CONFLICT(node) DO UPDATE SET data = excluded.data`, n, string(b))
	return explain(err)
}

// ForgetDeployed is for when something is about to write to a disk of a node.
func (t *Tx) ForgetDeployed(n node.Name) error {
	_, err := t.tx.ExecContext(t.ctx, `DELETE FROM deployed WHERE node = ?`, n)
	return explain(err)
}

// Deployed reads what the last deploy left on a disk of a node; nil where nothing is known of it.
func (d *DB) Deployed(ctx context.Context, n node.Name) (*api.LastDeploy, error) {
	var s string
	if err := d.sql.QueryRowContext(ctx, `SELECT data FROM deployed WHERE node = ?`, n).Scan(&s); errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	} else if err != nil {
		return nil, explain(err)
	}
	l := new(api.LastDeploy)
	if err := json.Unmarshal([]byte(s), l); err != nil {
		return nil, fmt.Errorf("inventory: what the last deploy left on %s cannot be read: %w", n, err)
	}
	return l, nil
}
