package ufs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	superLen = 1376
	magicOff = 1372
	magic1   = 0x00011954
	magic2   = 0x19540119

	cleanFlag    = 1
	flagUnclean  = 0x01
	flagNeedFsck = 0x04

	maxGroups = 1 << 20
)

// places are where a superblock may lie, in the order in which kernels look for it.
var places = []int{64 << 10, 8 << 10}

// find returns where the superblock of a volume lies that starts with head, its byte order and its version; 0 without.
func find(head []byte) (off int, order binary.ByteOrder, version int) {
	for _, off := range places {
		if len(head) < off+superLen {
			continue
		}
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			switch order.Uint32(head[off+magicOff:]) {
			case magic1:
				if off == 8<<10 { // what lies at 64 KiB is a copy
					return off, order, 1
				}
			case magic2:
				if order.Uint64(head[off+1000:]) == uint64(off) { // otherwise it is a copy, too
					return off, order, 2
				}
			}
		}
	}
	return 0, nil, 0
}

// Is tells whether a volume that starts with head may be UFS.
func Is(head []byte) bool {
	_, _, version := find(head)
	return version != 0
}

func (fs *filesystem) readSuper() error {
	head := make([]byte, min(fs.size, int64(places[0]+superLen)))
	if err := fs.read(head, 0); err != nil {
		return fmt.Errorf("read the superblock: %w", err)
	}
	off, order, version := find(head)
	if version == 0 {
		return damaged("there is no superblock")
	}
	b := head[off:]
	num := func(at int) int64 { return int64(int32(order.Uint32(b[at:]))) }
	long := func(at int) int64 { return int64(order.Uint64(b[at:])) }
	fs.order, fs.version = order, version
	if x, y := order.Uint32(b[144:]), order.Uint32(b[148:]); x != 0 || y != 0 {
		fs.facts.UUID = fmt.Sprintf("%08x%08x", x, y)
	}
	fs.block, fs.fragment, fs.perBlock = num(48), num(52), num(56)
	fs.groups, fs.perGroup, fs.fragments = num(44), num(188), long(1080)
	fs.facts.BlockSize = int(fs.fragment)
	fs.superAt, fs.groupAt, fs.inodesAt, fs.dataAt = num(8), num(12), num(16), num(20)
	fs.groupLen, fs.clusters = num(160), num(1316)
	fs.total = summary{blocks: long(1008 + 8), fragments: long(1008 + 24)}
	fs.summaryAt, fs.summaryLen = long(1096), num(156)
	if version == 1 {
		// Linux and BSD keep the old numbers and the new ones. Others do not know the new ones.
		if num(36) != fs.fragments {
			return damaged("it is UFS1 of another kind than that of the BSDs, such as that of Solaris")
		}
		fs.shift, fs.shiftMask = num(24), num(28)
		fs.total = summary{blocks: num(196), fragments: num(204)}
		fs.summaryAt = num(152)
	} else {
		fs.facts.Label, _, _ = strings.Cut(string(b[680:712]), "\x00")
	}
	switch {
	case fs.block < 4096 || fs.block > 64<<10 || fs.block&(fs.block-1) != 0 || fs.fragment < 512 || fs.fragment > fs.block ||
		fs.fragment&(fs.fragment-1) != 0 || fs.perBlock != fs.block/fs.fragment || fs.perBlock > 8:
		return damaged("superblock: blocks of %d bytes, fragments of %d, %d of them in a block", fs.block, fs.fragment, fs.perBlock)
	case fs.fragments <= 0 || fs.fragments > fs.size/fs.fragment:
		return damaged("the filesystem has %d fragments of %d bytes, the volume has %d bytes", fs.fragments, fs.fragment, fs.size)
	case fs.perGroup <= 0 || fs.perGroup%fs.perBlock != 0 || fs.groups > maxGroups || fs.groups != (fs.fragments+fs.perGroup-1)/fs.perGroup:
		return damaged("superblock: %d groups of %d fragments, for %d", fs.groups, fs.perGroup, fs.fragments)
	case !(0 < fs.superAt && fs.superAt < fs.groupAt && fs.groupAt < fs.inodesAt && fs.inodesAt < fs.dataAt && fs.dataAt <= fs.perGroup):
		return damaged("superblock: groups have their parts at %d, %d, %d and %d", fs.superAt, fs.groupAt, fs.inodesAt, fs.dataAt)
	case fs.groupLen < groupHead || fs.groupLen > fs.block:
		return damaged("superblock: the head of a group has %d bytes", fs.groupLen)
	case fs.shift < 0 || fs.shift > fs.perGroup:
		return damaged("superblock: groups are shifted by %d fragments", fs.shift)
	case fs.summaryLen < fs.groups*summaryLen || fs.summaryLen > fs.size || fs.summaryAt <= 0 || fs.summaryAt > fs.fragments-fs.summaryLen/fs.fragment:
		return damaged("superblock: a summary of %d bytes at fragment %d", fs.summaryLen, fs.summaryAt)
	case b[209] != cleanFlag || order.Uint32(b[1312:])&(flagUnclean|flagNeedFsck) != 0:
		return damaged("it was not unmounted cleanly; run fsck_ffs where it came from")
	}
	fs.facts.Len = fs.fragments * fs.fragment
	return nil
}

// start returns the first fragment of a group, from which its parts are counted: those of UFS1 may be shifted against each
// other, so that they did not all lie on the same plate of a disk.
func (fs *filesystem) start(group int64) int64 {
	return group*fs.perGroup + fs.shift*(group&^fs.shiftMask)
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
