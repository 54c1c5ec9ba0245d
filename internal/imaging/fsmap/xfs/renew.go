package xfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
)

// Volume is what a filesystem lies on.
type Volume interface {
	io.ReaderAt
	io.WriterAt
}

// Log is the log of an unmounted filesystem of version 5, as an image has it. On a disk that was in use it must begin anew.
//
// Each block of metadata of version 5 keeps the place in the log of its last change, and the replay of a log passes over
// blocks that seem to be newer than the log. Where a disk was in use, its free space is full of such blocks. When an
// older image of the same filesystem is written over them, which leaves free space as it is, and the machine crashes
// later, such a block may stand where the log wants to write a new one: the kernel gives up, and the filesystem cannot
// be mounted. In a later round than any that the disk has seen, no block is newer than the log. xfs_repair does the same
// where it finds blocks that are ahead of the log.
type Log struct {
	Extent extent.Extent // in bytes of the volume

	fs     filesystem
	round  uint32 // the last in which it was written
	record []byte // of the unmount
}

// ReadLog returns the log of a filesystem where it may begin anew. It returns nil where it must stay as it is: that of a
// filesystem of version 4, which has no such trouble, one that must be replayed, see Forget, and one that Used would not
// believe. An error means that the volume could not be read.
func ReadLog(r io.ReaderAt, size int64) (*Log, error) {
	fs := &filesystem{r: r, size: size}
	record, round, err := fs.lastUnmount()
	var d damage
	if errors.As(err, &d) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	l := &Log{Extent: fs.logExtent(), fs: *fs, round: round, record: record}
	l.fs.r = nil // it may have much in memory
	return l, nil
}

// lastUnmount returns the record of the unmount of a filesystem of version 5, and in which round it was written.
func (fs *filesystem) lastUnmount() ([]byte, uint32, error) {
	if err := fs.readSuper(); err != nil {
		return nil, 0, err
	}
	if fs.version < 5 {
		return nil, 0, damaged("version %d", fs.version)
	}
	if err := fs.checkLog(); err != nil {
		return nil, 0, err
	}
	l := fs.ring()
	head, err := l.head()
	if err != nil {
		return nil, 0, err
	}
	record, err := l.unmount(head)
	return record, l.round, err
}

// Restart writes the log to a volume, whatever is there: the record of an unmount at its start, in the given round or in a
// later one, and all behind it as of the round before.
func (l *Log) Restart(w io.WriterAt, round uint32) error {
	round = max(round, l.round+1)
	if round == recordMagic || round-1 == recordMagic {
		round = recordMagic + 2 // as the kernel: a sector would look like a record
	}
	if round <= l.round {
		return fmt.Errorf("the log was written round %d times", l.round)
	}
	b := make([]byte, 1<<20)
	for at := 0; at < len(b); at += sector {
		be.PutUint32(b[at:], round-1)
	}
	for at := int64(len(l.record)); at < l.Extent.Len; {
		n := min(l.Extent.Len-at, int64(len(b)))
		if err := l.write(w, b[:n], at); err != nil {
			return err
		}
		at += n
	}
	return l.write(w, l.unmounted(0, round), 0)
}

// Continue has the log go on from the one that the same filesystem left on the volume: the record of an unmount is put at
// its end. That costs a sector or two where Restart writes all of the log, and is as good: what lies in the free space of
// the disk is not newer than its own log, where since then only the filesystem itself was written to, or a deploy that came
// to its end. It returns false, and writes nothing, where the volume has no such log, or not
// each sector of it is of the round that it should be, or that round is before least or not later than the image's, whose
// blocks would be newer.
func (l *Log) Continue(v Volume, least uint32) (bool, error) {
	fs := l.fs
	fs.r = v
	ring := fs.ring()
	head, ok, err := ring.whole()
	if err != nil || !ok || ring.round < least || ring.round <= l.round {
		return false, err
	}
	n, pad := int64(len(l.record))/sector, max(int64(fs.logPad)/sector, 1)
	if head%pad != 0 || head+n >= ring.n {
		return false, nil // it would begin the next round
	}
	var d damage
	if _, err := ring.last(head); errors.As(err, &d) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, l.write(v, l.unmounted(head, ring.round), head*sector)
}

