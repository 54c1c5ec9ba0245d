package deploy

import "mimeo/internal/imaging/disk"

// Disk is a disk or image file as a Target. It must have been opened for writing.
type Disk struct{ *disk.Disk }

// Zero implements Target.
func (d Disk) Zero(off, n int64) error { return ZeroFile(d.File(), off, n) }
