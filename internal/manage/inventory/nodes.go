package inventory

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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

// PutNode makes or replaces a node, as it is in effect: what it inherits stays inherited, and what differs from that
// becomes its own. A MAC or fixed address that belongs to another node is an *api.Error.
func (t *Tx) PutNode(n node.Node) error {
	r, err := t.record(n.Name)
	if errors.Is(err, ErrNotFound) {
		r = record{node: node.Node{Name: n.Name}, Sources: node.Sources{Own: node.Values{}}}
		if r.Groups, err = groupsOf(t.ctx, t.tx, (node.Values{"groups": strings.Join(n.Groups, ",")}).Order()); err != nil {
			return err
		}
		r.Fill(&r.node)
	} else if err != nil {
		return err
	}
	had, want := r.node.Said(), n.Said()
	for k, v := range want {
		if had[k] != v {
			r.Own[k] = v
		}
	}
	for k := range had {
		if want[k] == "" {
			delete(r.Own, k)
		}
	}
	r.node = n
	if err := t.putRecord(r); err != nil {
		return err
	}
	if err := t.dropNICs(n.Name); err != nil {
		return err
	}
	return t.putNICs(n)
}

func (t *Tx) dropNICs(n node.Name) error {
	_, err := t.tx.ExecContext(t.ctx, `DELETE FROM nics WHERE node = ?`, n)
	return explain(err)
}

// putNICs keeps by which cards and addresses a node is found.
func (t *Tx) putNICs(n node.Node) error {
	for _, nic := range n.NICs {
		var owner string
		err := t.tx.QueryRowContext(t.ctx, `SELECT node FROM nics WHERE mac = ? OR (ip IS NOT NULL AND ip = ?)`, nic.MAC, nic.IP).Scan(&owner)
		if err == nil {
			what := nic.MAC
			if nic.IP != "" {
				what += " or " + nic.IP
			}
			return belongs(string(n.Name), what, owner)
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

func belongs(n, what, owner string) error {
	return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s: %s belongs to %s already", n, what, owner), Hint: fmt.Sprintf(`see "mimeo node show %s"`, owner)}
}

// Node reads one node, as it is in effect.
func (t *Tx) Node(name node.Name) (node.Node, error) {
	r, err := t.record(name)
	return r.node, err
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

// SetBMCPassword seals the password of a node's own BMC; an empty one forgets it.
func (t *Tx) SetBMCPassword(name node.Name, password string) error {
	_, err := t.tx.ExecContext(t.ctx, `UPDATE nodes SET bmc_sealed = ? WHERE name = ?`, t.db.sealed(password, string(name)), name)
	return explain(err)
}

// sealed seals a password; of an empty one it gives nothing. The name of whom it belongs to is bound in, so that a row
// cannot be moved to another.
func (d *DB) sealed(password, owner string) []byte {
	if password == "" {
		return nil
	}
	nonce := make([]byte, d.seal.NonceSize())
	rand.Read(nonce)
	return d.seal.Seal(nonce, nonce, []byte(password), []byte(owner))
}

func (d *DB) unseal(sealed []byte, owner, who string) (string, error) {
	if sealed == nil {
		return "", nil
	}
	if len(sealed) < d.seal.NonceSize() {
		return "", fmt.Errorf("%s: the BMC password in the inventory is damaged: set it anew", who)
	}
	plain, err := d.seal.Open(nil, sealed[:d.seal.NonceSize()], sealed[d.seal.NonceSize():], []byte(owner))
	if err != nil {
		return "", fmt.Errorf("%s: the BMC password cannot be opened with the key in the state folder: set it anew", who)
	}
	return string(plain), nil
}

// BMCPassword opens the password that counts for a node: its own, or the first of its groups.
func (d *DB) BMCPassword(ctx context.Context, name node.Name) (string, error) {
	var sealed []byte
	var own string
	if err := d.sql.QueryRowContext(ctx, `SELECT own, bmc_sealed FROM nodes WHERE name = ?`, name).Scan(&own, &sealed); err != nil {
		return "", notFound(err, "node "+string(name))
	}
	if sealed != nil {
		return d.unseal(sealed, string(name), string(name))
	}
	values, err := readValues(own, string(name))
	if err != nil {
		return "", err
	}
	for _, g := range values.Order() {
		err := d.sql.QueryRowContext(ctx, `SELECT bmc_sealed FROM groups WHERE name = ?`, g).Scan(&sealed)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return "", explain(err)
		}
		if sealed != nil {
			return d.unseal(sealed, groupOwner(g), "group "+g)
		}
	}
	return "", nil
}

// Nodes reads all nodes, as they are in effect, in order of their names.
func (d *DB) Nodes(ctx context.Context) ([]node.Node, error) {
	all, err := records(ctx, d.sql)
	if err != nil {
		return nil, err
	}
	var out []node.Node
	for _, r := range all {
		out = append(out, r.node)
	}
	return out, nil
}

// Node reads one node, as it is in effect.
func (d *DB) Node(ctx context.Context, name node.Name) (node.Node, error) {
	r, err := oneRecord(ctx, d.sql, selectRecord+` WHERE nodes.name = ?`, name)
	return r.node, err
}

// Sources reads what was said of a node and of its groups.
func (d *DB) Sources(ctx context.Context, name node.Name) (node.Sources, error) {
	r, err := oneRecord(ctx, d.sql, selectRecord+` WHERE nodes.name = ?`, name)
	return r.Sources, err
}

// NodeByMAC reads the node of a network card; false where no node has it.
func (d *DB) NodeByMAC(ctx context.Context, mac string) (node.Node, bool, error) {
	r, err := oneRecord(ctx, d.hot, selectByMAC, mac)
	if errors.Is(err, ErrNotFound) {
		return r.node, false, nil
	}
	return r.node, err == nil, err
}

const selectOwner = `SELECT mac FROM nics WHERE ip = ?`

// OwnerOf tells which network card has an address for good.
func (d *DB) OwnerOf(ctx context.Context, ip string) (mac string, ok bool, err error) {
	err = d.hot[selectOwner].QueryRowContext(ctx, ip).Scan(&mac)
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

// Learn keeps firmware and architecture as a node's own requests told them. What was said of it goes before that. A
// node that is there no more is no error.
func (t *Tx) Learn(name node.Name, fw node.Firmware, arch node.Arch) error {
	r, err := t.record(name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if (fw == "" || r.Learnt["firmware"] == string(fw)) && (arch == "" || r.Learnt["arch"] == string(arch)) {
		return nil
	}
	if fw != "" {
		r.Learnt["firmware"] = string(fw)
	}
	if arch != "" {
		r.Learnt["arch"] = string(arch)
	}
	return t.putRecord(r)
}

// Learn does the same by itself.
func (d *DB) Learn(ctx context.Context, name node.Name, fw node.Firmware, arch node.Arch) error {
	return d.Update(ctx, func(t *Tx) error { return t.Learn(name, fw, arch) })
}

type scanner interface{ Scan(...any) error }

func notFound(err error, what string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return explain(err)
}
