package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/klauspost/compress/flate"

	"mimeo/internal/imaging/view"
)

// The format is QEMU's docs/interop/qcow2.txt, version 3. Numbers are big-endian.
const (
	clusterBits = 16
	clusterSize = 1 << clusterBits
	l2Entries   = clusterSize / 8
	refEntries  = clusterSize / 2 // reference counts of 16 bits in a cluster
	headerLen   = 104

	flagCopied     = 1 << 63 // the cluster's reference count is 1
	flagCompressed = 1 << 62
	sectorShift    = 62 - (clusterBits - 8) // in the entry of a compressed cluster, of the number of its sectors less 1
)

// Qcow2 writes the disk as a qcow2 file, for QEMU, libvirt and others. Compressed, each cluster of 64 KiB is a deflate
// stream, which every program reads; the file is for keeping then, as writing to it is slow.
func Qcow2(ctx context.Context, d *view.Disk, f *os.File, compressed bool, progress Progress) error {
	q := &qcow2{f: f, size: d.Size(), end: clusterSize, at: -1, l1: make([]uint64, (d.Size()+l2Entries*clusterSize-1)/(l2Entries*clusterSize)),
		cluster: make([]byte, clusterSize)}
	if compressed {
		var err error
		if q.pack, err = flate.NewWriterWindow(nil, 1<<12); err != nil { // the window that the format has
			return err
		}
	}
	return copyTo(ctx, d, q, progress)
}

// qcow2 writes clusters one after the other; the tables that say where they lie come behind them, the header last.
type qcow2 struct {
	f    *os.File
	size int64 // of the disk, bytes
	end  int64 // of the file, bytes; not on a cluster's border between compressed ones
	pack *flate.Writer
	out  bytes.Buffer

	at      int64  // the disk's cluster that is being filled; -1 before the first
	cluster []byte // its bytes
	l1      []uint64
	l2      []uint64 // of the stretch of the disk that at lies in
	refs    []uint16 // of each cluster of the file
}

// WriteAt gathers clusters. Offsets ascend.
func (q *qcow2) WriteAt(b []byte, off int64) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if at := off >> clusterBits; at != q.at {
			if err := q.put(); err != nil {
				return 0, err
			}
			if err := q.turn(at); err != nil {
				return 0, err
			}
			clear(q.cluster)
		}
		k := copy(q.cluster[off&(clusterSize-1):], b)
		b, off = b[k:], off+int64(k)
	}
	return n, nil
}

// turn goes on to another cluster of the disk.
func (q *qcow2) turn(at int64) error {
	if q.at < 0 || at/l2Entries != q.at/l2Entries {
		if err := q.putL2(); err != nil {
			return err
		}
		q.l2 = make([]uint64, l2Entries)
	}
	q.at = at
	return nil
}

// put writes the cluster that was filled.
func (q *qcow2) put() error {
	if q.at < 0 {
		return nil
	}
	entry := &q.l2[q.at%l2Entries]
	if q.pack != nil {
		q.out.Reset()
		q.pack.Reset(&q.out)
		if _, err := q.pack.Write(q.cluster); err != nil {
			return err
		}
		if err := q.pack.Close(); err != nil {
			return err
		}
		if q.out.Len() < clusterSize-clusterSize/32 {
			off, n := q.end, int64(q.out.Len())
			if _, err := q.f.WriteAt(q.out.Bytes(), off); err != nil {
				return err
			}
			q.end += n
			q.count(off, n)
			*entry = flagCompressed | uint64(((off&511)+n-1)/512)<<sectorShift | uint64(off)
			return nil
		}
	}
	off, err := q.whole(q.cluster)
	*entry = flagCopied | uint64(off)
	return err
}

// whole writes whole clusters, and returns where they begin.
func (q *qcow2) whole(b []byte) (off int64, err error) {
	off = (q.end + clusterSize - 1) &^ (clusterSize - 1)
	if _, err := q.f.WriteAt(b, off); err != nil {
		return 0, err
	}
	q.end = off + (int64(len(b))+clusterSize-1)&^(clusterSize-1)
	q.count(off, int64(len(b)))
	return off, nil
}

// count counts a reference to each cluster of the file that a range lies in. Compressed ones share them: at most as many
// as fit in one, which 16 bits hold.
func (q *qcow2) count(off, n int64) {
	last := (off + n - 1) >> clusterBits
	for int64(len(q.refs)) <= last {
		q.refs = append(q.refs, 0)
	}
	for c := off >> clusterBits; c <= last; c++ {
		q.refs[c]++
	}
}

// putL2 writes the table of a stretch of the disk that has content.
func (q *qcow2) putL2() error {
	if q.l2 == nil {
		return nil
	}
	off, err := q.whole(words(q.l2))
	q.l1[q.at/l2Entries] = flagCopied | uint64(off)
	return err
}

// Finish writes the tables and the header.
func (q *qcow2) Finish() error {
	if err := q.put(); err != nil {
		return err
	}
	if err := q.putL2(); err != nil {
		return err
	}
	var l1 int64
	if len(q.l1) > 0 {
		var err error
		if l1, err = q.whole(words(q.l1)); err != nil {
			return err
		}
	}
	// The reference counts count themselves, too: their blocks follow here, and their table behind these.
	q.count(0, headerLen)
	begin := (q.end + clusterSize - 1) &^ (clusterSize - 1)
	used, blocks, table := begin>>clusterBits, int64(0), int64(0)
	for {
		all := used + blocks + table
		b := (all + refEntries - 1) / refEntries
		t := (b*8 + clusterSize - 1) / clusterSize
		if b == blocks && t == table {
			break
		}
		blocks, table = b, t
	}
	q.count(begin, (blocks+table)*clusterSize)
	refs := make([]byte, blocks*clusterSize)
	for i, n := range q.refs {
		binary.BigEndian.PutUint16(refs[2*i:], n)
	}
	if _, err := q.f.WriteAt(refs, begin); err != nil {
		return err
	}
	where := make([]uint64, table*clusterSize/8)
	for i := range blocks {
		where[i] = uint64(begin + i*clusterSize)
	}
	at := begin + blocks*clusterSize
	if _, err := q.f.WriteAt(words(where), at); err != nil {
		return err
	}
	h := make([]byte, headerLen)
	copy(h, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], clusterBits)
	be.PutUint64(h[24:], uint64(q.size))
	be.PutUint32(h[36:], uint32(len(q.l1)))
	be.PutUint64(h[40:], uint64(l1))
	be.PutUint64(h[48:], uint64(at))
	be.PutUint32(h[56:], uint32(table))
	be.PutUint32(h[96:], 4) // reference counts of 2^4 bits
	be.PutUint32(h[100:], headerLen)
	if err := q.f.Truncate(at + table*clusterSize); err != nil {
		return err
	}
	if _, err := q.f.WriteAt(h, 0); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	return nil
}

func words(list []uint64) []byte {
	b := make([]byte, 0, 8*len(list))
	for _, v := range list {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}
