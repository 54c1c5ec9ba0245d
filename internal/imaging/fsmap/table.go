package fsmap

import (
	"fmt"
	"io"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/fsmap/fact"
)

// tables understands partition tables inside of volumes: that of a virtual machine's disk in a logical volume, that of an array which
// has whole disks. They are looked into for what is in use and for logs, and not shown as volumes of the disk: the files of virtual
// machines are not those of the node.
var tables = container{"partition_table", isTable, alone(openTable)}

// tableOf reads a table that was made for sectors of 512 bytes, or a GPT for those of 4096.
func tableOf(r io.ReaderAt, size int64) (*disk.Table, error) {
	t, err := disk.ReadTable(r, size, 512)
	if err != nil || t.Whole == "" {
		return t, err
	}
	if big, err := disk.ReadTable(r, size, 4096); err == nil && big.Whole == "" && big.Kind == "gpt" {
		return big, nil
	}
	return t, nil
}

func isTable(head []byte, r io.ReaderAt, size int64) bool {
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return false
	}
	t, err := tableOf(r, size)
	return err == nil && (t.Kind != "none" || t.Whole != "")
}

func openTable(r io.ReaderAt, size int64) (c fact.Container, why string, err error) {
	t, err := tableOf(r, size)
	if err != nil {
		return c, "", err
	}
	c.UUID = t.ID
	if t.Whole != "" {
		return c, t.Whole, nil
	}
	c.Notes = t.Notes
	outside, note := t.Outside(size)
	if c.Meta = outside; note != "" {
		c.Notes = append(c.Notes, note)
	}
	for _, p := range t.Volumes() {
		c.Parts = append(c.Parts, fact.Part{Name: fmt.Sprintf("partition %d", p.Number), UUID: p.UUID, Size: p.Len, Spans: []fact.Span{{Off: p.Off, Len: p.Len}}})
	}
	return c, "", nil
}
