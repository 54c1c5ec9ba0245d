// Package fsmap tells which extents of a volume are in use.
package fsmap

import "mimeo/internal/imaging/extent"

// Usage is what was found on a volume. Offsets are bytes from the start of the volume.
type Usage struct {
	Type      string // "ext4", "swap", ..., "unknown"
	UUID      string // as blkid prints it
	Label     string
	BlockSize int         // bytes; 0 where unknown
	Method    string      // manifest.MethodUsed, MethodWhole or MethodHead
	Reason    string      // why not by used blocks
	Used      extent.List // what must be captured
}
