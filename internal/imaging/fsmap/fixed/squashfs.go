package fixed

// Of the superblock of squashfs 4.0, of the kernel's Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h.
const (
	squashLen  = 96
	squashMeta = 8192 // bytes of a metadata block, at most
	squashNone = 1<<64 - 1
)

// readSquashfs reads the superblock, and finds the end of the filesystem once more: the last thing in it is the index of
// the table of owners, or behind that the index of the table of extended attributes.
func (v *volume) readSquashfs() error {
	b := make([]byte, squashLen)
	if v.size < squashLen {
		return damaged("the volume is too small for a superblock")
	}
	if err := v.read(b, 0); err != nil {
		return err
	}
	block, log := le.Uint32(b[12:]), le.Uint16(b[22:])
	owners, used := le.Uint16(b[26:]), le.Uint64(b[40:])
	ids, xattrs, inodes, dirs := le.Uint64(b[48:]), le.Uint64(b[56:]), le.Uint64(b[64:]), le.Uint64(b[72:])
	switch {
	case le.Uint16(b[28:]) != 4 || le.Uint16(b[30:]) != 0:
		return damaged("superblock: version %d.%d", le.Uint16(b[28:]), le.Uint16(b[30:]))
	case log < 12 || log > 20 || block != 1<<log:
		return damaged("superblock: blocks of %d bytes, or 2^%d", block, log)
	case le.Uint32(b[4:]) == 0 || owners == 0:
		return damaged("superblock: %d inodes of %d owners", le.Uint32(b[4:]), owners)
	case inodes < squashLen || inodes >= dirs || dirs >= ids || ids >= used:
		return damaged("superblock: the tables at %d, %d and %d are not in order, or behind the end", inodes, dirs, ids)
	}
	if err := v.setLen(used); err != nil {
		return err
	}
	// The other tables lie between, or there are none.
	for _, at := range []uint64{le.Uint64(b[80:]), le.Uint64(b[88:])} {
		if at != squashNone && (at < dirs || at >= ids) {
			return damaged("superblock: a table at %d", at)
		}
	}
	end, err := v.index(ids, ids, 4*uint64(owners))
	if err != nil {
		return err
	}
	if xattrs != squashNone {
		h := make([]byte, 16)
		if xattrs < end || xattrs > used-16 {
			return damaged("superblock: the table of extended attributes at %d", xattrs)
		}
		if err := v.read(h, int64(xattrs)); err != nil {
			return err
		}
		if end, err = v.index(xattrs, xattrs+16, 16*uint64(le.Uint32(h[8:]))); err != nil {
			return err
		}
	}
	if end != used {
		return damaged("the last table ends at %d, the superblock says that the filesystem has %d bytes", end, used)
	}
	return nil
}

// index checks the index of a table of n bytes, which begins at off: where each of its metadata blocks lies. The last of
// them ends where the table's head is. It returns the end of the index.
func (v *volume) index(head, off, n uint64) (uint64, error) {
	blocks := (n + squashMeta - 1) / squashMeta
	end := off + 8*blocks
	if end > uint64(v.facts.Len) || blocks > 1<<27 {
		return 0, damaged("the index at %d ends behind the filesystem", off)
	}
	if blocks == 0 {
		return end, nil
	}
	b := make([]byte, 8)
	if err := v.read(b, int64(end-8)); err != nil {
		return 0, err
	}
	last := le.Uint64(b)
	if last < squashLen || last >= head-2 {
		return 0, damaged("the index at %d leads to %d", off, last)
	}
	if err := v.read(b[:2], int64(last)); err != nil {
		return 0, err
	}
	// The highest bit says that it is not compressed.
	if size := uint64(le.Uint16(b) &^ (1 << 15)); size == 0 || size > squashMeta || last+2+size != head {
		return 0, damaged("the table before %d has %d bytes at %d", head, size, last)
	}
	return end, nil
}
