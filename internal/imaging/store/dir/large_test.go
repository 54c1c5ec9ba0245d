package dir

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
)

// large is a store of ten images with ten revisions each, ten million chunks in all, of which each revision has 850,000
// (a disk with 109 GB in use) and changes 2 %, in a quarter of its segments. Index, manifests and chunk lists are real;
// the packs with image data are holes as long as they would be.
const (
	largeImages   = 10
	largeRevs     = 10
	largeEntries  = 850_000
	largeSegment  = 2048   // entries of a segment: 256 MiB of disk
	largeStored   = 60_000 // bytes of a chunk, compressed
	largeChanged  = largeEntries / 50
	largeSegments = (largeEntries + largeSegment - 1) / largeSegment
)

// largeID is the name of chunk n.
func largeID(n uint64) (id chunk.ID) {
	for i := range 4 {
		n += 0x9e3779b97f4a7c15
		x := n
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(id[8*i:], x^x>>31)
	}
	return id
}

// holes makes packs that hold chunks from to to, and their index files.
func holes(b *testing.B, path string, number *uint32, from, to uint64) {
	for from < to {
		*number++
		var items []indexed
		off := int64(packHead)
		for ; from < to && off+recordHead+largeStored <= DefaultPackSize; from++ {
			l := loc{pack: *number, off: uint32(off), stored: largeStored, raw: chunk.DefaultSize, codec: chunk.Zstd}
			items = append(items, indexed{largeID(from), l})
			off = l.end()
		}
		name := filepath.Join(path, packName(*number))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(name, off); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, indexName(*number)), encodeIndex(*number, uid{}, off, 0, items), 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

// makeLarge returns the number of chunks with image data.
func makeLarge(b *testing.B, path string) uint64 {
	s, err := openAs(path, Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	number, next := uint32(1000), uint64(0)
	var images [][][]uint64 // of each revision the chunks
	for range largeImages {
		chunks := make([]uint64, largeEntries)
		for i := range chunks {
			chunks[i] = next
			next++
		}
		holes(b, path, &number, next-largeEntries, next)
		revs := [][]uint64{chunks}
		for range largeRevs - 1 {
			chunks = append([]uint64(nil), chunks...)
			first := next
			for range largeChanged {
				seg := rng.IntN(largeSegments/4) * 4
				chunks[min(seg*largeSegment+rng.IntN(largeSegment), largeEntries-1)] = next
				next++
			}
			holes(b, path, &number, first, next)
			revs = append(revs, chunks)
		}
		images = append(images, revs)
	}
	if s, err = openAs(path, Options{}); err != nil {
		b.Fatal(err)
	}
	enc := chunk.NewEncoder()
	for i, revs := range images {
		for _, chunks := range revs {
			w := manifest.NewSegmentWriter(func(id chunk.ID, raw []byte) error {
				if s.has(id) {
					return nil
				}
				_, err := s.Put(b.Context(), []chunk.Encoded{enc.Encode(id, raw, nil, chunk.Zstd)})
				return err
			})
			for at, n := range chunks {
				if err := w.Add(manifest.Entry{Off: int64(at) * chunk.DefaultSize, Len: chunk.DefaultSize, ID: largeID(n)}); err != nil {
					b.Fatal(err)
				}
			}
			content, err := w.Close()
			if err != nil {
				b.Fatal(err)
			}
			id, err := s.Stage(b.Context(), &manifest.Manifest{Version: manifest.Version, Hash: "blake3", Created: time.Now().UTC(), Source: manifest.Source{Agent: "test", Arch: "amd64"},
				Disk: manifest.Disk{Size: largeEntries * chunk.DefaultSize, SectorSize: 512}, Table: manifest.Table{Kind: "none"}, Content: content})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := s.Publish(b.Context(), fmt.Sprint("image", i), id); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	return next
}

// peak returns the most memory that the process had since the last call, in MiB.
func peak(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	var kib float64
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}

// processor returns the time that the process has used of all processors.
func processor(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLarge measures a store of ten million chunks once: go test -bench Large -benchtime 1x. It needs 3 GB of disk.
func BenchmarkLarge(b *testing.B) {
	path := b.TempDir() + "/store"
	chunks := makeLarge(b, path)
	defer debug.SetGCPercent(debug.SetGCPercent(30)) // as mimeod does
	debug.FreeOSMemory()
	peak(b)
	step := func(what string, fn func()) {
		start, used := time.Now(), processor(b)
		fn()
		b.Logf("%-28s %8.3f s, %8.3f s of processor, at most %4.0f MiB of memory", what, time.Since(start).Seconds(), (processor(b) - used).Seconds(), peak(b))
	}
	var s *Store
	step("open", func() {
		var err error
		if s, err = openAs(path, Options{}); err != nil {
			b.Fatal(err)
		}
	})
	b.Logf("%d chunks in %d packs", s.index.count, len(s.packs))
	rng := rand.New(rand.NewPCG(3, 4))
	ask := make([]chunk.ID, 1000)
	fill := func() {
		for i := range ask {
			if ask[i] = largeID(rng.Uint64N(chunks)); i%2 == 0 {
				ask[i][31]++
			}
		}
	}
	var most, all time.Duration
	const asks = 2000
	for range asks {
		fill()
		start := time.Now()
		missing, err := s.Missing(b.Context(), ask)
		if took := time.Since(start); err == nil && len(missing) == 500 {
			most, all = max(most, took), all+took
			continue
		}
		b.Fatal(len(missing), err)
	}
	b.Logf("which of 1,000 are missing: %.3f ms, the slowest of %d %.3f ms; %.1f million lookups a second", all.Seconds()*1000/asks, asks, most.Seconds()*1000, asks*1000/all.Seconds()/1e6)
	step("store check", func() {
		r, err := s.Check(b.Context(), false, nil)
		if err != nil || len(r.Revisions) != largeImages*largeRevs {
			b.Fatal(err)
		}
	})
	step("store stats", func() {
		if u, err := s.Usage(b.Context()); err != nil || u.Revisions != largeImages*largeRevs || u.Unnamed > u.PackBytes/20 {
			b.Fatal(u, err)
		}
	})
	step("store gc, nothing to do", func() {
		if r, err := s.GC(b.Context(), GCOptions{DryRun: true}); err != nil || r.Freed > r.Bytes/20 {
			b.Fatal(r, err)
		}
	})
	for i := range largeImages {
		if err := s.Remove(b.Context(), fmt.Sprint("image", i), largeRevs); err != nil {
			b.Fatal(err)
		}
	}
	step("store gc of ten revisions", func() {
		r, err := s.GC(b.Context(), GCOptions{})
		if err != nil || r.Removed < 10*largeChanged*largeStored/DefaultPackSize {
			b.Fatal(r, err)
		}
		b.Logf("%+v", r)
	})
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
