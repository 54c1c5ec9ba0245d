package ext4

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"

	"mimeo/internal/imaging/fsmap/maptest"
)

// TestFlippedBits damages metadata bit by bit. Whatever the damage, nothing that is in use may be left out: the answer
// is the same, more, or that the volume must be captured whole.
func TestFlippedBits(t *testing.T) {
	for _, v := range []struct {
		name, args string
		crash      bool
	}{
		{"metadata-csum", "-t ext4 -b 1024 -g 512", false},
		{"gdt-csum", "-t ext4 -b 1024 -g 512 -O ^metadata_csum,uninit_bg", false},
		{"no-csum", "-t ext4 -b 1024 -g 512 -O ^metadata_csum,^uninit_bg", false},
		{"no-csum-one-group", "-t ext4 -O ^metadata_csum,^uninit_bg", false},
		{"ext2", "-t ext2 -b 1024 -g 1024", false},
		{"ext2-rev0", "-t ext2 -r 0", false},
		{"bigalloc", "-t ext4 -b 1024 -O bigalloc,^metadata_csum -C 4096 -g 2048", false},
		{"meta-bg", "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode,^metadata_csum", false},
		{"crashed", "-t ext4 -b 1024 -g 1024 -J size=4", true},
		{"crashed-no-csum", "-t ext4 -b 1024 -g 1024 -J size=4 -O ^metadata_csum,^uninit_bg", true},
	} {
		t.Run(v.name, func(t *testing.T) {
			var img string
			if v.crash {
				img = crashed(t, 20<<10, v.args, "")
			} else {
				img = mke2fs(t, 12<<10, v.args)
			}
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
			if _, err := fs.used(); err != nil {
				t.Fatal(err)
			}
			_, want := mapImage(t, img)
			// What is damaged: the superblock most, then descriptors, bitmaps and the start of the journal.
			var places []extent.Extent
			for range 8 {
				places = append(places, extent.Extent{Off: superOff, Len: 0x290})
			}
			perBlock := uint64(fs.blockSize) / uint64(fs.descSize)
			for i := uint64(0); i < fs.groupCount; i += perBlock {
				n := min(perBlock, fs.groupCount-i)
				places = append(places, extent.Extent{Off: int64(fs.descriptorBlock(i/perBlock, perBlock)) * fs.blockSize, Len: int64(n) * int64(fs.descSize)})
			}
			for _, g := range fs.groups {
				if !g.uninit {
					places = append(places, extent.Extent{Off: int64(g.bitmap) * fs.blockSize, Len: int64(fs.clustersPerGroup+7) / 8})
				}
			}
			if fs.log != nil {
				for i, r := range fs.log.journal {
					places = append(places, extent.Extent{Off: int64(r.to) * fs.blockSize, Len: 64})
					if i == 0 {
						places = append(places, extent.Extent{Off: int64(r.to+1) * fs.blockSize, Len: min(64, int64(r.n)-1) * fs.blockSize})
					}
				}
			}
			r := rand.New(rand.NewPCG(5, 6))
			whole, superset := 0, 0
			const tries = 1500
			for range tries {
				undo := map[int64]byte{}
				// Without checksums two flips in a bitmap may cancel each other out.
				flips := 1
				if fs.roCompat&roMetaCsum != 0 {
					flips += r.IntN(3)
				}
				for range flips {
					p := places[r.IntN(len(places))]
					at := p.Off + r.Int64N(p.Len)
					if _, ok := undo[at]; !ok {
						undo[at] = b[at]
					}
					b[at] ^= 1 << r.IntN(8)
				}
				facts, used, err := Used(bytes.NewReader(b), int64(len(b)))
				if err != nil {
					t.Fatalf("error, not a reason: %v", err)
				}
				if facts.Whole != "" {
					whole++
				} else {
					superset++
					if err := used.Valid(); err != nil {
						t.Fatal(err)
					}
					// What lies behind the filesystem is looked at by fsmap.
					used = extent.Union(used, extent.List{{Off: facts.Len, Len: int64(len(b))}})
					if lost := extent.Subtract(want, used); len(lost) > 0 {
						t.Errorf("%v are lost after damage at %v (were %v)", lost, keys(undo), undo)
					}
				}
				for at, x := range undo {
					b[at] = x
				}
			}
			t.Logf("%d times whole, %d times all that is in use", whole, superset)
			if whole < tries/20 {
				t.Errorf("only %d of %d were found to be damaged", whole, tries)
			}
		})
	}
}

func keys(m map[int64]byte) (out []int64) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

// FuzzUsed damages small filesystems in any way. Used must not fail, hang or take memory without bound.
func FuzzUsed(f *testing.F) {
	for _, args := range []string{"-t ext2 -b 1024 -N 16", "-t ext4 -b 1024 -N 16 -O ^has_journal", "-t ext4 -b 1024 -N 16 -g 256 -O meta_bg,^resize_inode,^has_journal"} {
		img := filepath.Join(f.TempDir(), "img")
		tool(f, "mke2fs", append([]string{"-q", "-F"}, append(strings.Fields(args), img, "512k")...)...)
		b, err := os.ReadFile(img)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[superOff:superOff+superLen], b[2048:min(len(b), 8<<10)], uint16(512))
	}
	f.Fuzz(func(t *testing.T, super, rest []byte, kib uint16) {
		if len(super) != superLen {
			return
		}
		super = bytes.Clone(super)
		if le.Uint32(super[0x64:])&roMetaCsum != 0 {
			// So that the fuzzer gets past it.
			le.PutUint32(super[0x3fc:], crc32c(^uint32(0), super[:0x3fc]))
		}
		b := make([]byte, int(kib)<<10)
		copy(b[min(len(b), superOff):], super)
		copy(b[min(len(b), 2048):], rest)
		maptest.Files(t, Files, bytes.NewReader(b), int64(len(b)))
		facts, used, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used[len(used)-1].End() > int64(len(b))) {
			t.Fatalf("%v of %d bytes", used, len(b))
		}
	})
}
