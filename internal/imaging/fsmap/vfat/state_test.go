package vfat

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// stateImage is a volume with a file of three clusters, one of one cluster, and two folders; tests make copies.
func stateImage(t testing.TB, args ...string) []byte {
	t.Helper()
	size := int64(1440)
	if slices.Contains(args, "32") {
		size = 34 << 10
	} else if slices.Contains(args, "16") {
		size = 5 << 10
	}
	img := mkfs(t, size, append([]string{"-s", "1", "-i", "0a1b2c3d"}, args...)...)
	dir := t.TempDir()
	for name, n := range map[string]int{"one": 512, "three": 1500} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{'x'}, n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "mmd", "-i", img, "::FOLDER", "::FOLDER/INNER")
	tool(t, "mcopy", "-i", img, filepath.Join(dir, "three"), filepath.Join(dir, "one"), "::FOLDER/INNER")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// editor changes a volume.
type editor struct {
	b []byte
	v *volume
}

func edit(t testing.TB, b []byte) *editor {
	b = bytes.Clone(b)
	return &editor{b, open(t, b)}
}

// set writes an entry of all copies of the table, or of one.
func (e *editor) set(n cluster, value uint32, copies ...int64) {
	if len(copies) == 0 {
		for c := range e.v.copies {
			copies = append(copies, c)
		}
	}
	for _, c := range copies {
		b := e.b[e.v.tableAt+c*e.v.tableLen:]
		switch i := int64(n); e.v.bits {
		case 12:
			old := le.Uint16(b[i*3/2:])
			if i%2 != 0 {
				le.PutUint16(b[i*3/2:], old&0xf|uint16(value)<<4)
			} else {
				le.PutUint16(b[i*3/2:], old&0xf000|uint16(value)&0xfff)
			}
		case 16:
			le.PutUint16(b[i*2:], uint16(value))
		default:
			le.PutUint32(b[i*4:], le.Uint32(b[i*4:])&0xf0000000|value&0x0fffffff)
		}
	}
}

// get returns an entry of the table.
func (e *editor) get(n cluster) uint32 { return e.v.entry(e.b[e.v.tableAt:], int64(n)) }

// find returns the entry of a name, wherever it is.
func (e *editor) find(name string) []byte {
	for at := e.v.rootAt; ; at += entryLen {
		if string(e.b[at:at+11]) == name {
			return e.b[at : at+entryLen]
		}
	}
}

func (e *editor) start(name string) cluster {
	d := e.find(name)
	return cluster(le.Uint16(d[26:])) | cluster(le.Uint16(d[20:]))<<16
}

const (
	three = "THREE      "
	one   = "ONE        "
	inner = "INNER      "
)

