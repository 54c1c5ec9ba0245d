package inventory

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Facts are what is known of a node beside what an admin said.
type Facts struct {
	Hardware  *api.Hardware
	SeenAt    *time.Time
	LastEvent string
	SSHKeys   []string // of the shell
	BootNonce string
}

// PutNode makes or replaces a node. A MAC or fixed address that belongs to another node is an *api.Error.
func (t *Tx) PutNode(n node.Node) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if _, err := t.tx.ExecContext(t.ctx, `INSERT INTO nodes(name, data) VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET data = excluded.data`, n.Name, string(b)); err != nil {
		return explain(err)
	}
	if _, err := t.tx.ExecContext(t.ctx, `DELETE FROM nics WHERE node = ?`, n.Name); err != nil {
		return explain(err)
	}
	for _, nic := range n.NICs {
		var owner string
		err := t.tx.QueryRowContext(t.ctx, `SELECT node FROM nics WHERE mac = ? OR (ip IS NOT NULL AND ip = ?)`, nic.MAC, nic.IP).Scan(&owner)
		if err == nil {
			what := nic.MAC
			if nic.IP != "" {
				what += " or " + nic.IP
			}
			return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s: %s belongs to %s already", n.Name, what, owner), Hint: fmt.Sprintf(`see "mimeo node show %s"`, owner)}
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return explain(err)
		}
		var ip any
		if nic.IP != "" {
			ip = nic.IP
		}
		if _, err := t.tx.ExecContext(t.ctx, `INSERT INTO nics(mac, node, ip) VALUES(?, ?, ?)`, nic.MAC, n.Name, ip); err != nil {
			return explain(err)
		}
	}
	return nil
}

// Node reads one node.
func (t *Tx) Node(name node.Name) (n node.Node, err error) {
	return scanNode(t.tx.QueryRowContext(t.ctx, `SELECT data FROM nodes WHERE name = ?`, name))
}

// DeleteNode forgets a node, its events and jobs.
func (t *Tx) DeleteNode(name node.Name) error {
	for _, q := range []string{`DELETE FROM events WHERE node = ?`, `DELETE FROM jobs WHERE node = ?`, `DELETE FROM leases WHERE node = ?`, `DELETE FROM nodes WHERE name = ?`} {
		if _, err := t.tx.ExecContext(t.ctx, q, name); err != nil {
			return explain(err)
		}
	}
	return nil
}

// SetBoot sets what a node boots next.
func (t *Tx) SetBoot(name node.Name, state node.BootState, profile string, once bool) error {
	n, err := t.Node(name)
	if err != nil {
		return err
	}
	n.Boot, n.BootOnce = state, once
	if profile != "" {
		n.Profile = profile
	}
	return t.PutNode(n)
}

// SetBootNonce makes the tokens of earlier boots without a job worthless, and keeps who may sign in to the shell.
func (t *Tx) SetBootNonce(name node.Name, sshKeys []string) error {
	var b [8]byte
	rand.Read(b[:])
	keys, err := json.Marshal(sshKeys)
	if err != nil {
		return err
	}
	_, err = t.tx.ExecContext(t.ctx, `UPDATE nodes SET boot_nonce = ?, ssh_keys = ? WHERE name = ?`, hex.EncodeToString(b[:]), string(keys), name)
	return explain(err)
}

// SetBMCPassword seals a BMC's password; an empty one forgets it.
func (t *Tx) SetBMCPassword(name node.Name, password string) error {
	n, err := t.Node(name)
	if err != nil {
		return err
	}
	n.BMC.HasPassword = password != ""
	if err := t.PutNode(n); err != nil {
		return err
	}
	var sealed []byte
	if password != "" {
		nonce := make([]byte, t.db.seal.NonceSize())
		rand.Read(nonce)
		// The name is bound in, so that a row cannot be moved to another node.
		sealed = t.db.seal.Seal(nonce, nonce, []byte(password), []byte(name))
	}
	_, err = t.tx.ExecContext(t.ctx, `UPDATE nodes SET bmc_sealed = ? WHERE name = ?`, sealed, name)
	return explain(err)
}

