// Package s3 keeps a store in a bucket of an S3 service, in the form that docs/formats/store.md describes under "In S3".
package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"mimeo/internal/imaging/store/dir"
)

// Open opens the store in a bucket; options are those of a store in a folder. It is store.ErrLocked where another program
// writes to it, store.ErrNotFound where there is none and none is to be made; Hint knows what to do about most errors.
// ctx ends the opening, not the store.
func Open(ctx context.Context, c Config, o dir.Options) (*dir.Store, error) {
	f, err := c.files()
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", c.Place(), err)
	}
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	o.FS, o.Whole = f, true
	return dir.Open(c.Place(), o)
}

// Try looks whether a store could be kept in a bucket: whether it can be listed, and an object written under conditions and
// deleted. It leaves nothing.
func Try(ctx context.Context, c Config) error {
	f, err := c.files()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	_, err = f.ReadDir(".")
	if err == nil {
		err = f.probe()
	}
	return errors.Join(err, f.Close())
}

// files makes what asks the service, and the local folders.
func (c Config) files() (*files, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	f := &files{bucket: c.Bucket, prefix: c.Prefix, state: c.State, term: c.term, wait: c.wait,
		writing: make(map[string]*spool), begun: make(map[string]bool), recent: make(map[string]change)}
	if f.term == 0 {
		f.term = leaseTerm
	}
	if f.wait == 0 {
		f.wait = 500 * time.Millisecond
	}
	if f.state == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no folder for packs that are being written: %w", err)
		}
		sum := sha256.Sum256([]byte(c.Endpoint + "\n" + c.Place()))
		f.state = filepath.Join(cache, "mimeo", "s3-"+hex.EncodeToString(sum[:8]))
	}
	for _, d := range []string{"index", "spool"} {
		if err := os.MkdirAll(filepath.Join(f.state, d), 0o700); err != nil {
			return nil, fmt.Errorf("folder for packs that are being written: %w", err)
		}
	}
	var err error
	if f.core, f.transport, err = c.connect(f.heard); err != nil {
		return nil, err
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}
