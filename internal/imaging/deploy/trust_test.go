package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/night"
)

// watched is a disk of which is known what was read.
type watched struct {
	Disk
	mu   sync.Mutex
	read []extent.Extent
}

func (d *watched) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	d.read = append(d.read, extent.Extent{Off: off, Len: int64(len(b))})
	d.mu.Unlock()
	return d.Disk.ReadAt(b, off)
}

// asked is a store of which is known how many chunks it was asked for.
type asked struct {
	store.Reader
	n atomic.Int64
}

func (s *asked) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	s.n.Add(int64(len(ids)))
	return s.Reader.Get(ctx, ids, fn)
}

const (
	trustDisk = "label: gpt\nlabel-id: 5b1a3e9c-94ad-4c0f-8a5e-5b0d1f6b3c11\nstart=4MiB, size=330MiB, name=root\nsize=8MiB, type=uefi\n"
	trustOff  = 4 << 20
	trustLen  = 330 << 20
)

// trustImage makes a disk with a filesystem and a FAT.
func trustImage(t *testing.T, mkfs string) string {
	t.Helper()
	path := imageFile(t, 350, trustDisk)
	part := filepath.Join(t.TempDir(), "part")
	command(t, "", "sh", "-euc", "truncate -s 330M $1; "+mkfs+` "$1" >&2; dd if="$1" of="$2" bs=1M seek=4 conv=notrunc,sparse status=none
		rm "$1"; truncate -s 8M "$1"; mkfs.vfat "$1" >&2; echo hello | mcopy -i "$1" - ::hello; dd if="$1" of="$2" bs=1M seek=334 conv=notrunc,sparse status=none`, "sh", part, path)
	return path
}

// mounted calls fn with where the first partition is mounted.
func mounted(t *testing.T, path, options string, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	device := strings.TrimSpace(command(t, "", "losetup", "-f", "--show", "-o", fmt.Sprint(trustOff), "--sizelimit", fmt.Sprint(trustLen), path))
	defer command(t, "", "losetup", "-d", device)
	args := []string{device, dir}
	if strings.HasPrefix(options, "ntfs") {
		command(t, "", "ntfs-3g", "-o", "streams_interface=windows,compression", device, dir)
	} else {
		command(t, "", "mount", append([]string{"-o", options}, args...)...)
	}
	defer func() {
		command(t, "", "umount", dir)
		// Somebody else's copy of the mounts may have it a little longer, and so the program of a FUSE mount.
		for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
			if err == nil {
				must(t, f.Close())
				break
			}
			if time.Since(start) > 20*time.Second {
				t.Fatal(err)
			}
		}
		command(t, "", "blockdev", "--flushbufs", device)
	}()
	fn(dir)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// overwrite changes bytes in a file, and nothing of its length.
func overwrite(t *testing.T, name string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(b, at)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// differ returns the entries of an image that a disk does not hold.
func differ(t *testing.T, path string, st *mem.Store, m *manifest.Manifest) []manifest.Entry {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var list []manifest.Entry
	var b []byte
	for entries := manifest.NewEntryReader(st, m); ; {
		e, err := entries.Next(t.Context())
		if err == io.EOF {
			return list
		}
		must(t, err)
		for off, n := e.Off, int64(0); off < e.Off+e.Len; off += n {
			if n = e.Off + e.Len - off; e.Zero {
				n = min(n, mib)
			}
			b = slices.Grow(b[:0], int(n))[:n]
			_, err = f.ReadAt(b, off)
			must(t, err)
			if e.Zero && !chunk.IsZero(b) || !e.Zero && chunk.Sum(b) != e.ID {
				list = append(list, e)
				break
			}
		}
	}
}

func duplicate(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "disk.img")
	command(t, "", "cp", "--sparse=always", path, to)
	return to
}

// places returns where in an image a file's content begins.
func places(t *testing.T, path string, content []byte) int64 {
	t.Helper()
	at := bytes.Index(read(t, path), content)
	if at < 0 {
		t.Fatal("a file is not on the disk")
	}
	return int64(at)
}

// blocks returns where the blocks of a file lie in an image.
func blocks(t *testing.T, path string, content []byte) extent.List {
	t.Helper()
	const n = 1024
	have := map[[16]byte]bool{}
	for at := 0; at < len(content); at += n {
		have[[16]byte(content[at:])] = true
	}
	var list extent.List
	b := read(t, path)
	for at := 0; at < len(b); at += n {
		if have[[16]byte(b[at:])] {
			list.Add(extent.Extent{Off: int64(at), Len: n})
		}
	}
	if list.Bytes() != int64(len(content)) {
		t.Fatalf("%d bytes of a file of %d are on the disk", list.Bytes(), len(content))
	}
	return list
}

type trustCase struct {
	name    string
	options string // of mount; "" where nothing is mounted
	change  func(t *testing.T, dir string)
	raw     func(t *testing.T, path string)
	only    string // kinds of filesystem; "" for all
	why     string // part of why all of the first partition is read; "" where it is trusted
}

