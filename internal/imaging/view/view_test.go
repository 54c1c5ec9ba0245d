package view

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
)

// captured makes a disk, captures a part of it and returns what it must read as.
func captured(t *testing.T, seed uint64, size int64) (want []byte, st *mem.Store, m *manifest.Manifest) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, size)
	want = make([]byte, size)
	var used []extent.Extent
	for off := int64(0); off < size; {
		n := min(size-off, 512*(1+rng.Int64N(1+rng.Int64N(1500))))
		if rng.IntN(4) > 0 {
			for i := range data[off : off+n] {
				data[off+int64(i)] = byte(rng.Uint32())
			}
		}
		if rng.IntN(3) > 0 {
			used = append(used, extent.Extent{Off: off, Len: n})
			copy(want[off:off+n], data[off:])
		}
		off += n
	}
	st = mem.New()
	res, err := capture.Run(t.Context(), capture.Source{ReaderAt: bytes.NewReader(data), Disk: manifest.Disk{Size: size, SectorSize: 512}},
		capture.Plan{Table: manifest.Table{Kind: "none"}, Used: extent.FromUnsorted(used)}, st, capture.Options{ChunkSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return want, st, res.Manifest
}

func TestReadAt(t *testing.T) {
	want, st, m := captured(t, 1, 20<<20)
	d, err := Open(t.Context(), st, m)
	if err != nil {
		t.Fatal(err)
	}
	const part = 200_000
	if err := iotest.TestReader(io.NewSectionReader(d, d.Size()-part, part), want[len(want)-part:]); err != nil {
		t.Error(err)
	}
	d.chunks, d.lists = newCache(100<<10), newCache(1) // so that both forget
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(2, g))
			for range 60 {
				off := rng.Int64N(d.Size())
				b := bytes.Repeat([]byte{0xaa}, rng.IntN(1+rng.IntN(6<<20)))
				n, err := d.ReadAt(b, off)
				exp := want[off:min(d.Size(), off+int64(len(b)))]
				if !bytes.Equal(b[:n], exp) || (err != nil) != (n < len(b)) || err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("%d bytes at %d: %d read, %v", len(b), off, n, err)
				}
			}
		})
	}
	wg.Wait()
	if d.chunks.bytes > 100<<10 {
		t.Errorf("the cache holds %d bytes", d.chunks.bytes)
	}
}

// liar is a store whose chunks are not what they should be.
type liar struct {
	store.Reader
	lie func(c *chunk.Encoded) bool // false: leave it out
}

func (l liar) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	return l.Reader.Get(ctx, ids, func(c chunk.Encoded) error {
		if !l.lie(&c) {
			return nil
		}
		return fn(c)
	})
}

func TestDamage(t *testing.T) {
	want, st, m := captured(t, 3, 4<<20)
	on := false
	for name, lie := range map[string]func(c *chunk.Encoded) bool{
		"left out": func(*chunk.Encoded) bool { return !on },
		"other bytes": func(c *chunk.Encoded) bool {
			if on {
				c.Data = bytes.Clone(c.Data)
				c.Data[len(c.Data)/2] ^= 1
			}
			return true
		},
		"another": func(c *chunk.Encoded) bool {
			if on {
				c.ID[0] ^= 1
			}
			return true
		},
	} {
		on = false
		d, err := Open(t.Context(), liar{st, lie}, m)
		if err != nil {
			t.Fatal(err)
		}
		on = true
		b := make([]byte, len(want))
		if n, err := d.ReadAt(b, 0); err == nil || errors.Is(err, io.EOF) || n > 0 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if _, err := Open(t.Context(), liar{st, lie}, m); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// counting counts what is asked for.
type counting struct {
	store.Reader
	gets, chunks int
}

func (c *counting) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	c.gets, c.chunks = c.gets+1, c.chunks+len(ids)
	return c.Reader.Get(ctx, ids, fn)
}

// TestNear reads small chunks one after the other: they come with few questions, and one that cannot be had spoils only the reads
// that need it.
func TestNear(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	want := make([]byte, 256<<10)
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	st := mem.New()
	src := capture.Source{ReaderAt: bytes.NewReader(want), Disk: manifest.Disk{Size: int64(len(want)), SectorSize: 512}}
	plan := capture.Plan{Table: manifest.Table{Kind: "none"}, Used: extent.List{{Len: int64(len(want))}}}
	res, err := capture.Run(t.Context(), src, plan, st, capture.Options{ChunkSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	bad := chunk.Sum(want[5*4096 : 6*4096])
	from := &counting{Reader: liar{st, func(c *chunk.Encoded) bool { return c.ID != bad }}}
	d, err := Open(t.Context(), from, res.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	from.gets, from.chunks = 0, 0
	b := make([]byte, 1024)
	for at := 0; at < len(want); at += len(b) {
		_, err := d.ReadAt(b, int64(at))
		if needs := at/4096 == 5; needs != (err != nil) || !needs && !bytes.Equal(b, want[at:at+len(b)]) {
			t.Fatalf("offset %d: %v", at, err)
		}
	}
	// Of the first 64 KiB each chunk comes by itself, after a try with its neighbours.
	if from.gets > 3+2*16+2*4 {
		t.Errorf("%d questions for 64 chunks", from.gets)
	}
}
