package xfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Volume is what a filesystem lies on.
type Volume interface {
	io.ReaderAt
	io.WriterAt
}

// RenewLog empties the log of an unmounted filesystem and has it go on in the given round, or in a later one.
//
// Each block of metadata of version 5 keeps the place in the log of its last change, and the replay of a log passes over
// blocks that seem to be newer than the log. Where a disk was in use, its free space is full of such blocks. When an
// older image of the same filesystem is written over them, which leaves free space as it is, and the machine crashes
// later, such a block may stand where the log wants to write a new one: the kernel gives up, and the filesystem cannot
// be mounted. In a later round than any that the disk has seen, no block is newer than the log. xfs_repair does the same
// where it finds blocks that are ahead of the log.
//
// A log that must be replayed stays as it is, and what is newer than it is taken out of free space instead: see Forget. A
// filesystem of version 4, or one that Used would not believe, stays as it is. An error means that the volume could not be
// read or written.
func RenewLog(v Volume, size int64, round uint32) error {
	fs := &filesystem{r: v, size: size}
	var d damage
	if err := fs.readSuper(); errors.As(err, &d) || err == nil && fs.version < 5 {
		return nil
	} else if err != nil {
		return err
	}
	if err := fs.checkLog(); errors.Is(err, notReplayed) {
		return Forget(v, size)
	} else if errors.As(err, &d) {
		return nil
	} else if err != nil {
		return err
	}
	l := fs.ring()
	head, err := l.head()
	if err != nil {
		return err
	}
	record, err := l.unmount(head)
	if err != nil {
		return err
	}
	round = max(round, l.round+1)
	if round == recordMagic || round-1 == recordMagic {
		round = recordMagic + 2 // as the kernel: a sector would look like a record
	}
	if round <= l.round {
		return nil // 2^32 rounds
	}
	return l.restart(v, record, round)
}

// Forget takes from the free space of a filesystem whose log must be replayed what an older use of the disk left there: each
// block that passes for one of its metadata. Such a block may be newer than the log, and stand where the log wants to write
// a new one after the next crash, see RenewLog. All other bytes, and all other filesystems, stay as they are. It reads all free
// space. An error means that the volume could not be read or written.
func Forget(v Volume, size int64) error {
	fs := &filesystem{r: v, size: size}
	used, err := fs.used()
	if d := damage(""); errors.As(err, &d) || err == nil && (fs.log == nil || fs.version < 5) {
		return nil // all of it was written, or nothing is newer
	} else if err != nil {
		return err
	}
	b, zeros := make([]byte, max(1<<20, fs.blockSize)), make([]byte, fs.blockSize)
	for _, e := range used.Complement(fs.facts.Len) {
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

// restart writes the record of an unmount at the start of the log, and marks all behind it as of the round before.
func (l *ring) restart(w io.WriterAt, record []byte, round uint32) error {
	b := make([]byte, 1<<20)
	for at := 0; at < len(b); at += sector {
		be.PutUint32(b[at:], round-1)
	}
	for at, end := int64(len(record)), l.n*sector; at < end; {
		n := min(end-at, int64(len(b)))
		if _, err := w.WriteAt(b[:n], l.off+at); err != nil {
			return fmt.Errorf("write the log, %d bytes at offset %d: %w", n, l.off+at, err)
		}
		at += n
	}
	for at := 0; at < len(record); at += sector {
		be.PutUint32(record[at:], round)
	}
	be.PutUint32(record, recordMagic)
	be.PutUint32(record[4:], round)
	be.PutUint64(record[16:], uint64(round)<<32) // its place
	be.PutUint64(record[24:], uint64(round)<<32) // that of the oldest one that counts
	be.PutUint32(record[32:], 0)                 // no checksum, as mkfs.xfs writes it
	be.PutUint32(record[36:], 0xffffffff)        // there is no record in front
	if _, err := w.WriteAt(record, l.off); err != nil {
		return fmt.Errorf("write the log, %d bytes at offset %d: %w", len(record), l.off, err)
	}
	return nil
}
