package mount

import (
	"maps"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"

	"mimeo/internal/imaging/fsmap/tree"
)

// attrs returns the extended attributes of a file; none where its filesystem does not tell them.
func (s *fsys) attrs(number uint64) (map[string][]byte, error) {
	own, vol, inode, err := s.split(number)
	if err != nil || own != nil {
		return nil, err
	}
	fs, ok := s.vols[vol].FS.(tree.Attributed)
	if !ok {
		return nil, nil
	}
	list, err := fs.Attributes(inode)
	if err != nil {
		return nil, s.fail(vol, inode, "read the extended attributes of", err)
	}
	return list, nil
}

// GetXAttr implements fuse.RawFileSystem.
func (s *fsys) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	number := h.NodeId
	list, st := ask(s, cancel, func() (map[string][]byte, error) { return s.attrs(number) })
	if st != fuse.OK {
		return 0, st
	}
	value, ok := list[name]
	if !ok {
		return 0, fuse.ENODATA
	}
	return give(value, dest)
}

// ListXAttr implements fuse.RawFileSystem.
func (s *fsys) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	number := h.NodeId
	list, st := ask(s, cancel, func() (map[string][]byte, error) { return s.attrs(number) })
	if st != fuse.OK {
		return 0, st
	}
	var names []byte
	for _, n := range slices.Sorted(maps.Keys(list)) {
		names = append(append(names, n...), 0)
	}
	return give(names, dest)
}

// give copies what a program asked for, or says how long it is.
func give(value, dest []byte) (uint32, fuse.Status) {
	n := uint32(len(value))
	if len(dest) < len(value) {
		return n, fuse.ERANGE
	}
	copy(dest, value)
	return n, fuse.OK
}
