// Package inventory remembers nodes, groups, hardware, boot states, jobs and events, in one SQLite file.
package inventory

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver named "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNotFound says that there is no such node, job or token.
var ErrNotFound = errors.New("not found")

// ErrLocked says that another process has the state folder open.
var ErrLocked = errors.New("another mimeod uses this state folder")

// ErrNewer says that a later version of the program has changed the inventory.
var ErrNewer = errors.New("the inventory was written by a newer mimeod")

// DB is the inventory. Its methods may be called from several goroutines.
type DB struct {
	sql  *sql.DB
	read *sql.DB // for what DHCP asks with each packet: it must not wait until somebody's change has reached the disk
	lock *os.File

	hot   statements // of read
	lease *sql.Stmt  // of sql: keeps a lease

	seal cipher.AEAD
	now  func() time.Time
}

// statements are queries that SQLite has read already, by their text: reading one takes longer than answering it.
type statements map[string]*sql.Stmt

// QueryContext asks one of them.
func (s statements) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return s[query].QueryContext(ctx, args...)
}

// Open opens the inventory in a state folder and brings it up to date; it is made where there is none. The key that
// seals BMC passwords lies beside it, readable for its owner only. One process at a time may have it open: two engines
// on the same jobs would switch nodes' power twice.
func Open(ctx context.Context, dir string) (_ *DB, err error) {
	d := &DB{now: time.Now}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.lock, err = lock(filepath.Join(dir, "lock")); err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	key, err := loadKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	if d.seal, err = chacha20poly1305.NewX(key); err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	file := filepath.Join(dir, "mimeo.db")
	if err := private(file); err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	// One connection: SQLite has one writer anyhow, and so none ever finds the file locked. FULL, because a step of a
	// job that was answered must still be there after a power cut.
	d.sql, err = sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	d.sql.SetMaxOpenConns(1)
	if err := d.migrate(ctx); err != nil {
		return nil, fmt.Errorf("bring inventory %s up to date: %w", file, err)
	}
	d.read, err = sql.Open("sqlite", "file:"+file+"?_pragma=query_only(1)&_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	d.read.SetMaxOpenConns(2)
	d.hot = statements{}
	for _, text := range []string{selectByMAC, selectGroups, selectOwner} {
		if d.hot[text], err = d.read.PrepareContext(ctx, text); err != nil {
			return nil, fmt.Errorf("open inventory: %w", explain(err))
		}
	}
	if d.lease, err = d.sql.PrepareContext(ctx, putLease); err != nil {
		return nil, fmt.Errorf("open inventory: %w", explain(err))
	}
	return d, nil
}

// migrate brings the tables to the form that this program knows. What a newer one made is left alone.
func (d *DB) migrate(ctx context.Context) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, d.sql, mustSub())
	if err != nil {
		return explain(err)
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return explain(err)
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; have > newest {
		return fmt.Errorf("%w: its form is %d, this program knows %d; start the newer one", ErrNewer, have, newest)
	}
	_, err = p.Up(ctx)
	return explain(err)
}

// Close closes the file and lets others open it.
func (d *DB) Close() error {
	var err error
	if d.read != nil {
		err = d.read.Close()
	}
	if d.sql != nil {
		err = errors.Join(err, d.sql.Close())
	}
	if d.lock != nil {
		d.lock.Close()
	}
	return err
}

// lock takes the state folder. The kernel gives it back when the process ends, however it does.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// private makes a file that only its owner may read, or makes one that is there so; SQLite gives its log the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chmod(0o600)
}

// loadKey reads the key that seals passwords, or makes it. It is on the disk before anything is sealed with it.
func loadKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) != chacha20poly1305.KeySize {
		return nil, fmt.Errorf("%s has %d bytes, not %d: put the right file back, or remove it and set the BMC passwords anew", path, len(key), chacha20poly1305.KeySize)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	key = make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(key)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return key, os.Rename(path+".new", path)
}

// Tx is a transaction: what is done through it happens as a whole, or not.
type Tx struct {
	tx  *sql.Tx
	db  *DB
	ctx context.Context
}

// Update runs f in a transaction. An error of f undoes all. f must use no method of the DB itself, which would wait
// for the transaction to end.
func (d *DB) Update(ctx context.Context, f func(*Tx) error) error {
	tx, err := d.sql.BeginTx(ctx, nil)
	if err != nil {
		return explain(err)
	}
	defer tx.Rollback() // also where f panics: the one connection must not stay taken
	if err := f(&Tx{tx: tx, db: d, ctx: ctx}); err != nil {
		return err
	}
	return explain(tx.Commit())
}

// explain adds what to do to SQLite's own words.
func explain(err error) error {
	if err == nil {
		return nil
	}
	s := err.Error()
	if strings.HasPrefix(s, "inventory: ") {
		return err
	}
	switch {
	case strings.Contains(s, "SQLITE_FULL"), strings.Contains(s, "disk is full"):
		return fmt.Errorf("inventory: the disk with the state folder is full: %w", err)
	case strings.Contains(s, "SQLITE_BUSY"), strings.Contains(s, "database is locked"):
		return fmt.Errorf("inventory: another process holds the database: %w", err)
	}
	return fmt.Errorf("inventory: %w", err)
}

func millis(t time.Time) int64 { return t.UnixMilli() }

func fromMillis(n int64) time.Time { return time.UnixMilli(n) }
