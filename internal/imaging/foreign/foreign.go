// Package foreign reads the images of other programs: it writes what they hold onto a sparse file, as the disk that they
// were made of.
package foreign

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"mimeo/internal/imaging/foreign/partclone"
	"mimeo/internal/imaging/foreign/partimage"
	"mimeo/internal/imaging/tool"
)

// Formats, by the names that people give them.
const (
	Raw        = "raw"
	Qcow2      = "qcow2"
	VMDK       = "vmdk"
	VHDX       = "vhdx"
	VHD        = "vhd"
	VDI        = "vdi"
	Partclone  = "partclone"
	Partimage  = "partimage"
	Clonezilla = "clonezilla"
	FOG        = "fog"
)

// Formats lists all of them.
var Formats = []string{Raw, Qcow2, VMDK, VHDX, VHD, VDI, Partclone, Partimage, Clonezilla, FOG}

// byQemu are those that qemu-img reads, by its names.
var byQemu = map[string]string{Qcow2: "qcow2", VMDK: "vmdk", VHDX: "vhdx", VHD: "vpc", VDI: "vdi"}

// Source is an image that was recognised.
type Source struct {
	Path   string
	Format string
	Disks  []string // of a folder: the disks that it holds
}

// Disk is what Unpack wrote.
type Disk struct {
	Size       int64 // bytes
	SectorSize int
	Notes      []string // what a person should know
}

// Error says what of an image cannot be read, and what to do.
type Error struct {
	Message, Hint string
}

func (e *Error) Error() string { return e.Message }

func refuse(hint, format string, args ...any) error {
	return &Error{Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Detect recognises an image by what it holds; format, unless it is empty, says what it must be.
func Detect(path, format string) (Source, error) {
	if format != "" && !slices.Contains(Formats, format) {
		return Source{}, refuse("one of "+strings.Join(Formats, ", "), "the format %s is not known", format)
	}
	info, err := os.Stat(path)
	if err != nil {
		return Source{}, err
	}
	s := Source{Path: path, Format: format}
	if info.IsDir() {
		return s, s.detectFolder()
	}
	found, err := detectFile(path, info)
	if err != nil {
		return s, err
	}
	switch {
	case format == "":
		s.Format = found
	case format == Clonezilla || format == FOG:
		return s, refuse("name the folder that holds the image", "%s is a file, and images of %s are folders", path, format)
	case format != Raw && found != format:
		return s, refuse("leave --format out", "%s looks like %s, not like %s", path, found, format)
	}
	return s, nil
}

func detectFile(path string, info os.FileInfo) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	head = head[:n]
	is := func(off int, magic string) bool {
		return len(head) >= off+len(magic) && string(head[off:off+len(magic)]) == magic
	}
	switch {
	case is(0, "QFI\xfb"):
		return Qcow2, nil
	case is(0, "KDMV"), is(0, "# Disk DescriptorFile"):
		return VMDK, nil
	case is(0, "vhdxfile"):
		return VHDX, nil
	case is(0, "conectix"):
		return VHD, nil
	case is(0x40, "\x7f\x10\xda\xbe"):
		return VDI, nil
	case is(0, partclone.Magic):
		return Partclone, nil
	case is(0, partimage.Magic):
		return Partimage, nil
	}
	if kind := compression(head); kind != "" {
		r, err := openParts([]string{path})
		if err != nil {
			return "", err
		}
		defer r.Close()
		inner := make([]byte, len(partclone.Magic))
		if _, err := io.ReadFull(r, inner); err != nil {
			return "", refuse("look whether the file is whole", "%s is compressed (%s), and cannot be read: %v", path, kind, err)
		}
		if string(inner) == partclone.Magic {
			return Partclone, nil
		}
		if strings.HasPrefix(partimage.Magic, string(inner)) {
			return Partimage, nil
		}
		return "", refuse("unpack it first, and import what comes out", "%s is compressed (%s), and holds no image of partclone or partimage", path, kind)
	}
	if info.Mode().IsRegular() && info.Size()%512 != 0 {
		return "", refuse("say --format where you know it", "it cannot be told what %s is", path)
	}
	return Raw, nil
}

// compression recognises a compressed stream by its first bytes; "" where it is none.
func compression(head []byte) string {
	for kind, magic := range map[string]string{"gzip": "\x1f\x8b", "zstd": "\x28\xb5\x2f\xfd", "xz": "\xfd7zXZ\x00", "bzip2": "BZh",
		"lz4": "\x04\x22\x4d\x18", "lzop": "\x89LZO", "lzip": "LZIP"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return kind
		}
	}
	return ""
}

