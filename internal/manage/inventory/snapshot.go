package inventory

import (
	"context"
	"fmt"
)

// Snapshot writes a copy of the inventory, as it is at one moment, into a file that is not there yet. Others may go on reading and
// writing.
func (d *DB) Snapshot(ctx context.Context, file string) error {
	conn, err := d.sql.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "VACUUM INTO ?", file); err != nil {
		return fmt.Errorf("copy the inventory: %w", explain(err))
	}
	return nil
}
