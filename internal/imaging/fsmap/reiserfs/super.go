package reiserfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	superOff  = 64 << 10
	superLen  = 204
	maxBlocks = 1 << 32

	stateClean   = 1
	maxHeight    = 8
	descMagic    = "ReIsErLB" // at the end of the first block of a transaction
	paramsOff    = 12         // of the journal's place and size, in the superblock
	paramsLen    = 16
	maxJournal   = 1 << 16 // blocks
	headParamOff = 12      // the same, in the head of the journal
)

// Is tells whether a volume that starts with head may be ReiserFS.
func Is(head []byte) bool {
	if len(head) < superOff+superLen {
		return false
	}
	m := head[superOff+52:]
	return bytes.HasPrefix(m, []byte("ReIsErFs")) || bytes.HasPrefix(m, []byte("ReIsEr2Fs")) || bytes.HasPrefix(m, []byte("ReIsEr3Fs"))
}

func (fs *filesystem) readSuper() error {
	if fs.size < superOff+superLen {
		return damaged("the volume is too small for a filesystem")
	}
	head := make([]byte, superOff+superLen)
	if err := fs.read(head[superOff:], superOff); err != nil {
		return fmt.Errorf("read the superblock: %w", err)
	}
	if !Is(head) {
		return damaged("there is no superblock")
	}
	b := head[superOff:]
	if id := b[84:100]; len(bytes.Trim(id, "\x00")) > 0 {
		fs.facts.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	}
	fs.facts.Label, _, _ = strings.Cut(string(b[100:116]), "\x00")
	fs.blocks, fs.free, fs.root = int64(le.Uint32(b)), int64(le.Uint32(b[4:])), int64(le.Uint32(b[8:]))
	fs.block, fs.height = int64(le.Uint16(b[44:])), int(le.Uint16(b[68:]))
	fs.facts.BlockSize = int(fs.block)
	switch {
	case fs.block < 1024 || fs.block > 32768 || fs.block&(fs.block-1) != 0:
		return damaged("superblock: blocks of %d bytes", fs.block)
	case fs.blocks == 0 || fs.blocks > fs.size/fs.block:
		return damaged("the filesystem has %d blocks of %d bytes, the volume has %d bytes", fs.blocks, fs.block, fs.size)
	case le.Uint16(b[50:]) != stateClean:
		return damaged("it was not unmounted cleanly, and its map may be behind its journal; mount and unmount it, or run reiserfsck")
	case le.Uint16(b[62:]) != 0:
		return damaged("reiserfsck did not end, or found what only --rebuild-tree repairs")
	case le.Uint16(b[72:]) > 2:
		return damaged("superblock: version %d", le.Uint16(b[72:]))
	case le.Uint32(b[16:]) != 0:
		return damaged("its journal lies on another disk, and it alone tells whether all was written")
	case fs.height < 2 || fs.height > maxHeight:
		return damaged("superblock: a tree of %d levels", fs.height)
	}
	fs.maps = (fs.blocks + fs.perMap() - 1) / fs.perMap()
	if fs.blocks <= fs.mapPlace(0) {
		return damaged("the filesystem has %d blocks of %d bytes and no room for a map", fs.blocks, fs.block)
	}
	if n := int64(le.Uint16(b[70:])); n != fs.maps && !(n == 0 && fs.maps > 0xffff) {
		return damaged("superblock: %d blocks of the map, not %d", n, fs.maps)
	}
	fs.facts.Len = fs.blocks * fs.block
	return fs.readJournal(b)
}

// perMap is how many blocks a block of the map speaks of.
func (fs *filesystem) perMap() int64 { return 8 * fs.block }

// mapPlace returns where a block of the map lies: the first behind the superblock, each other where what it speaks of begins.
func (fs *filesystem) mapPlace(i int64) int64 {
	if i == 0 {
		return superOff/fs.block + 1
	}
	return i * fs.perMap()
}

// readJournal makes sure that the journal has nothing to say: a mount begins to replay where its head says.
func (fs *filesystem) readJournal(super []byte) error {
	fs.journalAt, fs.journalLen = int64(le.Uint32(super[12:])), int64(le.Uint32(super[20:]))
	at, n := fs.journalAt, fs.journalLen
	if at <= fs.mapPlace(0) || n == 0 || n > maxJournal || at+n+1 > fs.blocks {
		return damaged("superblock: a journal of %d blocks from block %d on", n, at)
	}
	b := make([]byte, fs.block)
	if err := fs.read(b, (at+n)*fs.block); err != nil {
		return fmt.Errorf("read the head of the journal: %w", err)
	}
	flushed, first := le.Uint32(b), int64(le.Uint32(b[4:]))
	if !bytes.Equal(b[headParamOff:headParamOff+paramsLen], super[paramsOff:paramsOff+paramsLen]) || first >= n {
		return damaged("the head of the journal and the superblock differ")
	}
	if err := fs.read(b, (at+first)*fs.block); err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	if string(b[fs.block-12:][:len(descMagic)]) == descMagic && int32(le.Uint32(b)-flushed) > 0 {
		return damaged("its journal waits to be replayed; mount and unmount it, or run reiserfsck")
	}
	return nil
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
