package hfsplus

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
)

const (
	headerOff = 1024
	headerLen = 512
	endLen    = 1024 // bytes at the end: a copy of the header, and a sector that is reserved
	maxBlocks = 1 << 31

	attrUnmounted    = 1 << 8
	attrInconsistent = 1 << 11
	attrJournaled    = 1 << 13

	journalElsewhere = 2
	journalNew       = 4
	journalMagic     = 0x4a4e4c78

	// Of the master directory block of a HFS around it.
	wrapperSig   = "BD"
	embeddedSig  = 124
	maxAroundEnd = 64 << 20 // bytes that may follow
)

func isHeader(b []byte) bool {
	return bytes.HasPrefix(b, []byte("H+\x00\x04")) || bytes.HasPrefix(b, []byte("HX\x00\x05"))
}

func isWrapper(b []byte) bool {
	return bytes.HasPrefix(b, []byte(wrapperSig)) && (string(b[embeddedSig:embeddedSig+2]) == "H+" || string(b[embeddedSig:embeddedSig+2]) == "HX")
}

// Is tells whether a volume that starts with head may be HFS+, or HFS with HFS+ in it.
func Is(head []byte) bool {
	return len(head) >= headerOff+headerLen && (isHeader(head[headerOff:]) || isWrapper(head[headerOff:]))
}

// findEmbedded returns where a HFS+ lies in a HFS that is made around it, so that old systems say what they cannot read
// (TN1150, HFS Wrapper), and where that ends.
func findEmbedded(b []byte, size int64) (off, n, end int64, err error) {
	block, first := int64(be.Uint32(b[20:])), int64(be.Uint16(b[28:]))*512
	off, n = first+int64(be.Uint16(b[126:]))*block, int64(be.Uint16(b[128:]))*block
	end = first + int64(be.Uint16(b[18:]))*block + endLen
	if block == 0 || block%512 != 0 || n == 0 || off+n > end || end > size || end-off-n > maxAroundEnd {
		return 0, 0, 0, damaged("the HFS+ in the HFS begins at byte %d and has %d; the HFS ends at %d, the volume has %d", off, n, end, size)
	}
	return off, n, end, nil
}

// fork is a part of a file: its first extents.
type fork struct {
	size   uint64 // bytes
	blocks int64
	first  [8]area
}

type area struct{ at, n int64 }

func readAreas(b []byte) (out [8]area) {
	for i := range out {
		out[i] = area{int64(be.Uint32(b[8*i:])), int64(be.Uint32(b[8*i+4:]))}
	}
	return out
}

func readFork(b []byte) fork {
	return fork{be.Uint64(b), int64(be.Uint32(b[12:])), readAreas(b[16:])}
}

func (fs *filesystem) readHeader() error {
	if fs.size < headerOff+headerLen+endLen {
		return damaged("the volume is too small for a filesystem")
	}
	b := make([]byte, headerLen)
	if err := fs.read(b, headerOff); err != nil {
		return fmt.Errorf("read the header: %w", err)
	}
	if !isHeader(b) {
		return damaged("there is no header")
	}
	fs.facts.UUID = uuid(b[104:112])
	fs.block, fs.blocks, fs.free = int64(be.Uint32(b[40:])), int64(be.Uint32(b[44:])), int64(be.Uint32(b[48:]))
	attr := be.Uint32(b[4:])
	switch {
	case fs.block < 512 || fs.block > 1<<20 || fs.block&(fs.block-1) != 0:
		return damaged("header: blocks of %d bytes", fs.block)
	case fs.blocks == 0 || fs.blocks > min(maxBlocks, fs.size/fs.block):
		return damaged("the filesystem has %d blocks of %d bytes, the volume has %d bytes", fs.blocks, fs.block, fs.size)
	case attr&attrInconsistent != 0 || attr&attrUnmounted == 0:
		return damaged("it was not unmounted cleanly; mount and unmount it where it came from, or check it there")
	}
	fs.facts.BlockSize, fs.facts.Len = int(fs.block), fs.blocks*fs.block
	fs.allocation, fs.extents, fs.catalog = readFork(b[112:]), readFork(b[192:]), readFork(b[272:])
	fs.attributes, fs.startup = readFork(b[352:]), readFork(b[432:])
	if attr&attrJournaled != 0 {
		return fs.readJournal(int64(be.Uint32(b[12:])))
	}
	return nil
}

// readJournal makes sure that the journal has nothing to say.
func (fs *filesystem) readJournal(info int64) error {
	if info == 0 || info >= fs.blocks {
		return damaged("header: the journal is told of in block %d of %d", info, fs.blocks)
	}
	b := make([]byte, 52)
	if err := fs.read(b, info*fs.block); err != nil {
		return fmt.Errorf("read where the journal lies: %w", err)
	}
	flags, off, n := be.Uint32(b), be.Uint64(b[36:]), be.Uint64(b[44:])
	switch {
	case flags&journalElsewhere != 0:
		return damaged("its journal lies on another disk, and it alone tells whether all was written")
	case flags&journalNew != 0:
		return nil // it was never written to
	case n < 512 || n > uint64(fs.facts.Len) || off > uint64(fs.facts.Len)-n:
		return damaged("the journal has %d bytes from byte %d on", n, off)
	}
	b = b[:44]
	if err := fs.read(b, int64(off)); err != nil {
		return fmt.Errorf("read the head of the journal: %w", err)
	}
	// It is in the byte order of the computer that wrote it.
	if be.Uint32(b) != journalMagic && le.Uint32(b) != journalMagic {
		return damaged("the head of the journal makes no sense")
	}
	if !bytes.Equal(b[8:16], b[16:24]) {
		return damaged("its journal waits to be replayed; mount and unmount it where it came from")
	}
	return nil
}

// uuid is what blkid makes of the number of a volume.
func uuid(id []byte) string {
	if len(bytes.Trim(id, "\x00")) == 0 {
		return ""
	}
	h := md5.Sum(append([]byte("\xb3\xe2\x0f\x39\xf2\x92\x11\xd6\x97\xa4\x00\x30\x65\x43\xec\xac"), id...))
	h[6], h[8] = h[6]&0x0f|0x30, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:])
}

// read fills b with what lies at off.
func (fs *filesystem) read(b []byte, off int64) error {
	n, err := fs.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(b), off, err)
}
