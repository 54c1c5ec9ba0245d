// Package tree compares file trees down to what careless copies lose: owners, modes, extended attributes, hard links,
// holes, devices.
package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is what is compared of one file.
type File struct {
	Mode   fs.FileMode
	UID    uint32
	GID    uint32
	Size   int64
	Blocks int64 // 512 bytes each: tells holes
	MTime  int64 // nanoseconds
	Links  uint64
	Inode  uint64 // tells hard links apart
	Rdev   uint64
	Target string            // of a symbolic link
	Hash   string            // of a regular file
	Xattrs map[string]string // names and values
}

// Read walks the tree below root. Keys are paths relative to it.
func Read(root string) (map[string]File, error) {
	out := map[string]File{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %s: %w", path, err)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := File{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Size: st.Size, Blocks: st.Blocks, MTime: st.Mtim.Nano(), Links: uint64(st.Nlink), Inode: st.Ino, Rdev: uint64(st.Rdev)}
		switch {
		case f.Mode.IsRegular():
			if f.Hash, err = hash(path); err != nil {
				return err
			}
		case f.Mode&fs.ModeSymlink != 0:
			if f.Target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if f.Xattrs, err = xattrs(path); err != nil {
			return fmt.Errorf("extended attributes of %s: %w", path, err)
		}
		out[rel] = f
		return nil
	})
	return out, err
}

func hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func xattrs(path string) (map[string]string, error) {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil || n == 0 {
		if err == syscall.ENOTSUP {
			err = nil
		}
		return nil, err
	}
	out := map[string]string{}
	for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 65536)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		out[name] = string(value[:n])
	}
	return out, nil
}

// Diff lists what differs, a line each, in order of path.
func Diff(a, b map[string]File) []string {
	var out []string
	paths := map[string]bool{}
	for p := range a {
		paths[p] = true
	}
	for p := range b {
		paths[p] = true
	}
	for p := range paths {
		x, okA := a[p]
		y, okB := b[p]
		switch {
		case !okA:
			out = append(out, p+": came")
		case !okB:
			out = append(out, p+": went")
		default:
			for _, d := range diff(x, y) {
				out = append(out, p+": "+d)
			}
		}
	}
	sort.Strings(out)
	return out
}

func diff(a, b File) (out []string) {
	check := func(what string, x, y any) {
		if fmt.Sprint(x) != fmt.Sprint(y) {
			out = append(out, fmt.Sprintf("%s was %v, is %v", what, x, y))
		}
	}
	check("mode", a.Mode, b.Mode)
	check("uid", a.UID, b.UID)
	check("gid", a.GID, b.GID)
	check("inode", a.Inode, b.Inode)
	check("links", a.Links, b.Links)
	check("device", a.Rdev, b.Rdev)
	check("target", a.Target, b.Target)
	check("hash", a.Hash, b.Hash)
	if !a.Mode.IsDir() { // a folder's own blocks are the filesystem's matter: its check may lay them out anew
		check("size", a.Size, b.Size)
		check("blocks", a.Blocks, b.Blocks)
	}
	check("mtime", a.MTime, b.MTime)
	check("xattrs", a.Xattrs, b.Xattrs)
	return out
}
