package nfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	billy "github.com/go-git/go-billy/v5"
	gonfs "github.com/willscott/go-nfs"
	"golang.org/x/sys/unix"
)

// Bounds of the table of handles.
const (
	maxKnown   = 1 << 18
	indexEvery = 2 * time.Second // an unknown handle makes us walk the exports, at most this often
)

// handle names a file to the nodes. It is a hash of export and path, so that a node's mount outlives a restart of the
// management node's daemon: what is not in the table after one is found by walking the exports.
type handle [32]byte

func handleOf(export, name string) handle {
	return sha256.Sum256([]byte("mimeo nfs 1\x00" + export + "\x00" + name))
}

// place is what a handle stands for.
type place struct {
	export *export
	name   string // relative, "." for the export itself
}

// files are the exports and the handles that were given out.
type files struct {
	exports map[string]*export
	mu      sync.Mutex
	known   map[handle]place
	indexed time.Time
}

func (f *files) close() error {
	var errs []error
	for _, e := range f.exports {
		errs = append(errs, e.root.Close())
	}
	return errors.Join(errs...)
}

// verifier tells nodes whether the server lost unwritten data; there is never any, so it stays the same.
func (f *files) verifier() [8]byte { return [8]byte{'m', 'i', 'm', 'e', 'o'} }

// give makes a handle.
func (f *files) give(e *export, name string) handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.note(e, name)
}

func (f *files) note(e *export, name string) handle {
	h := handleOf(e.name, name)
	if _, ok := f.known[h]; !ok {
		if len(f.known) >= maxKnown {
			clear(f.known)
		}
		f.known[h] = place{e, name}
	}
	return h
}

// find is the place of a handle.
func (f *files) find(h handle) (place, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, ok := f.known[h]; ok {
		return p, true
	}
	if time.Since(f.indexed) < indexEvery {
		return place{}, false
	}
	for _, e := range f.exports {
		left := maxKnown
		// What cannot be read is left out, and its handles are stale.
		_ = fs.WalkDir(e.root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
			if left--; left < 0 {
				return fs.SkipAll
			}
			if err == nil {
				f.note(e, name)
			}
			return nil
		})
	}
	f.indexed = time.Now()
	p, ok := f.known[h]
	return p, ok
}

// handler is what the library asks.
type handler struct {
	*files
	log *slog.Logger
}

// Mount implements gonfs.Handler.
func (h handler) Mount(_ context.Context, c net.Conn, req gonfs.MountRequest) (gonfs.MountStatus, billy.Filesystem, []gonfs.AuthFlavor) {
	name := path.Clean(strings.TrimRight(string(req.Dirpath), "\x00"))
	e, ok := h.exports[name]
	if !ok {
		h.log.Info("nfs mount refused: no such export", "addr", c.RemoteAddr(), "path", name)
		return gonfs.MountStatusErrNoEnt, nil, nil
	}
	h.log.Info("nfs mount", "addr", c.RemoteAddr(), "path", name)
	return gonfs.MountStatusOk, e, []gonfs.AuthFlavor{gonfs.AuthFlavorNull, gonfs.AuthFlavorUnix}
}

// Change implements gonfs.Handler: nothing changes.
func (h handler) Change(billy.Filesystem) billy.Change { return nil }

// FSStat implements gonfs.Handler.
func (h handler) FSStat(_ context.Context, b billy.Filesystem, s *gonfs.FSStat) error {
	e, ok := b.(*export)
	if !ok {
		return nil
	}
	d, err := e.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return err
	}
	s.TotalSize, s.FreeSize, s.AvailableSize = st.Blocks*uint64(st.Bsize), 0, 0
	s.TotalFiles, s.FreeFiles, s.AvailableFiles = st.Files, 0, 0
	return nil
}

// ToHandle implements gonfs.Handler. The library calls it for failed mounts too, with no filesystem.
func (h handler) ToHandle(b billy.Filesystem, parts []string) []byte {
	e, ok := b.(*export)
	if !ok {
		return nil
	}
	id := h.give(e, e.Join(parts...))
	return id[:]
}

// FromHandle implements gonfs.Handler. The slice is the caller's: the library appends to it.
func (h handler) FromHandle(b []byte) (billy.Filesystem, []string, error) {
	if len(b) != len(handle{}) {
		return nil, nil, &gonfs.NFSStatusError{NFSStatus: gonfs.NFSStatusBadHandle, WrappedErr: errors.New("not a handle of ours")}
	}
	p, ok := h.find(handle(b))
	if !ok {
		return nil, nil, &gonfs.NFSStatusError{NFSStatus: gonfs.NFSStatusStale, WrappedErr: fs.ErrNotExist}
	}
	if p.name == "." {
		return p.export, []string{}, nil
	}
	return p.export, slices.Clip(strings.Split(p.name, "/")), nil
}

// InvalidateHandle implements gonfs.Handler.
func (h handler) InvalidateHandle(billy.Filesystem, []byte) error { return nil }

// HandleLimit implements gonfs.Handler.
func (h handler) HandleLimit() int { return maxKnown }
