package shrink

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// FuzzOverlay does the same to an overlay and to plain bytes: both read the same, and the disk stays as it is.
func FuzzOverlay(f *testing.F) {
	f.Add(uint64(1), 60)
	f.Add(uint64(2), 300)
	f.Fuzz(func(t *testing.T, seed uint64, steps int) {
		if steps < 0 || steps > 400 {
			return
		}
		rng := rand.New(rand.NewPCG(seed, 3))
		size := int64(3*leafLen*blockLen) + rng.Int64N(9000)
		disk := make([]byte, size)
		for i := range disk {
			disk[i] = byte(rng.Uint32())
		}
		clear(disk[100_000:200_000])
		before := bytes.Clone(disk)
		want := bytes.Clone(disk)
		o := newOverlay(bytes.NewReader(disk), size, 64<<20)
		for range steps {
			off := rng.Int64N(size)
			n := min(1+rng.Int64N(40_000), size-off)
			if rng.IntN(2) == 0 {
				off = off / blockLen * blockLen
			}
			switch rng.IntN(4) {
			case 0: // as a tool moves blocks: what was read is written elsewhere
				b := make([]byte, n)
				if _, err := o.ReadAt(b, off); err != nil {
					t.Fatal(err)
				}
				to := rng.Int64N(size-n+1) / blockLen * blockLen
				if _, err := o.WriteAt(b, to); err != nil {
					t.Fatal(err)
				}
				copy(want[to:], b)
			case 1:
				b := make([]byte, n)
				if rng.IntN(2) == 0 {
					for i := range b {
						b[i] = byte(rng.Uint32())
					}
				}
				if _, err := o.WriteAt(b, off); err != nil {
					t.Fatal(err)
				}
				copy(want[off:], b)
			case 2:
				off, n = off/blockLen*blockLen, n/blockLen*blockLen
				to := off - rng.Int64N(off/blockLen+1)*blockLen
				if err := o.move(off, n, to); err != nil {
					t.Fatal(err)
				}
				copy(want[to:], bytes.Clone(want[off:off+n]))
			default:
				b := make([]byte, n)
				if _, err := o.ReadAt(b, off); err != nil || !bytes.Equal(b, want[off:off+n]) {
					t.Fatalf("%d bytes at %d: %v", n, off, err)
				}
			}
		}
		b := make([]byte, size+1)
		if n, err := o.ReadAt(b, 0); n != int(size) || err != io.EOF || !bytes.Equal(b[:size], want) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if !bytes.Equal(disk, before) {
			t.Fatal("the disk was written to")
		}
	})
}

// TestScratch moves much with little memory, and is refused where there is too little.
func TestScratch(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	disk := make([]byte, 64<<20)
	for i := range disk {
		disk[i] = byte(rng.Uint32())
	}
	o := newOverlay(bytes.NewReader(disk), int64(len(disk)), 2<<20)
	b := make([]byte, 1<<20)
	for off := int64(32 << 20); off < 64<<20; off += 1 << 20 {
		if _, err := o.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		if _, err := o.WriteAt(b, off-32<<20); err != nil {
			t.Fatal(err)
		}
	}
	if o.used() > 2<<20 {
		t.Errorf("32 MiB that were moved take %d bytes", o.used())
	}
	var err error
	for off := int64(0); err == nil && off < 16<<20; off += 1 << 20 {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, err = o.WriteAt(b, off)
	}
	if !errors.Is(err, ErrScratch) || o.used() > 3<<20 {
		t.Errorf("%v with %d bytes", err, o.used())
	}
}
