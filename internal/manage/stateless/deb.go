package stateless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// made is when a package was built, in Unix time: what the first member of its archive says (deb(5), ar(5)). Debian
// sets it from the package's changelog, so that it is the same wherever the package is built.
func (d deb) made() (int64, error) {
	f, err := os.Open(d.file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [68]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return 0, fmt.Errorf("read %s: %w", d.file, err)
	}
	if string(head[:8]) != "!<arch>\n" || string(head[66:68]) != "`\n" {
		return 0, fmt.Errorf("%s is not a Debian package", d.file)
	}
	t, err := strconv.ParseInt(strings.TrimSpace(string(head[24:36])), 10, 64)
	if err != nil || t < 0 {
		return 0, fmt.Errorf("%s: its archive has no time", d.file)
	}
	return t, nil
}

// epoch is the time that all files of an image carry: that of its newest package.
func epoch(debs []deb) (int64, error) {
	var newest int64
	for _, d := range debs {
		t, err := d.made()
		if err != nil {
			return 0, err
		}
		newest = max(newest, t)
	}
	return newest, nil
}

// unpack lays the files of packages into a folder, without running anything of theirs.
func unpack(ctx context.Context, debs []deb, dir string) error {
	for _, d := range debs {
		if _, err := (command{name: "dpkg-deb", args: []string{"-x", d.file, dir}}).run(ctx); err != nil {
			return fmt.Errorf("unpack package %s: %w", d.name, err)
		}
	}
	return nil
}

// repository makes a folder that apt takes as a source of exactly these packages.
func repository(debs []deb, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	var list strings.Builder
	for _, d := range debs {
		name := d.name + ".deb" // without the version, whose colon apt would want escaped
		if err := linkOrCopy(d.file, filepath.Join(dir, name)); err != nil {
			return err
		}
		for line := range strings.Lines(d.stanza) {
			if strings.HasPrefix(line, "Filename:") {
				line = "Filename: ./" + name + "\n"
			}
			list.WriteString(line)
		}
		list.WriteString("\n\n")
	}
	return os.WriteFile(filepath.Join(dir, "Packages"), []byte(list.String()), 0o644)
}

// linkOrCopy gives a file a second name, or a copy where its filesystem cannot.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	return copyFile(from, to, 0o644)
}

func copyFile(from, to string, mode os.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return out.Chmod(mode)
}
