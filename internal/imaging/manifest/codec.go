package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"mimeo/internal/imaging/chunk"
)

// MaxSize is the greatest length of a manifest's stored bytes; readers refuse longer ones.
const MaxSize = 32 << 20

// Limits of a manifest, which bound what a reader does with it.
const (
	maxSector     = 1 << 20
	maxPartitions = 4096
	maxVolumes    = 4096
)

// ErrVersion says that a manifest was written in a format that this program does not know.
var ErrVersion = errors.New("unknown manifest version")

// Encode returns the stored bytes of m, checked as Decode would: JSON with the fields in the order of the types, without
// spaces, with a newline at the end. The same manifest always gives the same bytes. Text that is not UTF-8 is repaired
// with U+FFFD, times are written in UTC. m is not changed.
func Encode(m *Manifest) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	b, err := marshal(m)
	if err != nil {
		return nil, err
	}
	// Reading it back repairs text that is not UTF-8, which would otherwise be written in another way the next time.
	var clean Manifest
	if err := json.Unmarshal(b, &clean); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if b, err = marshal(&clean); err != nil {
		return nil, err
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("encode manifest: %d bytes, at most %d", len(b), MaxSize)
	}
	return b, nil
}

func marshal(m *Manifest) ([]byte, error) {
	c := *m
	c.Created = c.Created.UTC().Round(0)
	if c.Volumes == nil {
		c.Volumes = []Volume{}
	}
	if c.Content.Segments == nil {
		c.Content.Segments = []Segment{}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&c); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return out.Bytes(), nil
}

// Decode reads what Encode wrote. It refuses other spellings of the same JSON, unknown fields, volumes and partitions
// out of order or outside the disk, and with ErrVersion what a later program wrote.
func Decode(b []byte) (*Manifest, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("decode manifest: %d bytes, at most %d", len(b), MaxSize)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if head.Version != Version {
		return nil, fmt.Errorf("decode manifest: %w %d: this program reads version %d", ErrVersion, head.Version, Version)
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	again, err := Encode(m)
	if err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("decode manifest: not in the canonical form, or with fields that version 1 does not have")
	}
	return m, nil
}

// Sum returns the ID of a manifest's stored bytes.
func Sum(stored []byte) ID { return chunk.Sum(stored) }

// Check says what makes m no manifest.
func (m *Manifest) Check() error {
	switch {
	case m.Version != Version:
		return fmt.Errorf("%w %d: this program writes version %d", ErrVersion, m.Version, Version)
	case m.Hash != "blake3":
		return fmt.Errorf("manifest: hash %q is unknown", m.Hash)
	case m.Created.IsZero() || m.Created.UTC().Year() < 1970 || m.Created.UTC().Year() > 9999:
		return fmt.Errorf("manifest: created at %v", m.Created)
	case m.Disk.Size <= 0:
		return fmt.Errorf("manifest: disk of %d bytes", m.Disk.Size)
	case !powerOfTwo(m.Disk.SectorSize, 512, maxSector):
		return fmt.Errorf("manifest: sectors of %d bytes", m.Disk.SectorSize)
	case m.Disk.PhysicalSector != 0 && !powerOfTwo(m.Disk.PhysicalSector, 512, maxSector):
		return fmt.Errorf("manifest: physical sectors of %d bytes", m.Disk.PhysicalSector)
	}
	if err := m.checkTable(); err != nil {
		return err
	}
	if err := m.checkVolumes(); err != nil {
		return err
	}
	return m.checkContent()
}

func powerOfTwo(n, least, most int) bool { return n >= least && n <= most && n&(n-1) == 0 }

// within tells whether [off, off+n) is a range of at least least bytes that lies on the disk.
func (m *Manifest) within(off, n, least int64) bool {
	return off >= 0 && n >= least && off <= m.Disk.Size && n <= m.Disk.Size-off
}

func (m *Manifest) checkTable() error {
	switch m.Table.Kind {
	case "gpt", "mbr":
	case "none":
		if len(m.Table.Partitions) > 0 {
			return errors.New("manifest: partitions without a table")
		}
	default:
		return fmt.Errorf("manifest: partition table %q is unknown", m.Table.Kind)
	}
	if len(m.Table.Partitions) > maxPartitions {
		return fmt.Errorf("manifest: %d partitions, at most %d", len(m.Table.Partitions), maxPartitions)
	}
	last := 0
	for _, p := range m.Table.Partitions {
		if p.Number <= last {
			return fmt.Errorf("manifest: partition %d comes after %d", p.Number, last)
		}
		last = p.Number
		if !m.within(p.Off, p.Len, 0) {
			return fmt.Errorf("manifest: partition %d: %d bytes at %d are not on the disk of %d", p.Number, p.Len, p.Off, m.Disk.Size)
		}
	}
	return nil
}

func (m *Manifest) checkVolumes() error {
	if len(m.Volumes) > maxVolumes {
		return fmt.Errorf("manifest: %d volumes, at most %d", len(m.Volumes), maxVolumes)
	}
	var last int64
	for i, v := range m.Volumes {
		switch {
		case !m.within(v.Off, v.Len, 1):
			return fmt.Errorf("manifest: volume %d: %d bytes at %d are not on the disk of %d", i, v.Len, v.Off, m.Disk.Size)
		case v.Off < last:
			return fmt.Errorf("manifest: volume %d starts at %d, before the one before it ends at %d", i, v.Off, last)
		case v.Partition < 0 || v.Partition > 0 && !m.hasPartition(v.Partition):
			return fmt.Errorf("manifest: volume %d lies in partition %d, which is not in the table", i, v.Partition)
		case v.Used < 0 || v.Used > v.Len:
			return fmt.Errorf("manifest: volume %d: %d bytes used of %d", i, v.Used, v.Len)
		case v.BlockSize < 0:
			return fmt.Errorf("manifest: volume %d: blocks of %d bytes", i, v.BlockSize)
		case v.Method != MethodUsed && v.Method != MethodWhole && v.Method != MethodHead:
			return fmt.Errorf("manifest: volume %d: method %q is unknown", i, v.Method)
		case strings.TrimSpace(v.Type) == "":
			return fmt.Errorf("manifest: volume %d has no type", i)
		}
		last = v.Off + v.Len
	}
	return nil
}

func (m *Manifest) hasPartition(number int) bool {
	for _, p := range m.Table.Partitions {
		if p.Number == number {
			return true
		}
	}
	return false
}

func (m *Manifest) checkContent() error {
	c := &m.Content
	var entries int64
	for i, s := range c.Segments {
		if s.Len <= 0 || s.Len > MaxSegment || s.Len%EntrySize != 0 {
			return fmt.Errorf("manifest: segment %d: length %d", i, s.Len)
		}
		entries += int64(s.Len / EntrySize)
	}
	switch {
	case c.Entries != entries:
		return fmt.Errorf("manifest: %d entries, the segments hold %d", c.Entries, entries)
	case c.Chunks < 0 || c.Chunks > c.Entries:
		return fmt.Errorf("manifest: %d chunks in %d entries", c.Chunks, c.Entries)
	case c.Used < 0 || c.Used > m.Disk.Size:
		return fmt.Errorf("manifest: %d bytes used of a disk of %d", c.Used, m.Disk.Size)
	case c.Zero < 0 || c.Zero > c.Used:
		return fmt.Errorf("manifest: %d zero bytes of %d used", c.Zero, c.Used)
	}
	return nil
}
