// Package minix tells which bytes of a minix filesystem (versions 1, 2 and 3) are in use.
//
// It follows the kernel's include/uapi/linux/minix_fs.h: boot block, superblock, a bitmap of inodes, one of zones, the
// inodes, the zones of data. Nothing has a checksum or a count, so the map of zones is held against the inodes: each zone
// that one of them has must be marked, and belong to it alone. Where that is not so the answer is that the volume must be
// captured whole.
package minix

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le = binary.LittleEndian

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// filesystem is one reading of a filesystem. Places are in blocks; a zone is a block.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	*version
	block   int64 // bytes
	inodes  int64
	zones   int64 // all blocks of the filesystem
	first   int64 // zone
	imapAt  int64
	zmapAt  int64
	tableAt int64

	zmap  fact.Bitmap // bit 1 is that of the first zone
	owned fact.Bitmap // the same, of the zones that inodes have
}

// Used returns what the filesystem at the start of a volume of size bytes is, and the extents in use, in bytes of the
// volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume could
// not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "minix"
	used, err := fs.used()
	var d damage
	if errors.As(err, &d) {
		fs.facts.Whole = err.Error()
		return fs.facts, nil, nil
	}
	return fs.facts, used, err
}

func (fs *filesystem) note(format string, args ...any) {
	fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf(format, args...))
}

func (fs *filesystem) used() (extent.List, error) {
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	bits := fs.zones - fs.first + 1 // with bit 0, which stands for no zone
	var err error
	if fs.zmap, err = fs.readMap(fs.zmapAt, bits, "zones"); err != nil {
		return nil, err
	}
	var g fact.Gather
	g.Add(extent.Extent{Len: fs.first * fs.block})
	for n := fs.zmap.Next(1, bits, true); n < bits; {
		to := fs.zmap.Next(n, bits, false)
		g.Add(extent.Extent{Off: (fs.first + n - 1) * fs.block, Len: (to - n) * fs.block})
		n = fs.zmap.Next(to, bits, true)
	}
	fs.owned = fact.NewBitmap(bits)
	if err := fs.checkInodes(); err != nil {
		return nil, err
	}
	count := int64(0)
	for n := fs.zmap.Next(1, bits, true); n < bits; n = fs.zmap.Next(n+1, bits, true) {
		count++
	}
	if n := count - fs.owned.Count(); n > 0 {
		fs.note("%d zones are marked as used and belong to no file; they are captured", n)
	}
	return g.List(), nil
}

// readMap reads a map of bits. What it has room for beyond them must be marked as used, as the programs that make it do:
// otherwise there is more than the superblock speaks of.
func (fs *filesystem) readMap(at, bits int64, name string) (fact.Bitmap, error) {
	m := make(fact.Bitmap, blocksFor(bits, fs.block)*fs.block)
	if err := fs.read(m, at*fs.block); err != nil {
		return nil, fmt.Errorf("read the map of %s: %w", name, err)
	}
	end := int64(len(m)) * 8
	if n := m.Next(bits, end, false); n < end {
		return nil, damaged("the map of %s goes on behind the last one, %d", name, bits-1)
	}
	if !m.Has(0) {
		return nil, damaged("the first bit of the map of %s is not set", name)
	}
	return m, nil
}
