package exfat

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

var states = []struct {
	name   string
	change func(e *editor)
	whole  string // part of the reason; "" for none
	note   string // part of the one note
}{
	{"as it was", func(e *editor) {}, "", ""},
	{"dirty", func(e *editor) { e.b[106] |= flagDirty }, "", "not unmounted cleanly"},
	{"errors", func(e *editor) { e.b[106] |= flagFailed }, "", "errors of the disk"},
	{"how full it is", func(e *editor) { e.b[112] = 99 }, "", ""},
	{"boot program", func(e *editor) { e.b[200] ^= 1 }, "checksum of the boot region", ""},
	{"sector of the checksum", func(e *editor) { e.b[11*512+100] ^= 1 }, "checksum of the boot region", ""},
	{"backup damaged", func(e *editor) { e.b[12*512+200] ^= 1 }, "", "the backup of the boot region is damaged"},
	{"another's backup", func(e *editor) {
		old := bytes.Clone(e.b[:12*512])
		e.b[100] ^= 1
		e.boots()
		copy(e.b, old)
	}, "", "that of another volume"},
	{"revision", func(e *editor) { e.b[105] = 2; e.boots() }, "unknown revision 2.0", ""},
	{"FAT's numbers", func(e *editor) { e.b[0x0e] = 2; e.boots() }, "what only FAT has", ""},
	{"sectors", func(e *editor) { e.b[108] = 13; e.boots() }, "sectors of 2^13 bytes", ""},
	{"clusters", func(e *editor) { e.b[109] = 17; e.boots() }, "clusters of 2^17 sectors", ""},
	{"three tables", func(e *editor) { e.b[110] = 3; e.boots() }, "3 tables", ""},
	{"second of one table", func(e *editor) { e.b[106] |= flagActive }, "there is one", ""},
	{"longer than the volume", func(e *editor) { e.b[75] = 1; e.boots() }, "more than the volume", ""},
	{"more clusters than room", func(e *editor) { e.b[92] += 10; e.boots() }, "clusters of 512 bytes", ""},
	{"more clusters than entries", func(e *editor) { e.b[84] = 1; e.boots() }, "a table of 512 bytes", ""},
	{"table in the boot region", func(e *editor) { e.b[80] = 23; e.boots() }, "a table of", ""},
	{"heap in the table", func(e *editor) { e.b[88] = e.b[80] + 1; e.boots() }, "clusters of 512 bytes", ""},
	{"root nowhere", func(e *editor) { e.b[98] = 1; e.boots() }, "the root at cluster", ""},
	{"root elsewhere", func(e *editor) { e.b[96] = byte(e.first("PLAIN")); e.boots() }, "the root:", ""},
	{"no medium", func(e *editor) { e.link(0, 0xfffffff0) }, "table of chains begins with", ""},
	{"no second entry", func(e *editor) { e.link(1, 0) }, "table of chains begins with", ""},
	{"cluster of a plain file is free", func(e *editor) { e.mark(e.first("PLAIN")+1, false) }, "in use and not marked", ""},
	{"cluster of a chain is free", func(e *editor) { e.mark(e.next(e.first("OTHER")), false) }, "in use and not marked", ""},
	{"cluster of a folder is free", func(e *editor) { e.mark(e.first("INNER"), false) }, "in use and not marked", ""},
	{"cluster of the root is free", func(e *editor) { e.mark(e.v.root, false) }, "in use and not marked", ""},
	{"cluster of the bitmap is free", func(e *editor) { e.mark(2, false) }, "in use and not marked", ""},
	{"cluster of nobody", func(e *editor) { e.mark(e.v.clusters, true) }, "", "1 clusters are marked as used"},
	{"bad cluster", func(e *editor) { e.mark(e.v.clusters, true); e.link(e.v.clusters, entryBad) }, "", "1 bad clusters"},
	{"bit of no cluster", func(e *editor) { m := e.bitmap(0); m[len(m)-1] |= 0xff << ((e.v.clusters-1)%8 + 1) }, "", ""},
	{"two files in one place", func(e *editor) {
		e.file("PLAIN", func(set []byte) { le.PutUint32(set[entryLen+20:], uint32(e.first("CHAIN"))) })
	}, "belongs to two files", ""},
	{"a loop", func(e *editor) { e.link(e.next(e.first("OTHER")), uint32(e.first("OTHER"))) }, "belongs to two files", ""},
	{"the root is a loop", func(e *editor) { e.link(e.v.root, uint32(e.v.root)) }, "the root: a chain has no end", ""},
	{"short chain", func(e *editor) { e.link(e.first("OTHER"), entryEnd) }, "it should have", ""},
	{"chain to nowhere", func(e *editor) { e.link(e.first("OTHER"), 0) }, "a chain leads to cluster 0x0", ""},
	{"chain to a bad cluster", func(e *editor) { e.link(e.first("OTHER"), entryBad) }, "a chain leads to cluster 0xfffffff7", ""},
	{"file behind the end", func(e *editor) {
		e.file("PLAIN", func(set []byte) { le.PutUint32(set[entryLen+20:], uint32(e.v.clusters)) })
	}, "clusters from cluster", ""},
	{"file larger than the volume", func(e *editor) { e.file("PLAIN", func(set []byte) { set[entryLen+31] = 0xff }) }, "more than the volume", ""},
	{"checksum of a file", func(e *editor) { e.find(typeFile, "OTHER")[7] ^= 1 }, "checksum of a set", ""},
	{"file without a stream", func(e *editor) { e.file("PLAIN", func(set []byte) { set[entryLen] = typeName }) }, "without a stream", ""},
	{"file that ends early", func(e *editor) { e.find(typeFile, "PLAIN")[2*entryLen] = typeLabel }, "ends too early", ""},
	{"stream without a file", func(e *editor) { e.find(typeFile, "PLAIN")[0] = 5 }, "without a beginning", ""},
	{"unknown entry that matters", func(e *editor) { e.find(typeFile, "PLAIN")[0] = 0x86; e.unset("PLAIN") }, "unknown type 0x86", ""},
	{"unknown piece of a file", func(e *editor) {
		e.file("PLAIN", func(set []byte) { set[1], set[3*entryLen-1] = 2, 0; set[2*entryLen] = 0xc5 })
	}, "without a stream or name", ""},
	{"deleted file", func(e *editor) {
		set := e.find(typeFile, "PLAIN")
		for i := range 3 {
			set[i*entryLen] &^= 0x80
		}
	}, "", "3 clusters are marked as used"},
	{"no bitmap", func(e *editor) { e.find(typeBitmap, "")[0] = 1 }, "0 allocation bitmaps", ""},
	{"second bitmap", func(e *editor) { e.find(typeBitmap, "")[1] = 1 }, "too many allocation bitmaps", ""},
	{"short bitmap", func(e *editor) { e.find(typeBitmap, "")[25]-- }, "an allocation bitmap of", ""},
	{"no up-case table", func(e *editor) { e.find(typeUpcase, "")[0] = 2 }, "0 up-case tables", ""},
	{"long up-case table", func(e *editor) { e.find(typeUpcase, "")[26] = 3 }, "an up-case table of", ""},
	{"up-case table", func(e *editor) { e.b[e.v.place(cluster(le.Uint32(e.find(typeUpcase, "")[20:])))+5] ^= 1 }, "checksum of the up-case table", ""},
	{"long label", func(e *editor) { e.find(typeLabel, "")[1] = 12 }, "a label of 12", ""},
	{"no label", func(e *editor) { e.find(typeLabel, "")[0] = 3 }, "", ""},
	{"TexFAT", func(e *editor) { e.tex(0) }, "", "table and bitmap 1 count"},
	{"TexFAT, second", func(e *editor) { e.tex(1) }, "", "table and bitmap 2 count"},
	{"TexFAT, first is old", func(e *editor) {
		e.tex(1)
		e.bitmap(0).Clear(int64(e.first("PLAIN") - firstCluster))
		e.link(e.first("OTHER"), 0)
	}, "", "table and bitmap 2 count"},
	{"TexFAT, second is damaged", func(e *editor) {
		e.tex(1)
		e.bitmap(1).Clear(int64(e.first("PLAIN") - firstCluster))
	}, "in use and not marked", ""},
}

