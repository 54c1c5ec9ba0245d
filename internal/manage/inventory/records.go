package inventory

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// keepEvents is how many events of a node are kept: some hundred boots.
const keepEvents = 5000

// PutJob makes or replaces a job; data is its record. A second active job of a node is an error.
func (t *Tx) PutJob(id string, n node.Name, active bool, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	// Not as one upsert: that would use up a number of the sequence each time, from which the IDs are made.
	res, err := t.tx.ExecContext(t.ctx, `UPDATE jobs SET active = ?, data = ? WHERE id = ?`, active, string(b), id)
	if err != nil {
		return explain(err)
	}
	if rows, err := res.RowsAffected(); err != nil || rows > 0 {
		return explain(err)
	}
	return t.addJob(id, "", n, active, string(b))
}

// AddJob makes a job, of a batch where one is named. A second active job of a node is an error.
func (t *Tx) AddJob(id, batch string, n node.Name, active bool, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return t.addJob(id, batch, n, active, string(b))
}

func (t *Tx) addJob(id, batch string, n node.Name, active bool, data string) error {
	_, err := t.tx.ExecContext(t.ctx, `INSERT INTO jobs(id, batch, node, active, data) VALUES(?, ?, ?, ?, ?)`, id, batch, n, active, data)
	return explain(err)
}

// ActiveJob is the ID of a node's active job, or "".
func (t *Tx) ActiveJob(n node.Name) (id string, err error) {
	err = t.tx.QueryRowContext(t.ctx, `SELECT id FROM jobs WHERE node = ? AND active = 1`, n).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, explain(err)
}

// NextJobID makes a short ID that was never used.
func (t *Tx) NextJobID() (string, error) { return t.nextID("j", "jobs") }

// JobsOfKey gives the jobs that were made with a client's key; none where the key is new.
func (t *Tx) JobsOfKey(key string) (ids []string, err error) {
	var s string
	err = t.tx.QueryRowContext(t.ctx, `SELECT jobs FROM job_keys WHERE key = ?`, key).Scan(&s)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(err)
	}
	return ids, json.Unmarshal([]byte(s), &ids)
}

// keepKeys is how long a client's key is known: far longer than any client repeats a request.
const keepKeys = 30 * 24 * time.Hour

// PutKey keeps which jobs a client's key made.
func (t *Tx) PutKey(key string, ids []string) error {
	b, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	if _, err := t.tx.ExecContext(t.ctx, `DELETE FROM job_keys WHERE made < ?`, millis(t.db.now().Add(-keepKeys))); err != nil {
		return explain(err)
	}
	_, err = t.tx.ExecContext(t.ctx, `INSERT INTO job_keys(key, jobs, made) VALUES(?, ?, ?)`, key, string(b), millis(t.db.now()))
	return explain(err)
}

// Job reads the record of a job into data.
func (d *DB) Job(ctx context.Context, id string, data any) error {
	var s string
	if err := d.sql.QueryRowContext(ctx, `SELECT data FROM jobs WHERE id = ?`, id).Scan(&s); err != nil {
		return notFound(err, "job "+id)
	}
	return json.Unmarshal([]byte(s), data)
}

// JobFilter says which jobs are wanted. Zero values mean all.
type JobFilter struct {
	Active bool        // those that are active
	Nodes  []node.Name // those of these nodes, where it is not nil
	IDs    []string    // these, where it is not nil
	Batch  string      // those of a batch
	Newest bool        // of each node the newest, whatever else is asked for
	Limit  int         // the newest of them
}

