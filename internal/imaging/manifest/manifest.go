// Package manifest describes one captured disk: the contents page of a revision. docs/formats/manifest.md is its format.
package manifest

import (
	"time"

	"mimeo/internal/imaging/chunk"
)

// Version is the format that this package writes.
const Version = 1

// ID names a manifest: the BLAKE3-256 hash of its stored bytes. It is the revision's root hash.
type ID = chunk.ID

// Manifest is the contents page of one revision. It is small; the chunk list lies in Content's segments.
type Manifest struct {
	Version  int       `json:"version"`
	Hash     string    `json:"hash"` // "blake3"
	Created  time.Time `json:"created"`
	Source   Source    `json:"source"`
	Disk     Disk      `json:"disk"`
	Table    Table     `json:"table"`
	Volumes  []Volume  `json:"volumes"`
	Content  Content   `json:"content"`
	Warnings []string  `json:"warnings,omitempty"`
}

// Source says who captured the disk, with what.
type Source struct {
	Node  string `json:"node,omitempty"`
	Job   string `json:"job,omitempty"`
	Agent string `json:"agent"` // agent's version
	Arch  string `json:"arch"`  // amd64, arm64, ppc64el
}

// Disk is the geometry of the captured disk.
type Disk struct {
	Size           int64  `json:"size"`        // bytes
	SectorSize     int    `json:"sector_size"` // logical, bytes
	PhysicalSector int    `json:"physical_sector_size,omitempty"`
	Model          string `json:"model,omitempty"`
	Serial         string `json:"serial,omitempty"`
	WWN            string `json:"wwn,omitempty"`
}

// Table is the partition table in a readable form; its raw bytes are in the content as well.
type Table struct {
	Kind       string      `json:"kind"`         // "gpt", "mbr" or "none"
	ID         string      `json:"id,omitempty"` // GPT disk GUID, or MBR signature as 8 hexadecimal digits
	Partitions []Partition `json:"partitions,omitempty"`
	Notes      []string    `json:"notes,omitempty"` // what was wrong with it, and what was done about that
}

// Partition is one entry of a table.
type Partition struct {
	Number   int    `json:"number"` // as the kernel numbers it, from 1
	Off      int64  `json:"off"`    // bytes from the start of the disk
	Len      int64  `json:"len"`    // bytes
	Type     string `json:"type"`   // GPT type GUID in lower case, or MBR type as 2 hexadecimal digits
	UUID     string `json:"uuid,omitempty"`
	Name     string `json:"name,omitempty"`
	Attrs    uint64 `json:"attrs,omitempty"`    // GPT attribute bits
	Bootable bool   `json:"bootable,omitempty"` // MBR active flag
	Logical  bool   `json:"logical,omitempty"`  // lies in an MBR extended partition
}

// How a volume was captured.
const (
	MethodUsed  = "used"  // the extents in use as the filesystem's own map has them
	MethodWhole = "whole" // every byte; Reason says why
	MethodHead  = "head"  // the header only, as with swap
)

// Volume is a byte range of the disk and what was found there.
type Volume struct {
	Partition int    `json:"partition"` // Partition.Number; 0 where the filesystem lies on the bare disk
	Off       int64  `json:"off"`       // bytes from the start of the disk
	Len       int64  `json:"len"`
	Type      string `json:"type"` // "ext4", "swap", ..., "unknown"
	UUID      string `json:"uuid,omitempty"`
	Label     string `json:"label,omitempty"`
	BlockSize int    `json:"block_size,omitempty"`
	Method    string `json:"method"`
	Reason    string `json:"reason,omitempty"`
	Used      int64  `json:"used"` // bytes captured
}

// Content says where the chunk list is kept: the bytes of the segments, joined in order, are the entries.
type Content struct {
	Segments []Segment `json:"segments"`
	Entries  int64     `json:"entries"`
	Used     int64     `json:"used"`   // bytes of all entries
	Zero     int64     `json:"zero"`   // of these, bytes in entries that are all zero and need no chunk
	Chunks   int64     `json:"chunks"` // entries that name a chunk
}

// Segment is a chunk of the store that holds a run of entries. Where it ends is the writer's choice.
type Segment struct {
	ID  chunk.ID `json:"id"`
	Len int      `json:"len"` // bytes, a multiple of the size of an entry
}

// Entry is one piece of the captured disk. Entries are sorted by Off and do not overlap.
type Entry struct {
	Off  int64    // bytes from the start of the disk
	Len  int64    // bytes; at most chunk.MaxLen unless Zero
	Zero bool     // the piece is all zero bytes; ID is not used
	ID   chunk.ID // the chunk that holds the piece
}

// Loss is a piece of a captured disk that the store cannot give back.
type Loss struct {
	Off int64    `json:"off"` // bytes from the start of the disk
	Len int64    `json:"len"`
	ID  chunk.ID `json:"id"`
	Why string   `json:"why"`
}
