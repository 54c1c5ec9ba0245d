package btrfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/leaveout"
)

var leaveOutRules = leaveout.Rules{Patterns: []string{"/tmp", "*.iso", "*.gone"}, Swap: true}

// leftOut are the files that the rules leave out of makeLeaveOut's. From vm/later.iso is, what was written since a
// snapshot.
var leftOut = map[string]bool{"@swap/one": true, "swapfile": true, "tmp/alone": true, "tmp/torn": true, "tmp/rewritten": true, "tmp/more": true, "tmp/short": true, "vm/later.iso": true}

// makeLeaveOut makes files that may be left out, and some that look so. It returns what is in all.
func makeLeaveOut(t testing.TB, mkfs string) (img string, files map[string]string) {
	t.Helper()
	img = sparse(t, 220*mib)
	tool(t, "mkfs.btrfs", append(strings.Fields("-q "+mkfs), img)...)
	mounted(t, []string{img}, "rw", func(dir string, _ []string) {
		sampleTree(t, dir, 2*mib, 3)
		tool(t, "sh", "-euc", `cd "$1"
			data() { dd if=/dev/urandom of="$1" bs=4k count="$2" status=none conv=notrunc seek="${3-0}"; }
			btrfs -q subvolume create @; btrfs -q subvolume create @swap; btrfs -q subvolume create vm
			mkdir @/etc; echo "/swap/one none swap defaults 0 0" >@/etc/fstab
			btrfs filesystem mkswapfile -s 8m @swap/one
			touch swapfile; chattr +C swapfile; chmod 600 swapfile; data swapfile 1024; mkswap -q swapfile
			mkdir tmp; data tmp/summed 20; fallocate -l 100k tmp/room; chattr +C tmp vm
			data tmp/alone 75; echo short >tmp/short; data tmp/linked 60; data tmp/part 60; data tmp/more 30
			touch shared part; chattr +C shared part
			cp --reflink=always tmp/linked shared
			xfs_io -c "reflink $1/tmp/part 40960 0 8192" part 2>/dev/null || cp --reflink=always tmp/part part
			fallocate -l 800k tmp/torn; data tmp/torn 10 50; data tmp/torn 1 120; sync; truncate -s 700001 tmp/torn
			data tmp/rewritten 60; sync; data tmp/rewritten 20 20
			data vm/disk.iso 50; sync
			btrfs -q subvolume snapshot vm old
			data vm/later.iso 10; btrfs -q subvolume snapshot -r vm older; data vm/later.iso 3 3
			mkdir deep; date >deep/x.gone; ln deep/x.gone deep/y`, "sh", dir)
		files = sums(t, dir)
	})
	return img, files
}

// find returns what the rules leave out of a volume.
func find(t testing.TB, r io.ReaderAt, size int64) leaveout.Found {
	t.Helper()
	tr, err := OpenTree(r, size)
	if err != nil {
		return leaveout.Found{}
	}
	found, err := leaveout.Find(tr, leaveOutRules, func(add func(extent.Extent)) (string, error) { return Claims(r, size, add) })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestLeaveOut zeroes what rules leave out, and asks the kernel what became of the files: those that have checksums, or
// share extents, are kept.
func TestLeaveOut(t *testing.T) {
	for name, mkfs := range map[string]string{"single": "-n 4096", "mixed": "--mixed -m dup -d dup --csum sha256"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img, want := makeLeaveOut(t, mkfs)
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			swap, err := tree.Lookup(tr, "@swap/one", false)
			if err != nil {
				t.Fatal(err)
			}
			pieces, err := tr.Bare(swap.Inode)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range pieces { // what the kernel swaps out does not pass through the file
				for i := range b[p.Off : p.Off+p.Len] {
					if p.At+int64(i) >= 64<<10 {
						b[p.Off+int64(i)] = 0xab
					}
				}
			}
			found := find(t, bytes.NewReader(b), int64(len(b)))
			least, copies := int64(8*mib+4*mib-128<<10+75<<12+30<<12+4<<10+684<<10+60<<12+12<<10), int64(1)
			if name == "mixed" {
				copies = 2
			}
			if n := found.Extents.Bytes(); n != least*copies {
				t.Errorf("%d bytes are left out, want %d", n, least*copies)
			}
			notes := strings.Join(found.Notes, "\n")
			if len(found.Notes) != 3 || !strings.Contains(notes, "2 files are kept, /tmp/room the first: each has checksums") || !strings.Contains(notes, "another file") || !strings.Contains(notes, "/x.gone is kept") {
				t.Errorf("notes %q", found.Notes)
			}
			for _, e := range found.Extents {
				clear(b[e.Off:e.End()])
			}
			if bytes.Contains(b, bytes.Repeat([]byte{0xab}, 4096)) {
				t.Error("some of what was swapped out is kept")
			}
			if err := os.WriteFile(img, b, 0o600); err != nil {
				t.Fatal(err)
			}
			_, used := mapImage(t, img)
			dup := copyUsed(t, img, used)
			check(t, dup)
			got := scrub(t, dup)
			for name, sum := range want {
				if (got[name] == sum) == (leftOut[name] && name != "@swap/one") { // this one read as zeros before
					t.Errorf("%s: %s, was %s", name, got[name], sum)
				}
			}
			tr, err = OpenTree(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			for name := range leftOut {
				f, err := tree.Lookup(tr, name, false)
				if err != nil {
					t.Fatal(err)
				}
				r, err := tr.Open(f.Inode)
				if err != nil {
					t.Fatal(err)
				}
				c := make([]byte, f.Size)
				if _, err := r.ReadAt(c, 0); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if strings.Contains(name, "swap") {
					if string(c[4086:4096]) != "SWAPSPACE2" {
						t.Errorf("%s has no header", name)
					}
					c = c[64<<10:]
				}
				if strings.HasPrefix(name, "vm") {
					c = c[12<<10 : 24<<10]
				}
				if len(bytes.Trim(c, "\x00")) > 0 {
					t.Errorf("%s is not zero", name)
				}
			}
		})
	}
}

