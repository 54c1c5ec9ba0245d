package fsmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// relabel moves a BSD disklabel's partitions by sectors and puts the checksum right. raw is where "c" begins then; -1 leaves it.
func relabel(b []byte, by, raw int64) {
	le := binary.LittleEndian
	l := b[64:512] // where parted puts it
	if le.Uint32(l) == 0 {
		l = b[512:1024]
	}
	n := int(le.Uint16(l[138:]))
	if n < 3 { // parted makes no "c"
		n = 3
		le.PutUint16(l[138:], 3)
	}
	for i := range n {
		e := l[148+16*i:]
		switch {
		case i == 2 && raw >= 0:
			le.PutUint32(e, uint32(len(b)/512))
			le.PutUint32(e[4:], uint32(raw))
			e[12] = 0
		case le.Uint32(e) > 0:
			le.PutUint32(e[4:], uint32(int64(le.Uint32(e[4:]))+by))
		}
	}
	le.PutUint16(l[136:], 0)
	var sum uint16
	for i := 0; i < 148+16*n; i += 2 {
		sum ^= le.Uint16(l[i:])
	}
	le.PutUint16(l[136:], sum)
}

// TestLabels maps disks with a BSD disklabel and an Apple map, as parted makes them: of each filesystem the blocks in use, and all
// that the table takes.
func TestLabels(t *testing.T) {
	for _, kind := range []string{"bsd", "mac"} {
		dir := t.TempDir()
		// Two filesystems: parted lays them out, and says where.
		out := shell(t, `cd "$1"; truncate -s 64M d; parted -s d mklabel $2 mkpart $3 ext2 1MiB 31MiB mkpart $4 ext2 33MiB 60MiB; parted -ms d unit B print
			mkdir tree; cp -r /etc/default tree; truncate -s 30M one; mke2fs -q -F -t ext4 -d tree one; truncate -s 27M two; mke2fs -q -F -t ext2 -d tree two
			dd if=one of=d bs=1M seek=1 conv=notrunc status=none; dd if=two of=d bs=1M seek=33 conv=notrunc status=none`,
			dir, kind, map[string]string{"bsd": "", "mac": "first"}[kind], map[string]string{"bsd": "", "mac": "second"}[kind])
		if !strings.Contains(out, ":1048576B:") {
			t.Fatal(out)
		}
		d, err := os.ReadFile(filepath.Join(dir, "d"))
		if err != nil {
			t.Fatal(err)
		}
		check := func(name string, d []byte, whole string) {
			t.Helper()
			u, err := Map(bytes.NewReader(d), int64(len(d)))
			if err != nil {
				t.Fatal(err)
			}
			if whole != "" {
				if u.Method != manifest.MethodWhole || !strings.Contains(u.Reason, whole) {
					t.Errorf("%s %s: %+v", kind, name, u)
				}
				return
			}
			if u.Method != manifest.MethodUsed || u.Used.Bytes() > 20<<20 {
				t.Fatalf("%s %s: %s, %s, %d bytes, %q", kind, name, u.Method, u.Reason, u.Used.Bytes(), u.Notes)
			}
			// What is left out is zeroed; both filesystems are whole, and the table is as it was.
			kept := make([]byte, len(d))
			for _, e := range u.Used {
				copy(kept[e.Off:e.End()], d[e.Off:e.End()])
			}
			if !u.Used.ContainsAll(extent.Extent{Len: 8 << 10}) {
				t.Errorf("%s %s: the table is left out", kind, name)
			}
			path := filepath.Join(dir, "kept")
			if err := os.WriteFile(path, kept, 0o600); err != nil {
				t.Fatal(err)
			}
			shell(t, `e2fsck -fn "$1?offset=1048576"; e2fsck -fn "$1?offset=34603008"`, path)
			if name == "as it is" {
				if again := shell(t, `parted -ms "$1" unit B print`, path); !strings.Contains(again, ":1048576B:") || !strings.Contains(again, ":34603008B:") {
					t.Errorf("%s: %s", kind, again)
				}
			}
		}
		check("as it is", d, "")
		edit := func(change func(b []byte)) []byte {
			b := bytes.Clone(d)
			change(b)
			return b
		}
		if kind == "bsd" {
			check("from the disk's start", edit(func(b []byte) { relabel(b, 77777, 77777) }), "")
			check("in sector 1", edit(func(b []byte) {
				copy(b[512:1024], make([]byte, 512))
				copy(b[512:], b[64:512])
				clear(b[64:512])
				relabel(b, 0, 0)
			}), "")
			check("wrong checksum", edit(func(b []byte) {
				copy(b[512:1024], make([]byte, 512))
				copy(b[512:], b[64:512])
				clear(b[64:512])
				relabel(b, 0, 0)
				b[512+60] ^= 1
			}), "checksum")
			check("partitions elsewhere", edit(func(b []byte) { relabel(b, 7777777, 0) }), "no partition that lies here")
		} else {
			check("an entry gone", edit(func(b []byte) { b[1024] = 0 }), "entry 2 of its map is none")
			check("behind the end", edit(func(b []byte) { binary.BigEndian.PutUint32(b[1024+12:], 1<<30) }), "does not lie on the disk")
		}
	}
}

// FuzzLabels changes tables: what is known is never more than the disk, and what none knows is kept.
func FuzzLabels(f *testing.F) {
	bsd := make([]byte, 1024)
	le := binary.LittleEndian
	le.PutUint32(bsd[512:], 0x82564557)
	le.PutUint32(bsd[512+132:], 0x82564557)
	le.PutUint32(bsd[512+40:], 512)
	le.PutUint16(bsd[512+138:], 3)
	copy(bsd[512+148:], []byte{16, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 7})
	f.Add(bsd, true)
	mac := make([]byte, 1536)
	copy(mac, "ER\x02\x00")
	for i := range 2 {
		copy(mac[512+512*i:], fmt.Sprintf("PM\x00\x00\x00\x00\x00\x02\x00\x00\x00%c\x00\x00\x00\x10", 1+20*i))
	}
	f.Add(mac, false)
	f.Fuzz(func(t *testing.T, head []byte, sum bool) {
		const size = 128 << 10
		d := make([]byte, size)
		copy(d, head)
		if n := int(le.Uint16(d[512+138:])); sum && n <= 22 {
			le.PutUint16(d[512+136:], 0)
			var x uint16
			for i := 0; i < 148+16*n; i += 2 {
				x ^= le.Uint16(d[512+i:])
			}
			le.PutUint16(d[512+136:], x)
		}
		u, err := Map(bytes.NewReader(d), size)
		if err != nil {
			t.Fatal(err)
		}
		if u.Used.Valid() != nil || len(u.Used) > 0 && u.Used[len(u.Used)-1].End() > size {
			t.Fatalf("%+v", u)
		}
	})
}
