package btrfs

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
)

// mounted runs f with images mounted by the kernel; it returns when all is written.
func mounted(t testing.TB, imgs []string, options string, f func(dir string, loops []string)) {
	t.Helper()
	alone(t, func() { mountedHere(t, imgs, options, f) })
	if t.Failed() {
		t.FailNow()
	}
}

func mountedHere(t testing.TB, imgs []string, options string, f func(dir string, loops []string)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var loops []string
	for _, img := range imgs {
		loop := strings.TrimSpace(string(tool(t, "losetup", "--find", "--show", img)))
		defer tool(t, "losetup", "-d", loop)
		loops = append(loops, loop)
	}
	var devices string
	for _, l := range loops[1:] {
		devices += ",device=" + l
	}
	tool(t, "mount", "-t", "btrfs", "-o", options+devices, loops[0], dir)
	defer unmount(t, dir)
	f(dir, loops)
}

func unmount(t testing.TB, dir string) {
	t.Helper()
	// A program that is just being started elsewhere may have a file open for a moment.
	for range 100 {
		if err := unix.Unmount(dir, 0); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	tool(t, "umount", dir)
}

// scrub has the kernel read all metadata and data of an image, and returns its files.
func scrub(t testing.TB, imgs ...string) (files map[string]string) {
	t.Helper()
	mounted(t, imgs, "ro", func(dir string, _ []string) {
		out := string(tool(t, "btrfs", "scrub", "start", "-B", "-r", dir))
		if !strings.Contains(out, "no errors found") {
			t.Errorf("scrub of %s: %s", imgs[0], out)
		}
		files = sums(t, dir)
	})
	return files
}

// snapshot copies an image as it is at this moment, holes as holes.
func snapshot(t testing.TB, img string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot")
	tool(t, "cp", "--sparse=always", img, path)
	return path
}

// change writes, deletes and fragments, with transactions in between.
func change(t testing.TB, dir string, bytes int) {
	t.Helper()
	for round := range uint64(6) {
		sampleTree(t, dir, bytes/6, 10+round)
		tool(t, "btrfs", "filesystem", "sync", dir)
		for i := range 60 {
			os.Remove(filepath.Join(dir, fmt.Sprintf("d%d/file%d-%d", i%7, 9+round, i*3)))
		}
	}
	// Pieces within a file, one at a time.
	f, err := os.Create(filepath.Join(dir, "pieces"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	for i := range 300 {
		for j := range b {
			b[j] = byte(i*j + j>>3)
		}
		if _, err := f.WriteAt(b, int64(i*7%300)*8192); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAgainstKernel has the kernel fill filesystems, and read all of the copies.
func TestAgainstKernel(t *testing.T) {
	for _, v := range []struct {
		name    string
		mib     int64
		mkfs    string
		options string
		more    func(t *testing.T, dir, img, loop string)
	}{
		{"compressed", 128, "--csum xxhash", "compress-force=zstd", nil},
		{"mixed", 220, "--mixed -m dup -d dup --csum sha256", "rw", nil},
		{"cache-v1", 128, "-R ^free-space-tree", "space_cache=v1", nil},
		{"no-cache", 128, "-R ^free-space-tree --csum blake2", "nospace_cache", nil},
		{"fat-metadata", 128, "-O ^skinny-metadata,^no-holes", "nodatacow", nil},
		{"node-4k", 128, "-n 4096", "rw", nil},
		{"snapshots", 200, "", "rw", func(t *testing.T, dir, _, _ string) {
			tool(t, "btrfs", "subvolume", "snapshot", dir, dir+"/snap1")
			change(t, dir, 4*mib)
			tool(t, "btrfs", "subvolume", "snapshot", "-r", dir, dir+"/snap2")
			os.RemoveAll(dir + "/d1")
			tool(t, "btrfs", "subvolume", "delete", dir+"/snap1")
			tool(t, "btrfs", "quota", "enable", dir)
			tool(t, "cp", "--reflink=always", dir+"/pieces", dir+"/again")
			tool(t, "fallocate", "-l", "5M", dir+"/later")
		}},
		{"grown", 120, "", "rw", func(t *testing.T, dir, img, loop string) {
			if err := os.Truncate(img, 280*mib); err != nil {
				t.Fatal(err)
			}
			tool(t, "losetup", "-c", loop)
			tool(t, "btrfs", "filesystem", "resize", "max", dir)
			sampleTree(t, dir, 40*mib, 77)
		}},
		{"shrunk", 360, "", "rw", func(t *testing.T, dir, _, _ string) {
			tool(t, "btrfs", "filesystem", "resize", "300M", dir)
			change(t, dir, 2*mib)
		}},
		{"balanced", 200, "-m single", "rw", func(t *testing.T, dir, _, _ string) {
			tool(t, "btrfs", "balance", "start", "-f", "-mconvert=dup", "-dusage=60", dir)
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := sparse(t, v.mib*mib)
			tool(t, "mkfs.btrfs", append(strings.Fields("-q -L some-label "+v.mkfs), img)...)
			mounted(t, []string{img}, v.options, func(dir string, loops []string) {
				change(t, dir, int(v.mib*mib/12))
				if v.more != nil {
					v.more(t, dir, img, loops[0])
				}
			})
			dup := judge(t, img)
			want := scrub(t, snapshot(t, img))
			if got := scrub(t, dup); len(got) < 50 || !maps.Equal(got, want) {
				t.Errorf("%d files, the copy has %d, and they are not the same", len(want), len(got))
			}
		})
	}
}

// TestLog takes images in the middle of things, after a file was synced: it and the log that knows of it are in no
// extent tree.
func TestLog(t *testing.T) {
	for _, options := range []string{"rw", "compress-force=lzo", "nodatacow"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			img := sparse(t, 128*mib)
			tool(t, "mkfs.btrfs", "-q", img)
			var crashed []string
			want := map[string]int{}
			mounted(t, []string{img}, options+",commit=300", func(dir string, _ []string) {
				change(t, dir, 6*mib)
				tool(t, "btrfs", "filesystem", "sync", dir)
				for i := range 5 {
					// The same in later rounds: a log grows.
					name := fmt.Sprintf("synced%d", i)
					f, err := os.Create(filepath.Join(dir, name))
					if err != nil {
						t.Fatal(err)
					}
					n := 100_000 + i*10_000
					if _, err := io.WriteString(f, strings.Repeat(strconv.Itoa(i)+"abcdefghijklm", n)); err != nil {
						t.Fatal(err)
					}
					if err := f.Sync(); err != nil {
						t.Fatal(err)
					}
					f.Close()
					want[name] = n * 14
				}
				crashed = append(crashed, snapshot(t, img))
			})
			img = crashed[0]
			facts, used := mapImage(t, img)
			if facts.Whole != "" {
				t.Fatal(facts.Whole)
			}
			if len(facts.Notes) != 1 || !strings.Contains(facts.Notes[0], "its log is captured") {
				t.Errorf("notes: %q", facts.Notes)
			}
			committed, _ := dumpTree(t, img)
			if lost := extent.Subtract(committed, used); len(lost) > 0 {
				t.Errorf("used by dump-tree and not by us: %v", lost)
			}
			if log := extent.Subtract(extent.Subtract(used, committed), fixed(facts.Len)); len(log) == 0 {
				t.Error("there is no log: the test is for nothing")
			}
			dup := copyUsed(t, img, used)
			// The kernel replays the log.
			files := func(img string) (files map[string]string) {
				mounted(t, []string{img}, "rw", func(dir string, _ []string) {
					for name, n := range want {
						st, err := os.Stat(filepath.Join(dir, name))
						if err != nil || st.Size() != int64(n) {
							t.Errorf("%s: the synced file %s is not there: %v", img, name, err)
						}
					}
					files = sums(t, dir)
				})
				return files
			}
			got := files(dup)
			check(t, dup)
			scrub(t, dup)
			if want := files(img); !maps.Equal(got, want) {
				t.Errorf("%d files, the copy has %d, and they are not the same", len(want), len(got))
			}
		})
	}
}
