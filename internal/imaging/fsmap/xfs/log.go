package xfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"

	"mimeo/internal/imaging/extent"
)

const (
	recordMagic   = 0xfeedbabe
	recordLen     = 324       // bytes of a record's header
	recordCycles  = 32 << 10  // bytes of content that one header has room for the cycles of
	unmountFlag   = 0x20      // of an operation: the filesystem was unmounted
	logWindow     = 2 << 20   // bytes that may be under way to the log at a time: 8 buffers of 256 KiB
	maxLog        = 4 << 30   // bytes; mkfs.xfs makes none of more than 2 GiB
	maxRecordSize = 256 << 10 // bytes of a buffer
)

const (
	notReplayed = damage("its log was not replayed: mount and unmount it once")
	cutOff      = damage("its log was not replayed, and its end cannot be told: mount and unmount it once")
)

// logExtent returns where the log lies.
func (fs *filesystem) logExtent() extent.Extent {
	group, at, _ := fs.split(fs.logStart)
	return fs.bytes(group, at, int64(fs.logBlocks))
}

// checkLog tells whether the filesystem was unmounted, so that the log has nothing to say: the last record in it says
// so. The log is a ring of sectors. Each begins with the number of the round in which it was written, and where the
// number falls by one is its head.
func (fs *filesystem) checkLog() error {
	if fs.logStart == 0 {
		return damaged("its log lies on another device, and only the log tells whether it was unmounted")
	}
	group, at, ok := fs.split(fs.logStart)
	if n := fs.logBlocks; !ok || n == 0 || n > fs.groupLen(group)-uint32(at) || int64(n)*fs.blockSize > maxLog {
		return damaged("superblock: a log of %d blocks at block %#x", n, fs.logStart)
	}
	l := fs.ring()
	head, err := l.head()
	if err == nil {
		_, err = l.unmount(head)
	}
	return ofLog(err)
}

// ofLog says of an error that it is of the log.
func ofLog(err error) error {
	if err == nil || errors.Is(err, notReplayed) || errors.Is(err, cutOff) {
		return err
	}
	return prefixed(err, "log")
}

func (fs *filesystem) ring() *ring {
	e := fs.logExtent()
	return &ring{fs: fs, off: e.Off, n: e.Len / sector}
}

// ring is the log.
type ring struct {
	fs    *filesystem
	off   int64 // bytes from the start of the volume
	n     int64 // sectors
	round uint32
}

// read returns n sectors from at on, around the end.
func (l *ring) read(at, n int64) ([]byte, error) {
	b := make([]byte, n*sector)
	at = (at%l.n + l.n) % l.n
	front := min(n, l.n-at)
	if err := l.fs.read(b[:front*sector], l.off+at*sector); err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	if err := l.fs.read(b[front*sector:], l.off); err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	return b, nil
}

// roundOf returns in which round a sector was written: the headers of records keep it behind their magic number.
func roundOf(b []byte) uint32 {
	if n := be.Uint32(b); n != recordMagic {
		return n
	}
	return be.Uint32(b[4:])
}

// head returns the sector where the next record would be written, from 0 to n: those before it are of the current round,
// the others of the one before.
func (l *ring) head() (int64, error) {
	first, err := l.read(0, 1)
	if err != nil {
		return 0, err
	}
	if l.round = roundOf(first); l.round == 0 {
		return 0, damaged("it was never written")
	}
	head := int64(sort.Search(int(l.n), func(i int) bool {
		b, e := l.read(int64(i), 1)
		if e != nil {
			err = e
			return true
		}
		return roundOf(b) != l.round
	}))
	if err != nil {
		return 0, err
	}
	// While a filesystem is mounted, what is written at once may arrive in any order. After an unmount nothing is left.
	window := min(l.n/2, logWindow/sector)
	b, err := l.read(head-window, 2*window)
	if err != nil {
		return 0, err
	}
	for i := range 2 * window {
		n, want := head-window+i, l.round
		if n < 0 && head < l.n || n >= head && n < l.n {
			want--
		}
		// xfs_repair and xfs_admin leave zeros behind the record that they write.
		if got := roundOf(b[i*sector:]); got != want && (got != 0 || n < head || n >= l.n) {
			return 0, cutOff
		}
	}
	return head, nil
}

// unmount returns the last record in front of head, and notReplayed unless it says that the filesystem was unmounted.
func (l *ring) unmount(head int64) ([]byte, error) {
	b, err := l.last(head)
	if err != nil {
		return nil, err
	}
	headers, content := recordSize(b)
	if be.Uint32(b[40:]) != 1 || b[headers*sector+9]&unmountFlag == 0 {
		return nil, notReplayed
	}
	if sum := binary.LittleEndian.Uint32(b[32:]); l.fs.version == 5 && sum != 0 && !recordChecked(b, headers, content, sum) {
		return nil, damaged("the checksum of the record at sector %d is wrong", be.Uint32(b[20:]))
	}
	return b, nil
}

// last returns the last record in front of head, with its headers.
func (l *ring) last(head int64) ([]byte, error) {
	const most = (maxRecordSize + maxRecordSize/recordCycles*sector) / sector // of a record and its headers
	window := min(l.n, most)
	b, err := l.read(head-window, window)
	if err != nil {
		return nil, err
	}
	at := window - 1
	for at >= 0 && be.Uint32(b[at*sector:]) != recordMagic {
		at--
	}
	if at < 0 {
		return nil, damaged("there is no record in front of sector %d", head)
	}
	b = b[at*sector:]
	n := (head - window + at + l.n) % l.n
	round := roundOf(b)
	if got := be.Uint64(b[16:]); got != uint64(round)<<32|uint64(n) {
		return nil, damaged("the record at sector %d is one of %#x", n, got)
	}
	if id := b[304:320]; !bytes.Equal(id, l.fs.uuid) && !bytes.Equal(id, make([]byte, 16)) {
		return nil, damaged("it is of another filesystem")
	}
	if headers, content := recordSize(b); headers == 0 || int64(len(b)) != (headers+(content+sector-1)/sector)*sector {
		return nil, cutOff // something was to follow
	}
	return b, nil
}

// recordSize returns how many sectors the headers of a record take, and how many bytes its content; no header where that
// makes no sense.
func recordSize(b []byte) (headers, content int64) {
	version, size := be.Uint32(b[8:]), int64(be.Uint32(b[320:]))
	headers = 1
	if version&2 != 0 && size > recordCycles {
		headers = (size + recordCycles - 1) / recordCycles
	}
	content = int64(be.Uint32(b[12:]))
	if size > maxRecordSize || content <= 0 || content > maxRecordSize {
		return 0, 0
	}
	return headers, content
}

// recordChecked tells whether the checksum of a record is good: of its header, what the further ones hold, and content.
// mkfs.xfs and xfs_repair write none. Systems of 64 bits count four more bytes of the header.
func recordChecked(b []byte, headers, content int64, sum uint32) bool {
	for _, n := range []int{recordLen, recordLen + 4} {
		c := crc32.Update(0, castagnoli, b[:32])
		c = crc32.Update(c, castagnoli, make([]byte, 4))
		c = crc32.Update(c, castagnoli, b[36:n])
		for i := int64(1); i < headers; i++ {
			c = crc32.Update(c, castagnoli, b[i*sector:][:4+recordCycles/sector*4])
		}
		if crc32.Update(c, castagnoli, b[headers*sector:][:content]) == sum {
			return true
		}
	}
	return false
}