// Jobs calls fn with the record of each job, newest first. fn must use no method of the DB.
func (d *DB) Jobs(ctx context.Context, f JobFilter, fn func(data []byte) error) error {
	q := `SELECT data FROM jobs WHERE 1`
	var args []any
	if f.Active {
		q += ` AND active = 1`
	}
	if f.Batch != "" {
		q += ` AND batch = ?`
		args = append(args, f.Batch)
	}
	if f.Newest {
		q += ` AND seq = (SELECT max(other.seq) FROM jobs AS other WHERE other.node = jobs.node)`
	}
	list := func(column string, values any) error {
		b, err := json.Marshal(values)
		q += ` AND ` + column + ` IN (SELECT value FROM json_each(?))`
		args = append(args, string(b))
		return err
	}
	if f.Nodes != nil {
		if err := list("node", f.Nodes); err != nil {
			return err
		}
	}
	if f.IDs != nil {
		if err := list("id", f.IDs); err != nil {
			return err
		}
	}
	q += ` ORDER BY seq DESC`
	if f.Limit > 0 {
		q += ` LIMIT ?`
		args = append(args, f.Limit)
	}
	rows, err := d.sql.QueryContext(ctx, q, args...)
	if err != nil {
		return explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return explain(err)
		}
		if err := fn([]byte(s)); err != nil {
			return err
		}
	}
	return explain(rows.Err())
}

// AddEvent keeps an event and gives it its ID. A node's oldest events make room.
func (t *Tx) AddEvent(e *api.Event) error {
	if e.Time.IsZero() {
		e.Time = t.db.now()
	}
	r, err := t.tx.ExecContext(t.ctx, `INSERT INTO events(time, node, job, kind, addr, text) VALUES(?, ?, ?, ?, ?, ?)`, millis(e.Time), e.Node, e.Job, e.Kind, e.Addr, e.Text)
	if err != nil {
		return explain(err)
	}
	if e.ID, err = r.LastInsertId(); err != nil {
		return explain(err)
	}
	if e.Node != "" {
		if _, err := t.tx.ExecContext(t.ctx, `UPDATE nodes SET seen_at = CASE WHEN ? THEN ? ELSE seen_at END, last_event = ? WHERE name = ?`, e.Addr != "", millis(e.Time), e.Kind, e.Node); err != nil {
			return explain(err)
		}
		if e.ID%64 == 0 {
			_, err = t.tx.ExecContext(t.ctx, `DELETE FROM events WHERE node = ? AND id <= (SELECT id FROM events WHERE node = ? ORDER BY id DESC LIMIT 1 OFFSET ?)`, e.Node, e.Node, keepEvents)
		}
	}
	return explain(err)
}

// AddEvent keeps an event by itself.
func (d *DB) AddEvent(ctx context.Context, e *api.Event) error {
	return d.Update(ctx, func(t *Tx) error { return t.AddEvent(e) })
}

// Events reads the newest events of a node or a job, oldest first. Exactly one of the two is set.
func (d *DB) Events(ctx context.Context, n node.Name, job string, limit int) ([]api.Event, error) {
	column, value := "node", string(n)
	if job != "" {
		column, value = "job", job
	}
	rows, err := d.sql.QueryContext(ctx, `SELECT * FROM (SELECT id, time, node, job, kind, addr, text FROM events WHERE `+column+` = ? ORDER BY id DESC LIMIT ?) ORDER BY id`, value, limit)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	out := []api.Event{}
	for rows.Next() {
		var e api.Event
		var ms int64
		if err := rows.Scan(&e.ID, &ms, &e.Node, &e.Job, &e.Kind, &e.Addr, &e.Text); err != nil {
			return nil, explain(err)
		}
		e.Time = fromMillis(ms)
		out = append(out, e)
	}
	return out, explain(rows.Err())
}

// RevisionFacts are what the inventory knows of a revision beside its manifest.
type RevisionFacts struct {
	Node, Job   string
	New, Stored int64 // bytes
}