var states = []struct {
	name   string
	only   string // types of FAT
	change func(e *editor)
	whole  string // part of the reason; "" for none
	note   string // part of the one note
}{
	{"as it was", "", func(e *editor) {}, "", ""},
	{"copies differ", "", func(e *editor) { e.set(e.v.clusters, 0xfff_ffff, 1) }, "copies of its table differ at cluster", ""},
	{"flags of copies differ", "16 32", func(e *editor) { e.set(1, 0x3ff_bfff, 1) }, "", ""},
	{"reserved bits of copies differ", "32", func(e *editor) { e.b[e.v.tableAt+e.v.tableLen+43] ^= 0xf0 }, "", ""},
	{"end is free", "", func(e *editor) { e.set(cluster(e.get(e.start(three))), 0) }, "is in a chain and marked as free", ""},
	{"start is free", "", func(e *editor) { e.set(e.start(one), 0) }, "which is marked as free", ""},
	{"two files share an end", "", func(e *editor) { e.set(e.start(one), e.get(e.start(three))) }, "follows two others", ""},
	{"two files share a start", "", func(e *editor) { le.PutUint16(e.find(one)[26:], uint16(e.start(three))) }, "belongs to another one or is bad", ""},
	{"a file starts amid another", "", func(e *editor) { le.PutUint16(e.find(one)[26:], uint16(e.start(three)+1)) }, "belongs to another one or is bad", ""},
	{"a loop", "", func(e *editor) { e.set(cluster(e.get(e.start(three))), uint32(e.start(three))) }, "belongs to another one", ""},
	{"a file starts behind the end", "", func(e *editor) { le.PutUint16(e.find(one)[26:], 0xfff0) }, "begins with cluster", ""},
	{"a file starts with cluster 1", "", func(e *editor) { le.PutUint16(e.find(one)[26:], 1) }, "begins with cluster 1 of", ""},
	{"a chain leads behind the end", "", func(e *editor) { e.set(e.start(one), uint32(e.v.clusters+2)) }, "is followed by cluster", ""},
	{"a chain leads to cluster 1", "", func(e *editor) { e.set(e.start(one), 1) }, "is followed by cluster 1", ""},
	{"a cluster behind the end", "", func(e *editor) { e.set(e.v.clusters+2, 5) }, "the table speaks of cluster", ""},
	{"a bad cluster behind the end", "", func(e *editor) { e.set(e.v.clusters+2, 0xfff_fff7) }, "", ""},
	{"a bad cluster", "", func(e *editor) { e.set(e.v.clusters, 0xfff_fff7) }, "", "1 bad clusters"},
	{"a bad cluster in a chain", "", func(e *editor) { e.set(cluster(e.get(e.start(three))), 0xfff_fff7) }, "is bad and in a chain", ""},
	{"a lost chain", "", func(e *editor) { e.find(one)[0] = 0xe5 }, "", "1 chains of clusters belong to no file"},
	{"an empty file", "", func(e *editor) { copy(e.find(one)[26:], make([]byte, 6)) }, "", "1 chains of clusters belong to no file"},
	{"no medium", "", func(e *editor) { e.b[e.v.tableAt] ^= 1 }, "does not begin with the medium", ""},
	{"no second entry", "", func(e *editor) { e.set(1, 5) }, "the second entry", ""},
	{"dirty for Windows", "16", func(e *editor) { e.set(1, 0x7fff) }, "", "not unmounted cleanly"},
	{"dirty for Windows", "32", func(e *editor) { e.set(1, 0x7ffffff) }, "", "not unmounted cleanly"},
	{"errors for Windows", "16", func(e *editor) { e.set(1, 0xbfff) }, "", "errors of the disk"},
	{"errors for Windows", "32", func(e *editor) { e.set(1, 0xbffffff) }, "", "errors of the disk"},
	{"dirty for Linux", "12 16", func(e *editor) { e.b[0x25] |= 1 }, "", "not unmounted cleanly"},
	{"dirty for Linux", "32", func(e *editor) { e.b[0x41] |= 1 }, "", "not unmounted cleanly"},
	{"folder without dot", "", func(e *editor) { copy(e.b[e.place(inner):], "ELSE       ") }, "does not begin as a folder", ""},
	{"folder with another's dots", "", func(e *editor) { le.PutUint16(e.b[e.place(inner)+26:], 2) }, "does not begin as a folder", ""},
	{"folder of none", "", func(e *editor) { copy(e.find(inner)[26:], "\x00\x00") }, "has no cluster", ""},
	{"a name that is none", "", func(e *editor) { e.find(one)[4] = 3 }, "no name of a file", ""},
	{"a label more", "", func(e *editor) { e.find(one)[11] = 8 }, "", "1 chains of clusters belong to no file"},
	{"backup differs", "32", func(e *editor) { e.b[6*512+0x0e] ^= 1 }, "boot sector and its backup in sector 6 differ", ""},
	{"backup missing", "32", func(e *editor) { e.b[6*512+0x1fe] ^= 1 }, "", "the backup of the boot sector is missing"},
	{"no backup", "32", func(e *editor) { e.b[0x32] = 0 }, "", ""},
	{"moved partition", "32", func(e *editor) { e.b[0x1c] = 63 }, "", ""},
	{"backup not reserved", "32", func(e *editor) { e.b[0x32] = 32 }, "in sector 32, 32 are reserved", ""},
	{"FSInfo is damaged", "32", func(e *editor) { e.b[512] ^= 1 }, "", "its FSInfo sector is damaged"},
	{"FSInfo is old", "32", func(e *editor) { le.PutUint32(e.b[512+0x1e8:], 5) }, "", "its FSInfo sector says 5"},
	{"FSInfo is right", "32", func(e *editor) { le.PutUint32(e.b[512+0x1e8:], uint32(int64(e.v.clusters)-e.v.marked.Count())) }, "", ""},
	{"version", "32", func(e *editor) { e.b[0x2a] = 1 }, "unknown version", ""},
	{"root nowhere", "32", func(e *editor) { e.b[0x2f] = 5 }, "the root at cluster", ""},
	{"second table counts", "32", func(e *editor) { e.b[0x28] = 0x81; e.set(e.v.clusters, 0xfff_ffff, 0) }, "", "only copy 2 of its table counts"},
	{"third table counts", "32", func(e *editor) { e.b[0x28] = 0x82 }, "table 2 counts, of 2", ""},
	{"sectors", "", func(e *editor) { e.b[0x0b] = 1 }, "sectors of 513 bytes", ""},
	{"clusters", "", func(e *editor) { e.b[0x0d] = 3 }, "clusters of 3 sectors", ""},
	{"no reserved sectors", "", func(e *editor) { copy(e.b[0x0e:], "\x00\x00") }, "no reserved sectors", ""},
	{"no copies", "", func(e *editor) { e.b[0x10] = 0 }, "0 copies", ""},
	{"no table", "", func(e *editor) { copy(e.b[0x16:], "\x00\x00"); copy(e.b[0x24:], "\x00\x00\x00\x00") }, "the table has no length", ""},
	{"short table", "", func(e *editor) { e.b[0x16] = 1; e.b[0x11] = 16 }, "for", ""},
	{"no root", "12 16", func(e *editor) { copy(e.b[0x11:], "\x00\x00") }, "room for 0 entries", ""},
	{"two lengths", "12 16", func(e *editor) { e.b[0x20] = 7 }, "sectors, and 7", ""},
	{"all is table", "12 16", func(e *editor) { copy(e.b[0x16:], "\x00\xff") }, "the clusters begin in sector", ""},
	{"BitLocker To Go", "32", func(e *editor) { copy(e.b[0x1a8:], toGo[0]) }, "BitLocker To Go", ""},
	{"BitLocker To Go, of what was in use", "32", func(e *editor) { copy(e.b[0x1a8:], toGo[1]) }, "BitLocker To Go", ""},
}

