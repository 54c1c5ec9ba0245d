package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/cluster/node"
)

// record is a node with where its values come from. node is as it is in effect.
type record struct {
	node node.Node
	node.Sources
	sealed []byte // its own BMC's password
}

// querier is the database, or a transaction.
type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}

const (
	selectRecord = `SELECT nodes.name, nodes.data, nodes.own, nodes.learnt, nodes.bmc_sealed FROM nodes`
	selectByMAC  = selectRecord + ` JOIN nics ON nics.node = nodes.name WHERE nics.mac = ?`
	selectGroups = selectGroup + ` WHERE name IN (SELECT value FROM json_each(?))`
	selectGroup  = `SELECT name, own, bmc_sealed FROM groups`
)

// group is a group with its sealed password.
type group struct {
	node.Group
	sealed []byte
}

// groupOwner is to whom a group's password is bound. No node has such a name.
func groupOwner(g string) string { return "group/" + g }

func readValues(text, who string) (node.Values, error) {
	v := node.Values{}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("inventory: read %s: %w", who, err)
	}
	// An inventory of the first form has them as numbers, and addresses of cards that have none.
	for _, k := range []string{"ip", "disk.min_size", "disk.max_size"} {
		if have, ok := v[k]; ok {
			if c, err := node.Check(k, have); err == nil {
				v[k] = c
			}
			if v[k] == "" {
				delete(v, k)
			}
		}
	}
	return v, nil
}

// scanRecord reads a node without its groups.
func scanRecord(row scanner) (r record, err error) {
	var name, data, own, learnt string
	if err := row.Scan(&name, &data, &own, &learnt, &r.sealed); err != nil {
		return r, notFound(err, "node")
	}
	if err := json.Unmarshal([]byte(data), &r.node); err != nil {
		return r, fmt.Errorf("inventory: read node %s: %w", name, err)
	}
	r.node.Name, r.HasPassword = node.Name(name), r.sealed != nil
	if r.Own, err = readValues(own, "node "+name); err != nil {
		return r, err
	}
	r.Learnt, err = readValues(learnt, "node "+name)
	return r, err
}

// records reads all nodes in order of their names.
func records(ctx context.Context, q querier) ([]record, error) {
	groups, err := allGroups(ctx, q)
	if err != nil {
		return nil, err
	}
	rows, err := q.QueryContext(ctx, selectRecord+` ORDER BY nodes.name`)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []record
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return nil, err
		}
		for _, g := range r.Own.Order() {
			if have, ok := groups[g]; ok {
				r.Groups = append(r.Groups, have.Group)
			}
		}
		r.Fill(&r.node)
		out = append(out, r)
	}
	return out, explain(rows.Err())
}

// oneRecord reads the one node that a query gives.
func oneRecord(ctx context.Context, q querier, query string, args ...any) (r record, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return r, explain(err)
	}
	if !rows.Next() {
		err = rows.Err()
		rows.Close()
		if err == nil {
			err = sql.ErrNoRows
		}
		return r, notFound(err, "node")
	}
	r, err = scanRecord(rows)
	rows.Close() // the one connection is needed for the groups
	if err != nil {
		return r, err
	}
	if r.Groups, err = groupsOf(ctx, q, r.Own.Order()); err != nil {
		return r, err
	}
	r.Fill(&r.node)
	return r, nil
}

// groupsOf reads groups in the order of their names as given; those that there are not are left out.
func groupsOf(ctx context.Context, q querier, names []string) ([]node.Group, error) {
	b, err := json.Marshal(names)
	if err != nil {
		return nil, err
	}
	have, err := readGroups(ctx, q, selectGroups, string(b))
	if err != nil {
		return nil, err
	}
	var out []node.Group
	for _, n := range names {
		if g, ok := have[n]; ok {
			out = append(out, g.Group)
		}
	}
	return out, nil
}

func allGroups(ctx context.Context, q querier) (map[string]group, error) {
	return readGroups(ctx, q, selectGroup)
}

func readGroups(ctx context.Context, q querier, query string, args ...any) (map[string]group, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	out := map[string]group{}
	for rows.Next() {
		var g group
		var own string
		if err := rows.Scan(&g.Name, &own, &g.sealed); err != nil {
			return nil, explain(err)
		}
		if g.Set, err = readValues(own, "group "+g.Name); err != nil {
			return nil, err
		}
		g.HasPassword = g.sealed != nil
		out[g.Name] = g
	}
	return out, explain(rows.Err())
}

func (t *Tx) record(name node.Name) (record, error) {
	return oneRecord(t.ctx, t.tx, selectRecord+` WHERE nodes.name = ?`, name)
}

// putRecord makes or replaces a node, but for its password and its cards. Groups that are new are made.
func (t *Tx) putRecord(r record) error {
	state := r.node
	state.Blank()
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	own, err := json.Marshal(r.Own)
	if err != nil {
		return err
	}
	if r.Learnt == nil {
		r.Learnt = node.Values{}
	}
	learnt, err := json.Marshal(r.Learnt)
	if err != nil {
		return err
	}
	if _, err := t.tx.ExecContext(t.ctx, `INSERT INTO nodes(name, data, own, learnt) VALUES(?, ?, ?, ?)
		ON CONFLICT(name) DO UPDATE SET data = excluded.data, own = excluded.own, learnt = excluded.learnt`, r.node.Name, string(data), string(own), string(learnt)); err != nil {
		return explain(err)
	}
	for _, g := range node.List(r.Own["groups"]) {
		if _, err := t.tx.ExecContext(t.ctx, `INSERT OR IGNORE INTO groups(name) VALUES(?)`, g); err != nil {
			return explain(err)
		}
	}
	return nil
}

// Groups reads all groups, in order of their names, with the nodes in them.
func (d *DB) Groups(ctx context.Context) ([]Group, error) {
	var out []Group
	err := d.Update(ctx, func(t *Tx) error {
		have, err := allGroups(ctx, t.tx)
		if err != nil {
			return err
		}
		nodes, err := records(ctx, t.tx)
		if err != nil {
			return err
		}
		for _, g := range have {
			out = append(out, Group{Group: g.Group, Nodes: members(nodes, g.Name)})
		}
		slices.SortFunc(out, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
		return nil
	})
	return out, err
}

// Group is a group with the nodes that are in it.
type Group struct {
	node.Group
	Nodes []node.Name
}

func members(nodes []record, g string) []node.Name {
	out := []node.Name{}
	for _, r := range nodes {
		if g == node.GroupAll || slices.Contains(r.node.Groups, g) {
			out = append(out, r.node.Name)
		}
	}
	return out
}

// Said reads what was said of each node and each group, without passwords.
func (d *DB) Said(ctx context.Context) (nodes map[node.Name]node.Values, groups map[string]node.Values, err error) {
	nodes, groups = map[node.Name]node.Values{}, map[string]node.Values{}
	err = d.Update(ctx, func(t *Tx) error {
		have, err := allGroups(ctx, t.tx)
		if err != nil {
			return err
		}
		for name, g := range have {
			groups[name] = g.Set
		}
		all, err := records(ctx, t.tx)
		for _, r := range all {
			nodes[r.node.Name] = r.Own
		}
		return err
	})
	return nodes, groups, err
}

// GroupNames are the names of all groups, in order.
func (d *DB) GroupNames(ctx context.Context) ([]string, error) {
	rows, err := d.sql.QueryContext(ctx, `SELECT name FROM groups ORDER BY name`)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var g string
		if err := rows.Scan(&g); err != nil {
			return nil, explain(err)
		}
		out = append(out, g)
	}
	return out, explain(rows.Err())
}