// PutRevision keeps the facts of a revision.
func (t *Tx) PutRevision(image string, rev int, f RevisionFacts) error {
	_, err := t.tx.ExecContext(t.ctx, `INSERT INTO revisions(image, rev, node, job, fresh, stored) VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, image, rev, f.Node, f.Job, f.New, f.Stored)
	return explain(err)
}

// Revision reads the facts of a revision; all are zero for one that came by another way.
func (d *DB) Revision(ctx context.Context, image string, rev int) (f RevisionFacts, err error) {
	err = d.sql.QueryRowContext(ctx, `SELECT node, job, fresh, stored FROM revisions WHERE image = ? AND rev = ?`, image, rev).Scan(&f.Node, &f.Job, &f.New, &f.Stored)
	if errors.Is(err, sql.ErrNoRows) {
		return f, nil
	}
	return f, explain(err)
}

// Token is who may use the API.
type Token struct {
	Name string
	Role string // viewer, operator, admin
}

func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// PutToken makes a token known. It has 256 random bits, so that its plain hash can be kept.
func (d *DB) PutToken(ctx context.Context, token string, who Token) error {
	_, err := d.sql.ExecContext(ctx, `INSERT INTO tokens(hash, name, role, created) VALUES(?, ?, ?, ?)`, tokenHash(token), who.Name, who.Role, millis(d.now()))
	return explain(err)
}

// Token tells whose token it is.
func (d *DB) Token(ctx context.Context, token string) (who Token, err error) {
	err = d.sql.QueryRowContext(ctx, `SELECT name, role FROM tokens WHERE hash = ?`, tokenHash(token)).Scan(&who.Name, &who.Role)
	if err != nil {
		return who, notFound(err, "token")
	}
	return who, nil
}

// HasTokens tells whether this is not the first start.
func (d *DB) HasTokens(ctx context.Context) (bool, error) {
	var n int
	err := d.sql.QueryRowContext(ctx, `SELECT count(*) FROM tokens`).Scan(&n)
	return n > 0, explain(err)
}

// Audit keeps who changed what.
func (d *DB) Audit(ctx context.Context, who, addr, what, data string) error {
	_, err := d.sql.ExecContext(ctx, `INSERT INTO audit(time, who, addr, what, data) VALUES(?, ?, ?, ?, ?)`, millis(d.now()), who, addr, what, data)
	return explain(err)
}

// DHCPLeases implements dhcp.Leases.
func (d *DB) DHCPLeases(ctx context.Context) ([]dhcp.Lease, error) {
	rows, err := d.sql.QueryContext(ctx, `SELECT addr, mac, node, expires, declined FROM leases`)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []dhcp.Lease
	for rows.Next() {
		l, err := scanLease(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, explain(rows.Err())
}

func scanLease(row scanner) (l dhcp.Lease, err error) {
	var addr string
	var ms int64
	if err := row.Scan(&addr, &l.MAC, &l.Node, &ms, &l.Declined); err != nil {
		return l, err
	}
	l.Expires = fromMillis(ms)
	l.Addr, err = netip.ParseAddr(addr)
	return l, err
}

const putLease = `INSERT INTO leases(addr, mac, node, expires, declined) VALUES(?, ?, ?, ?, ?)
	ON CONFLICT(addr) DO UPDATE SET mac = excluded.mac, node = excluded.node, expires = excluded.expires, declined = excluded.declined
	WHERE mac = excluded.mac OR declined OR expires <= ?`

// PutDHCPLease implements dhcp.Leases.
func (d *DB) PutDHCPLease(ctx context.Context, l dhcp.Lease, now time.Time) error {
	r, err := d.lease.ExecContext(ctx, l.Addr.String(), l.MAC, l.Node, millis(l.Expires), l.Declined, millis(now))
	if err != nil {
		return explain(err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return errors.Join(explain(err), dhcp.ErrTaken)
	}
	return nil
}

// DeleteDHCPLease implements dhcp.Leases.
func (d *DB) DeleteDHCPLease(ctx context.Context, addr netip.Addr) error {
	_, err := d.sql.ExecContext(ctx, `DELETE FROM leases WHERE addr = ?`, addr.String())
	return explain(err)
}
