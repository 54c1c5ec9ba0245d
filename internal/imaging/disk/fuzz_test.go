package disk

import (
	"bytes"
	"testing"

	"mimeo/internal/imaging/extent"
)

// sparse is a small disk made of pieces, so that a fuzzer can reach both ends of it.
type sparse struct {
	head, tail []byte
	size       int64
}

func (s *sparse) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	for _, p := range []struct {
		off int64
		b   []byte
	}{{0, s.head}, {s.size - int64(len(s.tail)), s.tail}} {
		lo, hi := max(off, p.off), min(off+int64(len(b)), p.off+int64(len(p.b)))
		if lo < hi {
			copy(b[lo-off:], p.b[lo-p.off:hi-p.off])
		}
	}
	return len(b), nil
}

func (s *sparse) WriteAt(b []byte, off int64) (int, error) { return len(b), nil }

func FuzzReadTable(f *testing.F) {
	for _, script := range []string{gptScript, mbrScript} {
		path := image(f, 64*mib)
		run(f, script, "sfdisk", "-q", path)
		_, d := read(f, path, Options{})
		head, tail := make([]byte, 3<<10), make([]byte, 17<<10)
		d.ReadAt(head, 0)
		d.ReadAt(tail, d.Size()-int64(len(tail)))
		f.Add(head, tail, uint16(64), uint8(0))
	}
	f.Fuzz(func(t *testing.T, head, tail []byte, size uint16, sector uint8) {
		s := &sparse{head: head, tail: tail, size: int64(size)<<20 + int64(sector)}
		s.tail = s.tail[:min(int64(len(s.tail)), s.size)]
		n := 512 << (sector % 4)
		tab, err := ReadTable(s, s.size, n)
		if err != nil {
			t.Fatal(err)
		}
		if tab.Whole != "" && (tab.Kind != "none" || len(tab.Partitions) > 0) {
			t.Fatalf("not believed, and told: %+v", tab)
		}
		if err := tab.Regions.Valid(); err != nil {
			t.Fatal(err)
		}
		var used extent.List
		last := 0
		for _, p := range tab.Partitions {
			e := extent.Extent{Off: p.Off, Len: p.Len}
			if p.Number <= last || p.Off < 0 || p.Len < 0 || e.End() > s.size {
				t.Fatalf("partition %+v on a disk of %d", p, s.size)
			}
			last = p.Number
			if tab.Kind == "mbr" && isExtended(p) && !p.Logical {
				continue
			}
			if len(used.Clip(e)) > 0 {
				t.Fatalf("partition %+v overlaps", p)
			}
			used.Add(e)
		}
		FitTable(s, tab.Table, s.size, n, Fit{Grow: GrowLast})
		ReplaceTable(s, tab.Table, s.size, n)
		SoundGPT(s, s.size, n)
	})
}

func FuzzGUID(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 16 {
			return
		}
		g := guid(b)
		again, err := parseGUID(g.String())
		if err != nil || !bytes.Equal(again[:], b) {
			t.Fatalf("%x: %s: %v", b, g, err)
		}
	})
}
