package ext4

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
)

// crashed makes a filesystem as it lies on a disk after a power cut: the kernel mounts it, writes and deletes, and the
// image is copied while the journal is all that knows of it.
func crashed(t testing.TB, kib int, args, journal string) string {
	t.Helper()
	img := mke2fs(t, kib, args)
	at := t.TempDir()
	mounted := false
	mount := func() { tool(t, "mount", "-t", "ext4", "-o", "loop,commit=300,"+journal, img, at); mounted = true }
	unmount := func() {
		if mounted {
			mounted = false
			// Somebody may look at all mounts just now.
			for range 50 {
				if exec.Command("umount", at).Run() == nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Errorf("%s cannot be unmounted", at)
		}
	}
	defer unmount()
	mount()
	d, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 4 {
		for i := range 30 {
			b := make([]byte, 1+r.IntN(40_000))
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			if i%9 == 0 && len(b) > 4 {
				// A block that begins with the journal's magic number is escaped there (with data=journal).
				for off := 0; off+4 <= len(b); off += 1024 {
					be.PutUint32(b[off:], journalMagic)
				}
			}
			dir := filepath.Join(at, fmt.Sprintf("new%d", i%5))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d-%d", round, i)), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			os.Remove(filepath.Join(at, fmt.Sprintf("d%d/file%d", i%7, i*6+round)))
			os.RemoveAll(filepath.Join(at, fmt.Sprintf("new%d/f%d-%d", i%5, round-1, i)))
		}
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "crashed")
	src, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	d.Close()
	unmount()
	return out
}

func duplicate(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "dup")
	if err := os.WriteFile(out, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

// replayed lets e2fsck replay the journal.
func replayed(t testing.TB, img string) {
	t.Helper()
	out, err := exec.Command("/sbin/e2fsck", "-fy", "-E", "journal_only", img).CombinedOutput()
	if err != nil && !strings.Contains(err.Error(), "exit status 1") {
		t.Fatalf("e2fsck -fy -E journal_only: %v\n%s", err, out)
	}
}

func TestAfterACrash(t *testing.T) {
	for _, v := range []struct{ name, args, mount string }{
		{"4k", "-t ext4 -g 1024", ""},
		{"1k", "-t ext4 -b 1024 -g 1024 -J size=4", ""},
		{"32bit", "-t ext4 -b 1024 -O ^64bit -g 2048 -J size=4", ""},
		{"no-csum", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg -g 2048", ""},
		{"journal-csum-v1", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg -g 2048", "journal_checksum"},
		{"async-commit", "-t ext4 -b 1024 -g 2048", "data=writeback,journal_async_commit"},
		{"data-journal", "-t ext4 -b 1024 -g 2048 -J size=12", "data=journal"},
		{"writeback", "-t ext4 -b 1024 -g 2048", "data=writeback"},
		{"wraps-around", "-t ext4 -b 1024 -g 2048 -J size=1", ""},
		{"bigalloc", "-t ext4 -b 1024 -O bigalloc -C 4096 -g 4096", ""},
		{"orphan-file", "-t ext4 -O orphan_file -g 1024", ""},
		{"ext3", "-t ext3 -b 1024 -g 2048", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			img := crashed(t, 28<<10, v.args, v.mount)
			facts, used := mapImage(t, img)
			if facts.Whole != "" {
				t.Fatalf("whole: %s", facts.Whole)
			}
			if len(facts.Notes) != 1 {
				t.Errorf("notes: %q", facts.Notes)
			}
			dup := copyUsed(t, img, used)
			replayed(t, img)
			replayed(t, dup)
			free, length := freeBlocks(t, img)
			if lost := extent.Subtract(free.Complement(length), used); len(lost) > 0 {
				t.Errorf("used after the replay and not by us: %v", lost)
			}
			fsck(t, img, dup)
			sameTree(t, img, dup)
		})
	}
}

// TestJournalIsNeeded makes sure that the images of TestAfterACrash are what they should be: without the journal,
// blocks of files would be lost.
func TestJournalIsNeeded(t *testing.T) {
	img := crashed(t, 28<<10, "-t ext4 -b 1024 -g 2048", "")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	fs := &filesystem{r: strings.NewReader(string(b)), size: int64(len(b))}
	if err := fs.readSuper(); err != nil {
		t.Fatal(err)
	}
	if err := fs.readGroups(newGather(fs.blockSize)); err != nil {
		return // not even the descriptors can be read
	}
	used := newGather(fs.blockSize)
	for i, g := range fs.groups {
		bm, err := fs.readBlock(g.bitmap)
		if err != nil {
			t.Fatal(err)
		}
		if !g.uninit {
			fs.addBits(uint64(i), bm, used)
		}
	}
	replayed(t, img)
	free, length := freeBlocks(t, img)
	lost := extent.Subtract(free.Complement(length), used.list())
	if lost.Bytes() < 100<<10 {
		t.Errorf("only %d bytes would be lost without the journal", lost.Bytes())
	}
}

// TestDamagedJournal damages what was committed. A replay would end there, and what is in use then is known to no bitmap.
func TestDamagedJournal(t *testing.T) {
	for _, v := range []struct{ name, args, mount string }{
		{"csum", "-t ext4 -b 1024 -g 2048", ""},
		{"csum-v1", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg -g 2048", "journal_checksum"},
		{"no-csum", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg -g 2048", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(crashed(t, 28<<10, v.args, v.mount))
			if err != nil {
				t.Fatal(err)
			}
			fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
			if _, err := fs.used(); err != nil {
				t.Fatal(err)
			}
			type place struct {
				what string
				off  int64
			}
			var places []place
			commits := 0
			for at := uint64(1); ; at++ {
				r, ok := find(fs.log.journal, at)
				if !ok {
					break
				}
				off := int64(r.to+blockNr(at-r.from)) * fs.blockSize
				switch {
				case be.Uint32(b[off:]) != journalMagic:
				case be.Uint32(b[off+4:]) == recordCommit:
					if commits++; v.name != "no-csum" {
						places = append(places, place{"sum of a commit", off + commitSum})
					}
				case be.Uint32(b[off+4:]) == recordDescriptor:
					places = append(places, place{"head of a descriptor", off})
					if v.name != "no-csum" {
						places = append(places, place{"descriptor", off + 40}, place{"block", off + fs.blockSize + 700})
					}
				}
			}
			if commits < 3 {
				t.Fatalf("%d commits", commits)
			}
			for _, p := range places {
				b[p.off] ^= 4
				facts, _, err := Used(bytes.NewReader(b), int64(len(b)))
				b[p.off] ^= 4
				if err != nil || !strings.Contains(facts.Whole, "journal") {
					t.Errorf("%s at %d is damaged: %v, whole: %q", p.what, p.off, err, facts.Whole)
				}
			}
		})
	}
}
