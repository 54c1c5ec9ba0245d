// Package fact holds what the reader of a filesystem found out about a volume.
package fact

// Facts are what a volume is, and whether its map of used blocks can be believed.
type Facts struct {
	Type      string // as blkid names it: "ext4", "swap"
	UUID      string // as blkid prints it; "" without
	Label     string
	BlockSize int      // bytes; 0 where unknown
	Len       int64    // bytes that the filesystem takes, from the start of the volume
	Head      bool     // what is used is a header only
	Whole     string   // why every byte must be captured; "" where the used extents count
	Notes     []string // what a person should know, such as a journal on another disk
}
