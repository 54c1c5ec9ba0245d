package btrfs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mimeo/internal/imaging/extent"

	"mimeo/internal/imaging/fsmap/maptest"
)

// reseal makes the checksum of a superblock or tree block good again.
func reseal(kind uint16, block []byte) { copy(block, sum(kind, block[sumLen:])) }

// treeBlocks returns where the blocks of the trees that are read lie: each with its copies.
func treeBlocks(t testing.TB, b []byte) (blocks [][]int64, fs *filesystem) {
	t.Helper()
	fs = &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	fs.facts.Type = "btrfs"
	if _, err := fs.used(); err != nil {
		t.Fatal(err)
	}
	// Once more, since used forgets what it read.
	again := &filesystem{r: fs.r, size: fs.size}
	var logical []uint64
	var walk func(name string, owner uint64, root ref, item func(k key, data []byte) error)
	walk = func(name string, owner uint64, root ref, item func(k key, data []byte) error) {
		tr := &btree{fs: again, name: name, owner: owner, blocks: func(at uint64) { logical = append(logical, at) }, item: item}
		if err := tr.walk(root); err != nil {
			t.Fatal(err)
		}
	}
	none := func(key, []byte) error { return nil }
	if err := again.readSuper(); err != nil {
		t.Fatal(err)
	}
	again.left, again.chunks = fs.left+1<<20, fs.chunks
	walk("chunk", treeChunk, again.chunkRoot, none)
	var roots []ref
	var owners []uint64
	walk("root", treeRoot, again.root, func(k key, data []byte) error {
		switch k.obj {
		case treeExtent, treeDev, treeFreeSpace, treeBlockGroup:
			if k.typ == itemRoot {
				r, err := parseRoot(data)
				roots, owners = append(roots, r), append(owners, k.obj)
				return err
			}
		}
		return nil
	})
	for i, r := range roots {
		walk("some", owners[i], r, none)
	}
	if again.logRoot.logical != 0 {
		walk("log root", treeLog, again.logRoot, func(k key, data []byte) error {
			r, err := parseRoot(data)
			if err == nil {
				walk("log", treeLog, r, none)
			}
			return err
		})
	}
	for _, at := range logical {
		places, err := fs.chunks.places(at, fs.node)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, places)
	}
	return blocks, fs
}

// crashed returns a filesystem with a log.
func crashed(t testing.TB) string {
	t.Helper()
	img := sparse(t, 112*mib)
	tool(t, "mkfs.btrfs", "-q", "-n", "4096", img)
	var path string
	mounted(t, []string{img}, "commit=300", func(dir string, _ []string) {
		sampleTree(t, dir, 6*mib, 3)
		tool(t, "btrfs", "filesystem", "sync", dir)
		if err := os.WriteFile(filepath.Join(dir, "synced"), bytes.Repeat([]byte("synced"), 50_000), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "sync", filepath.Join(dir, "synced"))
		path = snapshot(t, img)
	})
	return path
}