// BMCPassword opens what SetBMCPassword sealed.
func (d *DB) BMCPassword(ctx context.Context, name node.Name) (string, error) {
	var sealed []byte
	if err := d.sql.QueryRowContext(ctx, `SELECT bmc_sealed FROM nodes WHERE name = ?`, name).Scan(&sealed); err != nil {
		return "", notFound(err, "node "+string(name))
	}
	if sealed == nil {
		return "", nil
	}
	if len(sealed) < d.seal.NonceSize() {
		return "", fmt.Errorf("%s: the BMC password in the inventory is damaged: set it anew", name)
	}
	plain, err := d.seal.Open(nil, sealed[:d.seal.NonceSize()], sealed[d.seal.NonceSize():], []byte(name))
	if err != nil {
		return "", fmt.Errorf("%s: the BMC password cannot be opened with the key in the state folder: set it anew", name)
	}
	return string(plain), nil
}

// Nodes reads all nodes in order of their names.
func (d *DB) Nodes(ctx context.Context) ([]node.Node, error) {
	rows, err := d.sql.QueryContext(ctx, `SELECT data FROM nodes ORDER BY name`)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []node.Node
	for rows.Next() {
		n, err := scanNode(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, explain(rows.Err())
}

// Node reads one node.
func (d *DB) Node(ctx context.Context, name node.Name) (node.Node, error) {
	return scanNode(d.sql.QueryRowContext(ctx, `SELECT data FROM nodes WHERE name = ?`, name))
}

// NodeByMAC reads the node of a network card; false where no node has it.
func (d *DB) NodeByMAC(ctx context.Context, mac string) (node.Node, bool, error) {
	n, err := scanNode(d.sql.QueryRowContext(ctx, `SELECT data FROM nodes JOIN nics ON nics.node = nodes.name WHERE nics.mac = ?`, mac))
	if errors.Is(err, ErrNotFound) {
		return n, false, nil
	}
	return n, err == nil, err
}

// OwnerOf tells which network card has an address for good.
func (d *DB) OwnerOf(ctx context.Context, ip string) (mac string, ok bool, err error) {
	err = d.sql.QueryRowContext(ctx, `SELECT mac FROM nics WHERE ip = ?`, ip).Scan(&mac)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return mac, err == nil, explain(err)
}

// Facts reads what is known of a node beside what an admin said.
func (d *DB) Facts(ctx context.Context, name node.Name) (f Facts, err error) {
	var hw sql.NullString
	var seen sql.NullInt64
	var keys string
	err = d.sql.QueryRowContext(ctx, `SELECT hardware, seen_at, last_event, ssh_keys, boot_nonce FROM nodes WHERE name = ?`, name).Scan(&hw, &seen, &f.LastEvent, &keys, &f.BootNonce)
	if err != nil {
		return f, notFound(err, "node "+string(name))
	}
	if hw.Valid {
		f.Hardware = new(api.Hardware)
		if err := json.Unmarshal([]byte(hw.String), f.Hardware); err != nil {
			return f, fmt.Errorf("inventory: hardware of %s: %w", name, err)
		}
	}
	if seen.Valid {
		t := fromMillis(seen.Int64)
		f.SeenAt = &t
	}
	return f, json.Unmarshal([]byte(keys), &f.SSHKeys)
}

// SetHardware keeps what a node reported of itself.
func (d *DB) SetHardware(ctx context.Context, name node.Name, h api.Hardware) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, err = d.sql.ExecContext(ctx, `UPDATE nodes SET hardware = ? WHERE name = ?`, string(b), name)
	return explain(err)
}

// Learn keeps firmware and architecture as a node's own requests told them.
func (d *DB) Learn(ctx context.Context, name node.Name, fw node.Firmware, arch node.Arch) error {
	return d.Update(ctx, func(t *Tx) error {
		n, err := t.Node(name)
		if err != nil {
			return err
		}
		if (fw == "" || n.Firmware == fw) && (arch == "" || n.Arch == arch) {
			return nil
		}
		if fw != "" {
			n.Firmware = fw
		}
		if arch != "" {
			n.Arch = arch
		}
		return t.PutNode(n)
	})
}

type scanner interface{ Scan(...any) error }

func scanNode(row scanner) (n node.Node, err error) {
	var data string
	if err := row.Scan(&data); err != nil {
		return n, notFound(err, "node")
	}
	if err := json.Unmarshal([]byte(data), &n); err != nil {
		return n, fmt.Errorf("inventory: read a node: %w", err)
	}
	slices.Sort(n.Groups)
	return n, nil
}

func notFound(err error, what string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return explain(err)
}
