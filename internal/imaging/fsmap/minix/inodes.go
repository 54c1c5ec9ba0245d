package minix

import (
	"bytes"
	"fmt"
)

const (
	typeMask  = 0o170000
	regular   = 0o100000
	folder    = 0o040000
	link      = 0o120000
	maxTable  = 1 << 20 // bytes of inodes that are read at a time, a multiple of what a block may be
	direct    = 7
	rootInode = 1
)

// checkInodes goes through all inodes.
func (fs *filesystem) checkInodes() error {
	imap, err := fs.readMap(fs.imapAt, fs.inodes+1, "inodes")
	if err != nil {
		return err
	}
	n := int64(fs.inodeLen)
	buf := make([]byte, min(maxTable, fs.inodes*n))
	for nr := int64(1); nr <= fs.inodes; {
		b := buf[:min(int64(len(buf)), (fs.inodes-nr+1)*n)]
		if err := fs.read(b, fs.tableAt*fs.block+(nr-1)*n); err != nil {
			return fmt.Errorf("read inode %d and those behind it: %w", nr, err)
		}
		for ; len(b) > 0; b, nr = b[n:], nr+1 {
			if mode := le.Uint16(b); mode == 0 && !imap.Has(nr) {
				continue
			} else if !imap.Has(nr) {
				return damaged("inode %d has a file and is marked as free", nr)
			} else if nr == rootInode && mode&typeMask != folder {
				return damaged("the root is no folder")
			}
			if err := fs.checkInode(nr, b[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (fs *filesystem) checkInode(nr int64, b []byte) error {
	switch mode := le.Uint16(b); mode & typeMask {
	case regular, folder, link:
	case 0:
		if len(bytes.Trim(b, "\x00")) > 0 {
			return damaged("inode %d has a file of no type", nr)
		}
		return nil
	default:
		return nil // a device, a pipe, a socket: the first number is that of the device
	}
	for i := range fs.version.zones {
		depth := max(0, i-direct+1)
		if err := fs.claim(nr, fs.zone(b[fs.firstZone:], i), depth); err != nil {
			return err
		}
	}
	return nil
}

func (fs *filesystem) zone(b []byte, i int) int64 {
	if fs.zoneLen == 2 {
		return int64(le.Uint16(b[2*i:]))
	}
	return int64(le.Uint32(b[4*i:]))
}

// claim takes a zone for an inode, with those whose numbers it has.
func (fs *filesystem) claim(nr, zone int64, depth int) error {
	if zone == 0 {
		return nil // a hole
	}
	if zone < fs.first || zone >= fs.zones {
		return damaged("inode %d has zone %d; there are %d to %d", nr, zone, fs.first, fs.zones-1)
	}
	bit := zone - fs.first + 1
	if !fs.zmap.Has(bit) {
		return damaged("inode %d has zone %d, which is marked as free", nr, zone)
	}
	if fs.owned.Set(bit) {
		return damaged("inode %d has zone %d, which belongs to another, too", nr, zone)
	}
	if depth == 0 {
		return nil
	}
	b := make([]byte, fs.block)
	if err := fs.read(b, zone*fs.block); err != nil {
		return fmt.Errorf("read the zones of inode %d: %w", nr, err)
	}
	for i := range len(b) / fs.zoneLen {
		if err := fs.claim(nr, fs.zone(b, i), depth-1); err != nil {
			return err
		}
	}
	return nil
}
