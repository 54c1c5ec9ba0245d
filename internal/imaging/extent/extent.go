// Package extent does arithmetic on byte ranges of a disk or volume.
package extent

// Extent is the byte range [Off, Off+Len) of a disk or volume.
type Extent struct {
	Off int64 // bytes from the start of the disk or volume
	Len int64 // bytes; more than zero in a List
}

// End returns the first byte after e.
func (e Extent) End() int64 { return e.Off + e.Len }

// List is a set of bytes: its extents are sorted by Off, do not overlap and do not touch.
type List []Extent