// TestLeaveOutOfDamage changes blocks of trees, with good checksums: what is left out stays within the files that the rules
// name, and within what no other file has.
func TestLeaveOutOfDamage(t *testing.T) {
	img, _ := makeLeaveOut(t, "--mixed -m dup -d dup")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(b))
	sound := find(t, bytes.NewReader(b), size)
	var blocks [][]int64 // of all trees
	fs := &filesystem{r: bytes.NewReader(b), size: size}
	if err := fs.readSuper(); err != nil {
		t.Fatal(err)
	}
	fs.left = 1 << 20
	if err := fs.readChunks(); err != nil {
		t.Fatal(err)
	}
	see := func(logical uint64) {
		if places, err := fs.chunks.places(logical, fs.node); err == nil {
			blocks = append(blocks, places)
		}
	}
	none := func(key, []byte) error { return nil }
	walk := func(owner uint64, r ref, item func(key, []byte) error) {
		if err := (&btree{fs: fs, name: "some", owner: owner, blocks: see, item: item}).walk(r); err != nil {
			t.Fatal(err)
		}
	}
	walk(treeRoot, fs.root, func(k key, data []byte) error {
		if k.typ == itemRoot {
			r, err := parseRoot(data)
			if err != nil {
				return err
			}
			owner := k.obj
			if owner >= firstFree && owner < 1<<63 {
				owner = anyFiles
			}
			walk(owner, r, none)
		}
		return nil
	})
	r := rand.New(rand.NewPCG(4, 4))
	less := 0
	for range 400 {
		bad := &patched{base: b, blocks: map[int64][]byte{}}
		for range 1 + r.IntN(2) {
			places := blocks[r.IntN(len(blocks))]
			block := bytes.Clone(b[places[0]:][:fs.node])
			for range 1 + r.IntN(3) {
				block[headLen+r.IntN(len(block)-headLen)] ^= 1 << r.IntN(8)
			}
			reseal(sumCRC32C, block)
			for _, at := range places {
				bad.blocks[at] = block
			}
		}
		found := find(t, bad, size)
		if over := extent.Subtract(found.Extents, sound.Extents); len(over) > 0 {
			// A changed name, flag or length makes other files of their own. What they must not have is what another file has.
			if why := others(t, bad, size, over); why != "" {
				t.Errorf("%v is left out, too: %s", over, why)
			}
		}
		if found.Extents.Bytes() < sound.Extents.Bytes() {
			less++
		}
	}
	if less < 40 {
		t.Errorf("only %d damaged filesystems had less left out", less)
	}
}

// others tells whether anything but one file has some of a list.
func others(t testing.TB, r io.ReaderAt, size int64, list extent.List) string {
	t.Helper()
	var had extent.List
	why := ""
	if err := Pieces(r, size, func(p fact.Piece) {
		e := extent.List{{Off: p.Off, Len: p.Len}}
		mine := extent.Intersect(e, list)
		if len(extent.Intersect(mine, had)) > 0 {
			why = "two files have it"
		}
		had = extent.Union(had, mine)
	}); err != nil {
		t.Fatal(err)
	}
	_, used, err := Used(r, size)
	if err == nil && used != nil && len(extent.Subtract(list, used)) > 0 {
		why = "it is not in use"
	}
	return why
}