// Unpack writes the image onto f, which is empty, as the disk that it was made of: what is not in the image is left a
// hole. disk names one of a folder's disks, where there are several.
func (s Source) Unpack(ctx context.Context, f *os.File, disk string, progress func(done, total int64)) (Disk, error) {
	switch s.Format {
	case Partclone:
		return s.unpackPartclone(ctx, f, progress)
	case Partimage:
		return s.unpackPartimage(ctx, f, progress)
	case Clonezilla, FOG:
		return s.unpackFolder(ctx, f, disk, progress)
	case Raw:
		return Disk{}, fmt.Errorf("%s is a disk as it is", s.Path)
	}
	return s.unpackByQemu(ctx, f)
}

// unpackByQemu has qemu-img write the disk.
func (s Source) unpackByQemu(ctx context.Context, f *os.File) (Disk, error) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return Disk{}, refuse("install the package qemu-utils", "%s images are read by qemu-img, and it is not here", s.Format)
	}
	info, err := tool.Run(ctx, 0, "qemu-img", "info", "-f", byQemu[s.Format], "--output=json", "--", s.Path)
	if err != nil {
		return Disk{}, err
	}
	// An image that somebody sent must not make us read other files of this machine.
	if strings.Contains(info, `"backing-filename"`) || strings.Contains(info, `"data-file"`) {
		return Disk{}, refuse("make it one file first: qemu-img convert -O qcow2 OLD NEW", "%s is a layer on another file", s.Path)
	}
	if _, err := tool.Run(ctx, 0, "qemu-img", "convert", "-f", byQemu[s.Format], "-O", "raw", "--", s.Path, f.Name()); err != nil {
		return Disk{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return Disk{}, err
	}
	return Disk{Size: st.Size(), SectorSize: 512}, nil
}

// unpackPartclone writes a filesystem, which becomes a disk without a partition table.
func (s Source) unpackPartclone(ctx context.Context, f *os.File, progress func(done, total int64)) (Disk, error) {
	r, err := openParts([]string{s.Path})
	if err != nil {
		return Disk{}, err
	}
	img, err := restore(ctx, r, f, 0, progress)
	if err = errors.Join(err, r.Close()); err != nil {
		return Disk{}, fmt.Errorf("%s: %w", s.Path, err)
	}
	size := (img.Size + 511) / 512 * 512
	if err := f.Truncate(size); err != nil {
		return Disk{}, err
	}
	return Disk{Size: size, SectorSize: 512, Notes: []string{fmt.Sprintf("imported from a partclone image of one %s filesystem: there is no partition table", img.FS)}}, nil
}

// unpackPartimage does the same with the volumes of partimage, of which Path names the first.
func (s Source) unpackPartimage(ctx context.Context, f *os.File, progress func(done, total int64)) (Disk, error) {
	base, ok := strings.CutSuffix(s.Path, ".000")
	img, err := partimage.Open(func(number int) (io.ReadCloser, error) {
		path := fmt.Sprintf("%s.%03d", base, number)
		if !ok {
			if number > 0 {
				return nil, fs.ErrNotExist
			}
			path = s.Path
		}
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
		return openParts([]string{path})
	})
	if err != nil {
		return Disk{}, fmt.Errorf("%s: %w", s.Path, err)
	}
	if err := errors.Join(img.Restore(ctx, f, progress), img.Close()); err != nil {
		return Disk{}, fmt.Errorf("%s: %w", s.Path, err)
	}
	size := (img.Size + 511) / 512 * 512
	if err := f.Truncate(size); err != nil {
		return Disk{}, err
	}
	return Disk{Size: size, SectorSize: 512, Notes: []string{fmt.Sprintf("imported from a partimage image of one %s filesystem: there is no partition table", img.FS)}}, nil
}

