package stateless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// BuildFile is where the initrd carries the ID of its build, with a line break behind.
const BuildFile = "etc/mimeo-build"

// initrdDirs are the folders that the initrd has beside those of its files.
var initrdDirs = []string{"dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp"}

// stageInitrd lays out the initrd's files in a folder.
func stageInitrd(ctx context.Context, dir, agent string, t *moduleTree, modules []string) error {
	for _, d := range initrdDirs {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(agent, filepath.Join(dir, "init"), 0o755); err != nil {
		return err
	}
	return t.install(ctx, modules, dir, true)
}

// packInitrd writes the files of a folder as a zstd-compressed cpio archive in the kernel's newc format
// (Documentation/driver-api/early-userspace/buffer-format.rst). Names are sorted, all belongs to root, every time is
// epoch, so that the same files give the same bytes. It gives the length before compression.
func packInitrd(dir, to string, epoch int64) (raw int64, err error) {
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// One goroutine: where blocks are cut must not hang on timing. 8 MiB of window is what the kernel's reader needs
	// to allocate while it unpacks.
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	count := &counter{w: z}
	err = writeTree(count, dir, epoch)
	return count.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Bits of a mode in a cpio archive (cpio(5)).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioLink = 0o120000
	cpioChar = 0o020000
)

// writeTree writes a folder's files as one cpio archive.
func writeTree(w io.Writer, dir string, epoch int64) error {
	archive := cpio.Newc.Writer(w)
	ino := uint64(0)
	put := func(name string, mode uint64, content []byte, major, minor uint64) error {
		ino++
		info := cpio.Info{Ino: ino, Mode: mode, NLink: 1, MTime: uint64(epoch), Rmajor: major, Rminor: minor, Name: name}
		return archive.WriteRecord(cpio.StaticRecord(content, info))
	}
	// WalkDir goes in the order of names.
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		perm := uint64(info.Mode().Perm())
		switch {
		case d.IsDir():
			if err := put(name, cpioDir|0o755, nil, 0, 0); err != nil || name != "dev" {
				return err
			}
			// What /init writes to before it has mounted devtmpfs.
			if err := put("dev/console", cpioChar|0o600, nil, 5, 1); err != nil {
				return err
			}
			return put("dev/null", cpioChar|0o666, nil, 1, 3)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return put(name, cpioLink|0o777, []byte(target), 0, 0)
		case d.Type().IsRegular():
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return put(name, cpioFile|perm, content, 0, 0)
		}
		return fmt.Errorf("%s is no file, folder or link", p)
	})
	if err != nil {
		return fmt.Errorf("write cpio archive: %w", err)
	}
	return cpio.WriteTrailer(archive)
}

// buildArchive is the small uncompressed cpio archive that stands before the compressed one and holds the build's ID.
// It is not part of what the ID is made of. Its length is a multiple of 512 bytes, as what follows wants to be aligned.
func buildArchive(id string, epoch int64) ([]byte, error) {
	var b bytes.Buffer
	archive := cpio.Newc.Writer(&b)
	for _, r := range []cpio.Record{
		cpio.StaticRecord(nil, cpio.Info{Ino: 1, Mode: cpioDir | 0o755, NLink: 1, MTime: uint64(epoch), Name: "etc"}),
		cpio.StaticRecord([]byte(id+"\n"), cpio.Info{Ino: 2, Mode: cpioFile | 0o644, NLink: 1, MTime: uint64(epoch), Name: BuildFile}),
	} {
		if err := archive.WriteRecord(r); err != nil {
			return nil, err
		}
	}
	if err := cpio.WriteTrailer(archive); err != nil {
		return nil, err
	}
	b.WriteString(strings.Repeat("\x00", (512-b.Len()%512)%512))
	return b.Bytes(), nil
}

// sealInitrd puts the build's ID before the archive.
func sealInitrd(archive, to, id string, epoch int64) (err error) {
	head, err := buildArchive(id, epoch)
	if err != nil {
		return err
	}
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, io.MultiReader(bytes.NewReader(head), in)); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	return nil
}