// unset turns the entry of a file, whatever its type is now, into one that ends with itself.
func (e *editor) unset(string) {
	for at := e.v.heapAt; ; at += entryLen {
		if set := e.b[at : at+3*entryLen]; set[0] == 0x86 {
			set[entryLen], set[2*entryLen] = 1, 1
			return
		}
	}
}

func TestStates(t *testing.T) {
	img := stateImage(t)
	_, want, err := Used(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
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

// TestIs makes sure that only exFAT is taken for it.
func TestIs(t *testing.T) {
	b := stateImage(t)[:bootLen]
	if !Is(b) {
		t.Error("exFAT is not recognised")
	}
	for n := range bootLen {
		if Is(b[:n]) {
			t.Errorf("%d bytes are taken for exFAT", n)
		}
	}
	copy(b[3:], "NTFS    ")
	if Is(b) {
		t.Error("NTFS is taken for exFAT")
	}
}

// TestUnreadable lets each read fail in turn.
func TestUnreadable(t *testing.T) {
	e := edit(t, stateImage(t))
	e.tex(0)
	for n := 0; ; n++ {
		r := &failing{ReaderAt: bytes.NewReader(e.b), after: n}
		_, _, err := Used(r, int64(len(e.b)))
		if !r.failed {
			if err != nil || n < 10 {
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