// restore writes a partclone image to f at off, where it has room bytes; 0 for no bound.
func restore(ctx context.Context, r io.Reader, w io.WriterAt, room int64, progress func(done, total int64)) (*partclone.Image, error) {
	img, err := partclone.Open(r)
	if err != nil {
		return nil, err
	}
	if room > 0 && img.Size > room {
		return nil, fmt.Errorf("the image is of a partition of %d bytes, and there are %d bytes for it", img.Size, room)
	}
	if err := img.Restore(ctx, w, progress); err != nil {
		return nil, err
	}
	// What compressed it has a checksum of its own, at the end.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("behind the image: %w", err)
	}
	return img, nil
}

// openParts opens a file that may be split and compressed.
func openParts(paths []string) (io.ReadCloser, error) {
	files := &joined{paths: paths}
	head := make([]byte, 16)
	n, err := io.ReadFull(files, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.Join(fmt.Errorf("%s: %w", paths[0], err), files.Close())
	}
	r, err := unpacked(compression(head[:n]), io.MultiReader(bytes.NewReader(head[:n]), files))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", paths[0], err), files.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{r, files}, nil
}

// unpacked decompresses a stream.
func unpacked(kind string, r io.Reader) (io.Reader, error) {
	switch kind {
	case "":
		return r, nil
	case "gzip":
		return gzip.NewReader(r)
	case "zstd":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z, nil
	case "xz":
		return xz.ReaderConfig{DictCap: 128 << 20}.NewReader(bufio.NewReader(r))
	case "bzip2":
		return bzip2.NewReader(r), nil
	case "lz4":
		return lz4.NewReader(r), nil
	}
	return nil, refuse("unpack it, and compress it with gzip or zstd", "it is compressed by %s, which is not read here", kind)
}

// joined reads files one after the other.
type joined struct {
	paths []string
	cur   *os.File
}

func (j *joined) Read(b []byte) (int, error) {
	for {
		if j.cur == nil {
			if len(j.paths) == 0 {
				return 0, io.EOF
			}
			var err error
			if j.cur, err = os.Open(j.paths[0]); err != nil {
				return 0, err
			}
			j.paths = j.paths[1:]
		}
		n, err := j.cur.Read(b)
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := j.Close(); err != nil {
			return 0, err
		}
	}
}

func (j *joined) Close() error {
	if j.cur == nil {
		return nil
	}
	err := j.cur.Close()
	j.cur = nil
	return err
}

// split finds the pieces of a file: itself, or name.aa, name.ab, ..., or name.000, name.001, ...; none where it is not
// there. A piece that is missing between others is an error.
func split(dir, name string) ([]string, error) {
	whole := filepath.Join(dir, name)
	if _, err := os.Stat(whole); err == nil {
		return []string{whole}, nil
	}
	list, err := filepath.Glob(globQuote(whole) + ".*")
	if err != nil {
		return nil, err
	}
	var pieces []string
	for _, p := range list {
		if suffix := strings.TrimPrefix(p, whole+"."); isPiece(suffix) {
			pieces = append(pieces, p)
		}
	}
	slices.Sort(pieces)
	for i, p := range pieces {
		if got, want := strings.TrimPrefix(p, whole+"."), pieceName(i, strings.TrimPrefix(pieces[0], whole+".")); got != want {
			return nil, refuse("copy the whole folder again", "%s.%s is missing: the next piece is %s", whole, want, filepath.Base(p))
		}
	}
	return pieces, nil
}

func isPiece(s string) bool {
	if len(s) < 2 || len(s) > 4 {
		return false
	}
	lower := strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") == ""
	digits := strings.Trim(s, "0123456789") == ""
	return len(s) == 2 && lower || len(s) == 3 && (digits || lower)
}

// pieceName is the i-th ending of pieces whose first has an ending like first.
func pieceName(i int, first string) string {
	if first[0] >= '0' && first[0] <= '9' {
		return fmt.Sprintf("%0*d", len(first), i)
	}
	b := make([]byte, len(first))
	for k := len(b) - 1; k >= 0; k-- {
		b[k] = 'a' + byte(i%26)
		i /= 26
	}
	return string(b)
}

// globQuote makes a path stand for itself in a pattern.
func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}