// TestTrust deploys onto disks that hold the image of the last deploy, or did before something happened to them. Each
// time the disk is then what a deploy that reads all makes of it.
func TestTrust(t *testing.T) {
	for _, fs := range []struct{ name, mkfs, mount string }{
		{"ext4", "mke2fs -q -F -t ext4", "rw"},
		{"ext2", "mke2fs -q -F -t ext2 -I 128", "rw"},
		{"xfs", "mkfs.xfs -q", "rw"},
		{"btrfs", "mkfs.btrfs -q", "rw"},
		{"ntfs", "mkntfs -q -Q -F -C", "ntfs"},
	} {
		if fs.name == "ext2" && !night.On() {
			continue // one of ext4's older forms
		}
		t.Run(fs.name, func(t *testing.T) { testTrust(t, fs.name, fs.mkfs, fs.mount) })
	}
}

const mib = 1 << 20

func testTrust(t *testing.T, kind, mkfs, mount string) {
	rng := rand.New(rand.NewPCG(7, 7))
	first := trustImage(t, mkfs)
	big, shared, env, page := garbage(rng, 8*mib), garbage(rng, 2*mib), garbage(rng, 1024), garbage(rng, 256<<10)
	copy(page[4086:], "SWAPSPACE2")
	reflink := kind == "xfs" || kind == "btrfs"
	mounted(t, first, mount, func(dir string) {
		names := []string{"big", "gone", "shared1", "shared2", "grubenv", "swapfile"}
		for i, b := range [][]byte{big, garbage(rng, 3*mib), shared, shared, env, page} {
			must(t, os.WriteFile(filepath.Join(dir, names[i]), b, 0o644))
		}
		must(t, os.Mkdir(filepath.Join(dir, "small"), 0o755))
		for i := range 200 {
			must(t, os.WriteFile(filepath.Join(dir, "small", fmt.Sprint(i)), garbage(rng, 100+rng.IntN(20000)), 0o644))
		}
		if kind == "btrfs" {
			command(t, "", "sh", "-euc", `: >"$1"; chattr +C "$1"`, "sh", filepath.Join(dir, "nocow"))
			overwrite(t, filepath.Join(dir, "nocow"), 0, garbage(rng, mib))
		}
		if reflink {
			command(t, "", "cp", "--reflink=always", filepath.Join(dir, "big"), filepath.Join(dir, "linked"))
		}
	})
	st := mem.New()
	base, _ := captured(t, first, st, capture.Options{})
	// The next revision has one file more, and one that was changed.
	second := duplicate(t, first)
	mounted(t, second, mount, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "new"), garbage(rng, mib), 0o644))
		overwrite(t, filepath.Join(dir, "shared2"), 5000, []byte("the next revision"))
	})
	next, _ := captured(t, second, st, capture.Options{})
	bigAt := blocks(t, first, big)

	for i, c := range []trustCase{
		{name: "unchanged"},
		{name: "in place", options: mount, change: func(t *testing.T, dir string) { overwrite(t, dir+"/big", 3*mib+77, []byte("changed")) }},
		{name: "time set back", options: mount, change: func(t *testing.T, dir string) {
			st, err := os.Stat(dir + "/big")
			must(t, err)
			overwrite(t, dir+"/big", 3*mib+77, []byte("changed"))
			must(t, os.Chtimes(dir+"/big", st.ModTime(), st.ModTime()))
		}},
		{name: "appended", options: mount, change: func(t *testing.T, dir string) { overwrite(t, dir+"/big", 8*mib, garbage(rng, mib)) }},
		{name: "shorter", options: mount, change: func(t *testing.T, dir string) { must(t, os.Truncate(dir+"/big", 4*mib-5)) }},
		{name: "another in its place", options: mount, change: func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/gone"))
			unix.Sync()
			must(t, os.WriteFile(dir+"/gone", garbage(rng, 3*mib), 0o644))
			must(t, os.WriteFile(dir+"/more", garbage(rng, 60*mib), 0o644))
		}},
		{name: "renamed", options: mount, change: func(t *testing.T, dir string) { must(t, os.Rename(dir+"/big", dir+"/small/other")) }},
		{name: "mapped", options: mount, change: func(t *testing.T, dir string) {
			f, err := os.OpenFile(dir+"/big", os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			b, err := unix.Mmap(int(f.Fd()), 0, 8*mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, err)
			copy(b[6*mib:], "by memory")
			must(t, unix.Munmap(b))
		}},
		{name: "read", options: "strictatime", only: "ext2 ext4 xfs btrfs", change: func(t *testing.T, dir string) {
			if _, err := os.ReadFile(dir + "/big"); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "one of two equal", options: mount, change: func(t *testing.T, dir string) { overwrite(t, dir+"/shared1", mib, []byte("changed")) }},
		{name: "reflinked", options: mount, only: "xfs btrfs", change: func(t *testing.T, dir string) {
			overwrite(t, dir+"/linked", 2*mib, []byte("changed"))
			must(t, os.Remove(dir+"/big"))
			overwrite(t, dir+"/linked", 5*mib, []byte("changed"))
		}},
		{name: "written in its place", options: mount, only: "btrfs", change: func(t *testing.T, dir string) {
			st, err := os.Stat(dir + "/nocow")
			must(t, err)
			overwrite(t, dir+"/nocow", 300_000, []byte("changed"))
			must(t, os.Chtimes(dir+"/nocow", st.ModTime(), st.ModTime()))
		}},
		{name: "all gone", options: mount, change: func(t *testing.T, dir string) {
			command(t, "", "sh", "-c", "rm -rf "+dir+"/*")
			unix.Sync()
			for i := range 20 {
				must(t, os.WriteFile(fmt.Sprint(dir, "/other", i), garbage(rng, mib), 0o644))
			}
		}},
		{name: "GRUB's variables and swap", only: "ext2 ext4 xfs", raw: func(t *testing.T, path string) {
			overwrite(t, path, places(t, path, env), []byte("by the boot loader"))
			overwrite(t, path, places(t, path, page[40960:41472]), []byte("swapped out"))
		}},
		{name: "made anew", why: "and was", raw: func(t *testing.T, path string) {
			part := filepath.Join(t.TempDir(), "part")
			command(t, "", "sh", "-euc", "truncate -s 330M $1; "+mkfs+` "$1" >&2; dd if="$1" of="$2" bs=1M seek=4 conv=notrunc status=none`, "sh", part, path)
		}},
		{name: "not unmounted", only: "ext2 ext4 xfs", why: "", options: mount, raw: nil, change: nil},
		{name: "another disk", why: "its partition table is", raw: func(t *testing.T, path string) {
			command(t, "", "sfdisk", "-q", "--disk-id", path, "11111111-94ad-4c0f-8a5e-5b0d1f6b3c11")
			overwrite(t, path, bigAt[0].Off+mib, []byte("changed"))
		}},
		{name: "no superblock", why: "and was", raw: func(t *testing.T, path string) {
			overwrite(t, path, trustOff, make([]byte, 128<<10))
			overwrite(t, path, bigAt[0].Off+mib, []byte("changed"))
		}},
	} {
		if c.only != "" && !slices.Contains(strings.Fields(c.only), kind) {
			continue
		}
		if i%4 > 1 && kind != "ext4" && !night.On() {
			continue
		}
		// Each case with one of the two revisions, the first with both.
		for to, m := range []*manifest.Manifest{base, next} {
			if i > 0 && i%2 == to {
				continue
			}
			t.Run(fmt.Sprintf("%s, revision %d", c.name, to+1), func(t *testing.T) {
				path := duplicate(t, first)
				why := c.why
				switch {
				case c.name == "not unmounted":
					why = "unmounted"
					if kind == "xfs" {
						why = "its log was not replayed"
					}
					live := duplicate(t, first)
					mounted(t, live, mount, func(dir string) {
						overwrite(t, dir+"/big", 3*mib, []byte("changed"))
						unix.Sync()
						command(t, "", "cp", "--sparse=always", live, path)
					})
				case c.raw != nil:
					c.raw(t, path)
				case c.change != nil:
					mounted(t, path, c.options, func(dir string) { c.change(t, dir) })
				}
				full := duplicate(t, path)
				deployed(t, full, st, m, Options{Compare: true, Verify: true})

				d, err := disk.OpenExclusive(path, disk.Options{SectorSize: 512})
				must(t, err)
				defer d.Close()
				w := &watched{Disk: Disk{d}}
				from := &asked{Reader: st}
				res, err := Run(t.Context(), from, m, w, Options{Compare: true, Verify: true, Last: base})
				must(t, err)
				if got, want := differ(t, path, st, m), differ(t, full, st, m); !slices.Equal(got, want) {
					t.Errorf("entries that differ:\n%v, after a deploy that reads all\n%v", got, want)
				}
				said := strings.Join(res.Untrusted, "\n")
				if why != "" {
					if !strings.Contains(said, why) || res.Trusted > 0 {
						t.Errorf("%d bytes trusted, and said is:\n%s\nwant: %s", res.Trusted, said, why)
					}
					return
				}
				if !strings.Contains(said, "reads partition 2 (vfat), because ") || len(res.Untrusted) != 1 {
					t.Errorf("said is: %q", res.Untrusted)
				}
				seen := extent.FromUnsorted(w.read)
				wants := map[string]int64{"unchanged": 13 * mib, "read": 13 * mib, "one of two equal": 10 * mib, "in place": 2 * mib}[c.name]
				if m == next {
					wants -= 3 * mib
				}
				if res.Trusted < wants {
					t.Errorf("%d bytes are trusted, want %d", res.Trusted, wants)
				}
				if n := extent.Intersect(seen, bigAt).Bytes(); wants > 8*mib && n > 128<<10 {
					t.Errorf("%d bytes of a file that nobody wrote to were read", n)
				}
				most := int64(60)
				if kind == "xfs" {
					most += 1100 // 4 MiB of the log, around its end
				}
				if c.name == "unchanged" && m == base && int64(from.n.Load()) > most {
					t.Errorf("%d chunks were asked for", from.n.Load())
				}
				if c.name == "all gone" && res.Trusted > 0 {
					t.Errorf("%d bytes are trusted", res.Trusted)
				}
			})
		}
	}
}
