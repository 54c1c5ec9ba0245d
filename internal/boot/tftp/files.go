package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Dir gives an Open that serves the files below root. A name cannot lead out of it, not by ".." and not by a symbolic
// link (os.Root).
func Dir(root *os.Root) func(context.Context, Request) (File, error) {
	return func(_ context.Context, r Request) (File, error) {
		f, err := root.Open(r.Name)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if !info.Mode().IsRegular() {
			return nil, errors.Join(fmt.Errorf("open %s: not a regular file: %w", r.Name, fs.ErrPermission), f.Close())
		}
		return osFile{f, info.Size()}, nil
	}
}

type osFile struct {
	*os.File
	size int64
}

func (f osFile) Size() int64 { return f.size }

// Bytes is a File made on the fly.
func Bytes(b []byte) File { return memFile{bytes.NewReader(b)} }

type memFile struct{ *bytes.Reader }

func (memFile) Close() error { return nil }

// cleanName makes a name from the wire relative to the root. Firmwares write a leading slash, or backslashes, or
// both. Names that climb out, or that hold what no file of ours has, are refused.
func cleanName(s string) (string, error) {
	s = strings.ReplaceAll(s, `\`, "/")
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return "", fmt.Errorf("name %q holds a control character", s)
		}
	}
	for _, part := range strings.Split(s, "/") {
		if part == ".." {
			return "", fmt.Errorf("name %q leads out of the root", s)
		}
	}
	name := strings.TrimPrefix(path.Clean("/"+s), "/")
	if name == "" || !fs.ValidPath(name) {
		return "", fmt.Errorf("name %q names no file", s)
	}
	return name, nil
}
