package fsmap

import (
	"encoding/binary"
	"errors"
	"io"
)

// beyond tells by what lies further in than the head whether a volume belongs to a ZFS pool or a VMware datastore; "" for
// neither. They leave the start of a volume as it was. Names are those of blkid.
func beyond(r io.ReaderAt, size int64) (string, error) {
	read := func(b []byte, off int64) error {
		n, err := r.ReadAt(b, off)
		if n == len(b) {
			return nil
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	for _, m := range []magic{
		{"VMFS_volume_member", 1 << 20, "\x0d\xd0\x01\xc0"},
		{"VMFS", 2 << 20, "\x5e\xf1\xab\x2f"},
	} {
		b := make([]byte, len(m.bytes))
		if int64(m.off+len(b)) > size {
			continue
		}
		if err := read(b, int64(m.off)); err != nil {
			return "", err
		}
		if string(b) == m.bytes {
			return m.name, nil
		}
	}
	// The labels of ZFS, two at either end, each with uberblocks in its second half, in the byte order of who wrote them.
	const label, blocks = 256 << 10, 128 << 10
	end := size &^ (label - 1)
	for _, off := range []int64{0, label, end - 2*label, end - label} {
		if off < 0 || off+label > size {
			continue
		}
		b := make([]byte, blocks)
		if err := read(b, off+blocks); err != nil {
			return "", err
		}
		for ; len(b) > 0; b = b[1<<10:] {
			if n := binary.LittleEndian.Uint64(b); n == 0xbab10c || n == 0x0cb1ba<<40 {
				return "zfs_member", nil
			}
		}
	}
	return "", nil
}