// Left returns the round of the log that an earlier filesystem left in this place, 0 where there is none that is whole.
func (l *Log) Left(r io.ReaderAt) (uint32, error) {
	fs := l.fs
	fs.r = r
	ring := fs.ring()
	if _, ok, err := ring.whole(); err != nil || !ok {
		return 0, err
	}
	return ring.round, nil
}

// whole looks at all sectors of the ring. It returns the sector where the next record would be written, behind the last one where
// the round is at its end, and whether those before it are of one round, ring.round, and the others of the one before.
func (l *ring) whole() (head int64, ok bool, err error) {
	const step = 2048 // sectors read at once
	for at := int64(0); at < l.n; at += step {
		b, err := l.read(at, min(step, l.n-at))
		if err != nil {
			return 0, false, err
		}
		for i := range int64(len(b)) / sector {
			switch round := roundOf(b[i*sector:]); {
			case at+i == 0:
				l.round = round
			case round == l.round && head == 0:
			case round == l.round-1:
				if head == 0 {
					head = at + i
				}
			default:
				return 0, false, nil
			}
		}
	}
	if head == 0 {
		head = l.n
	}
	return head, l.round > 1, nil
}

// unmounted returns the record of the unmount for a place in the log.
func (l *Log) unmounted(at int64, round uint32) []byte {
	b := bytes.Clone(l.record)
	for i := 0; i < len(b); i += sector {
		be.PutUint32(b[i:], round)
	}
	place := uint64(round)<<32 | uint64(at)
	be.PutUint32(b, recordMagic)
	be.PutUint32(b[4:], round)
	be.PutUint64(b[16:], place)
	be.PutUint64(b[24:], place)      // that of the oldest one that counts
	be.PutUint32(b[32:], 0)          // no checksum, as mkfs.xfs writes it
	be.PutUint32(b[36:], 0xffffffff) // there is no record in front
	return b
}

func (l *Log) write(w io.WriterAt, b []byte, at int64) error {
	if _, err := w.WriteAt(b, l.Extent.Off+at); err != nil {
		return fmt.Errorf("write the log, %d bytes at offset %d: %w", len(b), l.Extent.Off+at, err)
	}
	return nil
}

// Forget takes from the free space of a filesystem whose log cannot begin anew what an older use of the disk left there: each
// block that passes for one of its metadata. Such a block may be newer than the log, and stand where the log wants to write
// a new one after the next crash, see Log. The log need not be dirty for that. All other bytes, and all other filesystems, stay as
// they are. It reads all free space, of twins, too, which are copies of the volume. An error means that one could not be read or
// written.
func Forget(v Volume, size int64, twins ...Volume) error {
	fs := &filesystem{r: v, size: size}
	used, err := fs.used()
	if d := damage(""); errors.As(err, &d) || err == nil && fs.version < 5 {
		return nil // all of it was written, or its metadata does not tell how old it is
	} else if err != nil {
		return err
	}
	free := used.Complement(fs.facts.Len)
	for _, one := range append([]Volume{v}, twins...) {
		fs.r = one
		if err := fs.forget(one, free); err != nil {
			return err
		}
	}
	return nil
}

// forget does that in the free space of one volume.
func (fs *filesystem) forget(v io.WriterAt, free extent.List) error {
	b, zeros := make([]byte, max(1<<20, fs.blockSize)), make([]byte, fs.blockSize)
	for _, e := range free {
		for off := e.Off; off < e.End(); off += int64(len(b)) {
			b := b[:min(int64(len(b)), e.End()-off)]
			if err := fs.read(b, off); err != nil {
				return fmt.Errorf("read free space: %w", err)
			}
			for at := int64(0); at+fs.blockSize <= int64(len(b)); at += fs.blockSize {
				if !fs.metadata(b[at:][:fs.blockSize]) {
					continue
				}
				if _, err := v.WriteAt(zeros, off+at); err != nil {
					return fmt.Errorf("write free space, %d bytes at offset %d: %w", len(zeros), off+at, err)
				}
			}
		}
	}
	return nil
}

// metadata tells whether a block has the UUID of the filesystem where a kind of metadata keeps it. Inodes do so, too.
func (fs *filesystem) metadata(b []byte) bool {
	for _, at := range []int{8, 16, 24, 32, 40, 64, 160, 248, 296} {
		if id := b[at:][:16]; bytes.Equal(id, fs.metaUUID) || bytes.Equal(id, fs.uuid) {
			return true
		}
	}
	return false
}