// place is where the first cluster of a folder lies.
func (e *editor) place(name string) int64 {
	return e.v.dataAt + int64(e.start(name)-firstCluster)*e.v.clusterSize
}

func TestStates(t *testing.T) {
	for _, kind := range []string{"12", "16", "32"} {
		img := stateImage(t, "-F", kind)
		if kind == "32" {
			le.PutUint32(img[512+0x1e8:], 0xffffffff) // FSInfo knows nothing
		}
		_, want, err := Used(bytes.NewReader(img), int64(len(img)))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range states {
			if c.only != "" && !strings.Contains(c.only, kind) {
				continue
			}
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				e := edit(t, img)
				c.change(e)
				if !Is(e.b[:bootLen]) {
					t.Fatal("not seen")
				}
				facts, used, err := Used(bytes.NewReader(e.b), int64(len(e.b)))
				if err != nil {
					t.Fatal(err)
				}
				if (c.whole == "") != (facts.Whole == "") || !strings.Contains(facts.Whole, c.whole) {
					t.Errorf("whole because %q, want %q", facts.Whole, c.whole)
				}
				if c.whole != "" {
					return
				}
				if lost := extent.Subtract(want, used); len(lost) > 0 {
					t.Errorf("lost %v", lost)
				}
				if (c.note != "") != (len(facts.Notes) == 1) || c.note != "" && !strings.Contains(facts.Notes[0], c.note) {
					t.Errorf("notes %q, want %q", facts.Notes, c.note)
				}
			})
		}
	}
}

