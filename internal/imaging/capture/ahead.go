package capture

import (
	"os"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
)

// aheadLen is how far before the reader the kernel is asked to read. The kernel by itself goes 128 KiB ahead, with which
// a fast disk waits for us, and a slow one seeks more than it must.
const aheadLen = 16 << 20

// aheadStep is how much is asked for at once, so that the asking costs nothing.
const aheadStep = 4 << 20

// ahead asks the kernel to read the used extents before they are wanted. Its zero value does nothing.
type ahead struct {
	file *os.File
	used extent.List
	pos  int64 // everything before it was asked for
}

// newAhead returns the ahead of a source that is a file, or has one as *disk.Disk does.
func newAhead(src any, used extent.List) *ahead {
	switch s := src.(type) {
	case *os.File:
		return &ahead{file: s, used: used}
	case interface{ File() *os.File }:
		return &ahead{file: s.File(), used: used}
	}
	return &ahead{}
}

// from tells where the reader is.
func (a *ahead) from(off int64) {
	if a.file == nil || len(a.used) == 0 || off+aheadLen < a.pos+aheadStep {
		return
	}
	end := off + aheadLen
	conn, err := a.file.SyscallConn()
	if err != nil {
		a.file = nil
		return
	}
	err = conn.Control(func(fd uintptr) {
		for len(a.used) > 0 {
			e := a.used[0]
			lo, hi := max(e.Off, a.pos), min(e.End(), end)
			if lo < hi && unix.Fadvise(int(fd), lo, hi-lo, unix.FADV_WILLNEED) != nil {
				a.used = nil // advice is not worth an error
			}
			if e.End() > end {
				break
			}
			if len(a.used) > 0 {
				a.used = a.used[1:]
			}
		}
	})
	if err != nil {
		a.file = nil
	}
	a.pos = end
}