// TestFlippedBits damages the superblock and its copy, and tree blocks with all their copies, bit by bit: once as a disk
// would, and once with a good checksum. Whatever the damage, nothing that is in use may be left out: the answer is the
// same, more, or that the volume must be captured whole.
func TestFlippedBits(t *testing.T) {
	for _, c := range []struct {
		name  string
		image func() string
	}{
		{"free-space-tree", func() string { return mkfs(t, 112, "-n 4096") }},
		{"mixed", func() string { return mkfs(t, 24, "--mixed -n 4096") }},
		{"log", func() string { return crashed(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := c.image()
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			facts, want := mapImage(t, img)
			if facts.Whole != "" {
				t.Fatal(facts.Whole)
			}
			blocks, fs := treeBlocks(t, b)
			r := rand.New(rand.NewPCG(5, 6))
			whole, more, same := 0, 0, 0
			const tries = 4000
			for i := range tries {
				// A tree block, or one of its copies, or the superblock.
				copies, n := blocks[r.IntN(len(blocks))], int64(fs.node)
				head := b[copies[0]:][:n]
				at := r.Int64N(min(n, headLen+int64(le.Uint32(head[0x60:]))*ptrLen))
				// Of a log only its checksums say that it is right.
				sealed := i%3 > 0 && le.Uint64(head[0x58:]) != treeLog
				switch {
				case i%4 == 0:
					copies, n, at = superOff[:1], superLen, r.Int64N(arrayAt+300)
					sealed = i%3 > 0
				case r.IntN(2) == 0:
					at = r.Int64N(n)
				case r.IntN(4) == 0:
					copies = copies[:1]
				}
				flip := byte(1) << r.IntN(8)
				old := slices.Clone(b[copies[0]:][:n])
				for _, off := range copies {
					b[off+at] ^= flip
					if sealed {
						reseal(fs.sumKind, b[off:][:n])
					}
				}
				facts, got, err := Used(bytes.NewReader(b), int64(len(b)))
				for _, off := range copies {
					copy(b[off:], old)
				}
				if err != nil {
					t.Fatalf("bit %#x of byte %d of the block at %d: %v", flip, at, copies[0], err)
				}
				if facts.Whole != "" {
					whole++
					continue
				}
				got = extent.Union(got, extent.List{{Off: facts.Len, Len: int64(len(b)) - facts.Len + 1}})
				if lost := extent.Subtract(want, got); len(lost) > 0 {
					t.Errorf("bit %#x of byte %d of the block at %d (sealed: %v): lost %v", flip, at, copies[0], sealed, lost)
				}
				if len(extent.Subtract(got.Clip(extent.Extent{Len: facts.Len}), want)) > 0 {
					more++
				} else {
					same++
				}
			}
			t.Logf("%d times whole, %d times more, %d times the same", whole, more, same)
			if whole < tries/20 {
				t.Errorf("only %d of %d flips were noticed", whole, tries)
			}
		})
	}
}

// FuzzUsed writes anything into the tree blocks and the superblock of a small filesystem, and makes their checksums good
// again. Used must not fail, hang, or say what cannot be.
func FuzzUsed(f *testing.F) {
	base, err := os.ReadFile(mkfs(f, 20, "--mixed -n 4096 -b 20971520"))
	if err != nil {
		f.Fatal(err)
	}
	trees, fs := treeBlocks(f, base)
	const size = 4096 // of tree blocks as of the superblock
	places := []int64{superOff[0]}
	for _, copies := range trees {
		places = append(places, copies[0])
	}
	f.Add([]byte{})
	for i := range places {
		f.Add([]byte{byte(i), 0x60, 0, 1, byte(i), 0x70, 0, 0xff})
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := &patched{base: base, blocks: map[int64][]byte{}}
		for ; len(ops) >= 4; ops = ops[4:] {
			at := places[int(ops[0])%len(places)]
			if b.blocks[at] == nil {
				b.blocks[at] = slices.Clone(base[at:][:size])
			}
			b.blocks[at][sumLen+(int(ops[1])|int(ops[2])<<8)%(size-sumLen)] = ops[3]
		}
		for _, block := range b.blocks {
			reseal(fs.sumKind, block)
		}
		maptest.Files(t, Files, b, int64(len(base)))
		facts, used, err := Used(b, int64(len(base)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used[len(used)-1].End() > facts.Len || facts.Len > int64(len(base))) {
			t.Fatalf("%v of %d bytes", used, len(base))
		}
	})
}

// patched is an image with some blocks changed.
type patched struct {
	base   []byte
	blocks map[int64][]byte
}

func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.base).ReadAt(b, off)
	for at, block := range p.blocks {
		if at < off+int64(n) && at+int64(len(block)) > off {
			from, to := max(at, off), min(at+int64(len(block)), off+int64(n))
			copy(b[from-off:to-off], block[from-at:to-at])
		}
	}
	return n, err
}
