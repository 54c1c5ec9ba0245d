package inventory

import (
	"context"
	"fmt"
)

// Snapshot writes a copy of the inventory, as it is at one moment, into a file that is not there yet. Others may go on reading and
// writing. What the last deploys left on disks is not in it: it is not known any more when the copy is used.
func (d *DB) Snapshot(ctx context.Context, file string) error {
	conn, err := d.sql.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "VACUUM INTO ?", file); err != nil {
		return fmt.Errorf("copy the inventory: %w", explain(err))
	}
	for _, q := range []struct {
		text string
		args []any
	}{{"ATTACH ? AS copy", []any{file}}, {"DELETE FROM copy.deployed", nil}, {"DETACH copy", nil}} {
		if _, err := conn.ExecContext(ctx, q.text, q.args...); err != nil {
			return fmt.Errorf("make the copy of the inventory one for later: %w", explain(err))
		}
	}
	return nil
}
