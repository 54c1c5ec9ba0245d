// Package backup keeps what a management node knows in one file, and makes a management node of it again.
//
// docs/formats/backup.md describes the file: a gzipped tar whose last member lists the hashes of all others.
package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Version is that of the file's format.
const Version = 1

// Members with a meaning of their own.
const (
	headMember = "mimeo-backup.json" // the first
	confMember = "config/mimeod.yaml"
	stateDir   = "state/"
	database   = stateDir + "mimeo.db"
	sumsMember = "SHA256SUMS" // the last: without it the file is cut off
)

// left are the parts of a state folder that are not kept: what is made again, is large, or is copied in another way.
var left = []string{"mimeo.db", "mimeo.db-wal", "mimeo.db-shm", "mimeo.db-journal", "lock", "stateless", "loaders", "cache", "console", "store", "tmp"}

// maxMember bounds a member, and maxMembers their number, so that a wrong file fills neither memory nor disk.
const (
	maxMember  = 64 << 30
	maxMembers = 1 << 20
)

// Head says what a backup is of.
type Head struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Mimeo   string    `json:"mimeo"` // the version of mimeod
	Host    string    `json:"host"`
}

// Source is what is kept.
type Source struct {
	Head
	State    string // the state folder
	Config   string // the configuration file; it may be missing
	Database string // a copy of the inventory that nobody writes to
}

// Write writes a backup.
func Write(ctx context.Context, w io.Writer, s Source) error {
	zip := gzip.NewWriter(w)
	b := &writer{tar: tar.NewWriter(zip), when: s.Created}
	head, err := json.MarshalIndent(s.Head, "", "  ")
	if err != nil {
		return err
	}
	if err := b.bytes(headMember, append(head, '\n')); err != nil {
		return err
	}
	if text, err := os.ReadFile(s.Config); err == nil {
		if err := b.bytes(confMember, text); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.file(database, s.Database, 0o600); err != nil {
		return err
	}
	err = filepath.WalkDir(s.State, func(p string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(s.State, p)
		if err != nil || rel == "." {
			return err
		}
		if !strings.Contains(rel, "/") && (slices.Contains(left, rel) || strings.HasPrefix(rel, "tmp-")) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return b.file(stateDir+filepath.ToSlash(rel), p, info.Mode().Perm())
	})
	if err != nil {
		return err
	}
	sums := bytes.Clone(b.sums.Bytes())
	return errors.Join(b.bytes(sumsMember, sums), b.tar.Close(), zip.Close())
}

// writer writes members, and keeps their hashes as sha256sum prints them.
type writer struct {
	tar  *tar.Writer
	when time.Time
	sums bytes.Buffer
}

func (b *writer) bytes(name string, data []byte) error {
	return b.member(name, bytes.NewReader(data), int64(len(data)), 0o600)
}

func (b *writer) file(name, p string, mode fs.FileMode) (err error) {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return b.member(name, f, st.Size(), mode)
}

func (b *writer) member(name string, r io.Reader, size int64, mode fs.FileMode) error {
	if err := b.tar.WriteHeader(&tar.Header{Name: name, Size: size, Mode: int64(mode), ModTime: b.when, Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	h := sha256.New()
	if _, err := io.CopyN(b.tar, io.TeeReader(r, h), size); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(&b.sums, "%x  %s\n", h.Sum(nil), name)
	return nil
}

// Check reads a backup to its end, and returns what it is of, or what is wrong with it.
func Check(r io.Reader) (Head, error) {
	return walk(r, func(string, fs.FileMode, io.Reader) error { return nil })
}

// walk calls fn with each member that belongs to a management node, and holds all of them against the list at the end.
func walk(r io.Reader, fn func(name string, mode fs.FileMode, r io.Reader) error) (Head, error) {
	var head Head
	zip, err := gzip.NewReader(r)
	if err != nil {
		return head, fmt.Errorf("this is no backup: %w", err)
	}
	t := tar.NewReader(zip)
	sums := map[string]string{}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return head, errors.New("the backup is cut off: the list of its hashes is missing")
		}
		if err != nil {
			return head, fmt.Errorf("the backup is damaged: %w", err)
		}
		name := h.Name
		switch {
		case len(sums) == 0 && name != headMember:
			return head, fmt.Errorf("this is no backup: it begins with %q", name)
		case h.Typeflag != tar.TypeReg || !fs.ValidPath(name) || path.Clean(name) != name || h.Size > maxMember || len(sums) > maxMembers:
			return head, fmt.Errorf("the backup is damaged: member %q", name)
		case sums[name] != "":
			return head, fmt.Errorf("the backup is damaged: %q comes twice", name)
		case name == sumsMember:
			if err := compare(t, sums); err != nil {
				return head, err
			}
			if n, err := io.Copy(io.Discard, zip); err != nil || n > 64<<10 {
				return head, fmt.Errorf("the backup is damaged at its end: %v", err)
			}
			return head, nil
		}
		hash := sha256.New()
		in := io.TeeReader(t, hash)
		if name == headMember {
			if err := json.NewDecoder(io.LimitReader(in, 64<<10)).Decode(&head); err != nil {
				return head, fmt.Errorf("this is no backup: %w", err)
			}
			if head.Version != Version {
				return head, fmt.Errorf("the backup has format %d, this program knows %d", head.Version, Version)
			}
		} else if err := fn(name, fs.FileMode(h.Mode).Perm(), in); err != nil {
			return head, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			return head, fmt.Errorf("the backup is damaged: %s: %w", name, err)
		}
		sums[name] = hex.EncodeToString(hash.Sum(nil))
	}
}

// compare holds hashes against the list.
func compare(r io.Reader, have map[string]string) error {
	listed := 0
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok || have[name] != sum {
			return fmt.Errorf("the backup is damaged: %q is not what was kept", name)
		}
		listed++
	}
	if err := lines.Err(); err != nil || listed != len(have) {
		return fmt.Errorf("the backup is damaged: it lists %d members and has %d: %v", listed, len(have), err)
	}
	return nil
}
