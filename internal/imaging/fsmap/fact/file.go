package fact

import "mimeo/internal/imaging/extent"

// File is a file as far as it can be told whether its content was written to.
type File struct {
	Nr   uint64 // of its inode or record
	Size int64  // bytes
	// Mark is all that a write to the file changes: the inode without the time of the last reading, and where the content
	// lies. It is good during the call only.
	Mark    []byte
	Extents []extent.Extent // the content, as far as it was written, in the order of the file; bytes of the volume
}
