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
	_ "modernc.org/sqlite" // the driver named "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNotFound says that there is no such node, job or token.
var ErrNotFound = errors.New("not found")

// DB is the inventory. Its methods may be called from several goroutines.
type DB struct {
	sql  *sql.DB
	seal cipher.AEAD
	now  func() time.Time
}

// Open opens the inventory in a state folder and brings it up to date; it is made where there is none. The key that
// seals BMC passwords lies beside it, readable for its owner only.
func Open(ctx context.Context, dir string) (*DB, error) {
	key, err := loadKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	seal, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	file := filepath.Join(dir, "mimeo.db")
	// One connection: SQLite has one writer anyhow, and so none ever finds the file locked. FULL, because a step of a
	// job that was answered must still be there after a power cut.
	conn, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	conn.SetMaxOpenConns(1)
	d := &DB{sql: conn, seal: seal, now: time.Now}
	provider, err := goose.NewProvider(goose.DialectSQLite3, conn, mustSub())
	if err == nil {
		_, err = provider.Up(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("bring inventory %s up to date: %w", file, err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	return d, nil
}

// Close closes the file.
func (d *DB) Close() error { return d.sql.Close() }

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
	tmp := path + ".new"
	if err := os.WriteFile(tmp, key, 0o600); err != nil {
		return nil, err
	}
	return key, os.Rename(tmp, path)
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
	if err := f(&Tx{tx: tx, db: d, ctx: ctx}); err != nil {
		tx.Rollback()
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
	switch {
	case strings.Contains(s, "SQLITE_FULL"), strings.Contains(s, "disk is full"):
		return fmt.Errorf("inventory: the disk with the state folder is full: %w", err)
	case strings.Contains(s, "SQLITE_BUSY"):
		return fmt.Errorf("inventory: another process holds the database: %w", err)
	}
	return fmt.Errorf("inventory: %w", err)
}

func millis(t time.Time) int64 { return t.UnixMilli() }

func fromMillis(n int64) time.Time { return time.UnixMilli(n) }
