package lvm

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Write makes a physical volume of size bytes, with the UUID that LVM2 shows of it, from the text that vgcfgbackup saved of
// its volume group: the label, and one metadata area that reaches to the first extent. It writes before that only.
func Write(w io.WriterAt, size int64, id, text string) error {
	short := strings.ReplaceAll(id, "-", "")
	if uuid(short) != id {
		return fmt.Errorf("%.60q is no UUID of a physical volume", id)
	}
	text = strings.TrimRight(text, "\x00")
	root, err := parse(text)
	if err != nil {
		return err
	}
	if len(root.order) != 1 {
		return fmt.Errorf("the text has %d volume groups", len(root.order))
	}
	// On a disk the group comes first, before what vgcfgbackup begins with.
	name := root.order[0]
	at := strings.Index("\n"+text, "\n"+name+" {")
	if at < 0 {
		return fmt.Errorf("volume group %s does not begin a line", name)
	}
	text = strings.TrimRight(text[at:], "\n") + "\n" + text[:at] + "\x00"
	start := int64(0)
	pvs := root.sub(name).sub("physical_volumes")
	for _, key := range pvs.order {
		if pv := pvs.sub(key); pv.text("id") == id {
			if start, err = pv.number("pe_start", size/sector); err != nil {
				return err
			}
		}
	}
	const area = labelLen + 2048 // of the metadata, where LVM2 puts it
	start *= sector
	if start == 0 {
		return errors.New("the volume group does not know this physical volume")
	}
	room := start - area
	if int64(len(text)) > room-sector {
		return fmt.Errorf("%d bytes of text, and there is room for %d before the first extent", len(text), max(0, room-sector))
	}

	label := make([]byte, sector)
	copy(label, "LABELONE")
	le.PutUint64(label[8:], 1) // the sector that it lies in
	le.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001")
	h := label[32:]
	copy(h, short)
	le.PutUint64(h[32:], uint64(size))
	le.PutUint64(h[40:], uint64(start)) // data to the end; then the list of metadata areas
	le.PutUint64(h[72:], area)
	le.PutUint64(h[80:], uint64(room))
	le.PutUint32(h[104:], 2) // version of what follows the lists
	le.PutUint32(h[108:], 1) // in use by a group
	le.PutUint32(label[16:], sum(label[20:]))

	head := make([]byte, sector)
	copy(head[4:], " LVM2 x[5A%r0N*>")
	le.PutUint32(head[20:], 1)
	le.PutUint64(head[24:], area)
	le.PutUint64(head[32:], uint64(room))
	le.PutUint64(head[40:], sector)
	le.PutUint64(head[48:], uint64(len(text)))
	le.PutUint32(head[56:], sum([]byte(text)))
	le.PutUint32(head, sum(head[4:]))

	for _, p := range []struct {
		off int64
		b   []byte
	}{{area + sector, []byte(text)}, {area, head}, {sector, label}} {
		if _, err := w.WriteAt(p.b, p.off); err != nil {
			return err
		}
	}
	return nil
}