// TestOneTable makes sure that a table without a copy is trusted only where all agrees.
func TestOneTable(t *testing.T) {
	e := edit(t, stateImage(t, "-F", "12", "-f", "1"))
	e.find(one)[0] = 0xe5
	if facts, _, err := Used(bytes.NewReader(e.b), int64(len(e.b))); err != nil || !strings.Contains(facts.Whole, "the table has no copy") {
		t.Errorf("%+v, %v", facts, err)
	}
}

// TestNoWitness makes sure that numbers of the boot sector that nothing confirms are not trusted.
func TestNoWitness(t *testing.T) {
	img := mkfs(t, 1440, "-F", "12")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("file"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "mcopy", "-i", img, file, "::FILE")
	if facts, _ := mapImage(t, img); !strings.Contains(facts.Whole, "nothing confirms") {
		t.Errorf("%+v", facts)
	}
	tool(t, "mmd", "-i", img, "::FOLDER")
	if facts, _ := mapImage(t, img); facts.Whole != "" {
		t.Errorf("%+v", facts)
	}
}

// TestIs makes sure that what only looks like FAT is not taken for it.
func TestIs(t *testing.T) {
	b := stateImage(t, "-F", "32")[:bootLen]
	if !Is(b) {
		t.Error("FAT32 is not recognised")
	}
	for n := range bootLen {
		if Is(b[:n]) {
			t.Errorf("%d bytes are taken for FAT", n)
		}
	}
	for _, name := range others {
		c := bytes.Clone(b)
		copy(c[3:], name)
		if Is(c) {
			t.Errorf("%q is taken for FAT", name)
		}
	}
	// Without the name of the type the numbers must make sense.
	copy(b[82:], "        ")
	if !Is(b) {
		t.Error("FAT32 without a name is not recognised")
	}
	for _, i := range []int{0x0c, 0x0d, 0x0e, 0x10, 0x15, 510, 511} {
		c := bytes.Clone(b)
		c[i] = 0
		if Is(c) {
			t.Errorf("with byte %#x zero it is taken for FAT", i)
		}
	}
	for name, args := range map[string][]string{
		"MBR":   {"sfdisk", "-q"},
		"NTFS":  {"mkntfs", "-q", "-F", "-f"},
		"exFAT": {"mkfs.exfat"},
	} {
		img := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(img, make([]byte, 8<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := command(args[0], append(args[1:], img)...)
		cmd.Stdin = strings.NewReader("label: dos\n2048,2048,c,*\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		other, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		if other[511] != 0xaa || Is(other) {
			t.Errorf("%s is taken for FAT", name)
		}
	}
}

// TestUnreadable lets each read fail in turn.
func TestUnreadable(t *testing.T) {
	b := stateImage(t, "-F", "32")
	b[0x28] = 0x80
	for n := 0; ; n++ {
		r := &failing{ReaderAt: bytes.NewReader(b), after: n}
		_, _, err := Used(r, int64(len(b)))
		if !r.failed {
			if err != nil || n < 8 {
				t.Errorf("%d reads: %v", n, err)
			}
			return
		}
		if !errors.Is(err, errDisk) {
			t.Fatalf("read %d fails, and the answer is %v", n, err)
		}
	}
}

var errDisk = errors.New("the disk is broken")

type failing struct {
	io.ReaderAt
	after  int
	failed bool
}

func (r *failing) ReadAt(b []byte, off int64) (int, error) {
	if r.after--; r.after < 0 {
		r.failed = true
		return 0, errDisk
	}
	return r.ReaderAt.ReadAt(b, off)
}
