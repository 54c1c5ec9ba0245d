package maptest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// Flip damages a filesystem bit by bit: some bits of each place, n in all. Whatever the damage, nothing that is in use may
// be left out: the answer is the same, more, or that the volume must be captured whole.
func Flip(t testing.TB, used Reader, b []byte, places extent.List, n int) {
	t.Helper()
	_, want, err := used(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	whole := 0
	for i := range n {
		e := places[i%len(places)]
		bit := e.Off*8 + r.Int64N(e.Len*8)
		b[bit/8] ^= 1 << (bit % 8)
		facts, list, err := used(bytes.NewReader(b), int64(len(b)))
		b[bit/8] ^= 1 << (bit % 8)
		if err != nil {
			t.Fatalf("bit %d of byte %#x: %v", bit%8, bit/8, err)
		}
		if facts.Whole != "" {
			whole++
			continue
		}
		list = extent.Union(list, extent.List{{Off: facts.Len, Len: int64(len(b)) - facts.Len}})
		if lost := extent.Subtract(want, list); len(lost) > 0 {
			t.Fatalf("bit %d of byte %#x: lost %v", bit%8, bit/8, lost)
		}
	}
	t.Logf("%d flips, %d times whole", n, whole)
	if whole < n/10 {
		t.Errorf("only %d of %d flips were noticed", whole, n)
	}
}

// Changes returns what changes a filesystem and holds against what must be said of it: a part of the reason for capturing it
// whole, "" where nothing in use may be lost, and a part of the notes, "" for none.
func Changes(t *testing.T, used Reader, good []byte) func(name string, change func(b []byte), whole, note string) {
	t.Helper()
	_, want, err := used(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	return func(name string, change func(b []byte), whole, note string) {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(good)
			change(b)
			facts, list, err := used(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if (whole == "") != (facts.Whole == "") || !strings.Contains(facts.Whole, whole) {
				t.Fatalf("whole because %q, want %q", facts.Whole, whole)
			}
			if notes := strings.Join(facts.Notes, "; "); (note == "") != (notes == "") || !strings.Contains(notes, note) {
				t.Errorf("notes %q, want %q", notes, note)
			}
			if lost := extent.Subtract(want, list); whole == "" && len(lost) > 0 {
				t.Errorf("lost %v", lost)
			}
		})
	}
}

// Unreadable lets each read fail in turn.
func Unreadable(t testing.TB, used Reader, b []byte) {
	t.Helper()
	for n := 0; ; n++ {
		r := &failing{ReaderAt: bytes.NewReader(b), after: n}
		_, _, err := used(r, int64(len(b)))
		if !r.failed {
			if err != nil || n < 3 {
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

// Fuzz patches the metadata of a filesystem: each five bytes of the input are a place and what to write there; cut takes
// as many KiB from its end. seal makes checksums good, where there are some.
func Fuzz(f *testing.F, used Reader, base []byte, places extent.List, seal func(b []byte)) {
	var all []int64
	for _, p := range places {
		for i := range p.Len {
			all = append(all, p.Off+i)
		}
	}
	f.Add(uint16(0), []byte{})
	for i := range byte(100) {
		f.Add(uint16(i/90), []byte{0, i / 50, i * 5, 0xff, 0})
	}
	f.Fuzz(func(t *testing.T, cut uint16, patch []byte) {
		b := base
		if len(base) > 16<<20 {
			t.Fatalf("a base of %d bytes makes fuzzing slow", len(base))
		}
		b = bytes.Clone(base[:max(0, len(base)-int(cut)<<10)])
		for ; len(patch) >= 5; patch = patch[5:] {
			i := (int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])) % (len(all) - 1)
			for j := range 2 {
				if at := all[i+j]; at < int64(len(b)) {
					b[at] = patch[3+j]
				}
			}
		}
		if seal != nil {
			seal(b)
		}
		facts, list, err := used(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (list.Valid() != nil || len(list) == 0 || list[len(list)-1].End() > int64(len(b)) || facts.Len > int64(len(b))) {
			t.Fatalf("%v of %d bytes", list, len(b))
		}
	})
}
