package exfat

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// TestMain keeps disk images in memory where there is room: tools sync what they write, and disks are slow.
func TestMain(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 2<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	// partclone sleeps for two seconds each time.
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// tool runs a program and returns all that it says.
func tool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// attached runs f with the file as a block device with the given sectors.
func attached(t testing.TB, img string, sector int, f func(dev string)) {
	t.Helper()
	var dev string
	for tries := 0; ; tries++ { // others may take the free one
		out, err := command("losetup", "-f", "--show", "-b", strconv.Itoa(sector), img).CombinedOutput()
		if err == nil {
			dev = strings.TrimSpace(string(out))
			break
		}
		if tries == 20 {
			t.Fatalf("losetup: %v\n%s", err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
	defer tool(t, "losetup", "-d", dev)
	f(dev)
	tool(t, "blockdev", "--flushbufs", dev)
}

// mkfs makes a volume in a sparse file of kib KiB.
func mkfs(t testing.TB, kib int64, sector int, args ...string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, kib<<10); err != nil {
		t.Fatal(err)
	}
	make := func(path string) { tool(t, "mkfs.exfat", append(append([]string{"-L", "Grüße"}, args...), path)...) }
	if sector == 512 {
		make(img)
	} else {
		attached(t, img, sector, make)
	}
	return img
}

// mounted runs f with the volume mounted by exfat-fuse, and returns when all is written.
func mounted(t testing.TB, img string, f func(dir string)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	attached(t, img, 1<<b[108], func(dev string) {
		tool(t, "mount.exfat-fuse", dev, dir)
		defer func() {
			for tries := 0; ; tries++ {
				out, err := command("umount", dir).CombinedOutput()
				if err == nil {
					break
				}
				if tries == 100 {
					t.Errorf("umount %s: %v\n%s", dir, err, out)
					command("umount", "-l", dir).Run()
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			// Its program runs in the background, and writes what is left after that.
			for start := time.Now(); busy(dev); time.Sleep(20 * time.Millisecond) {
				if time.Since(start) > 20*time.Second {
					t.Errorf("%s is still open", dev)
					break
				}
			}
		}()
		f(dir)
	})
}

// busy tells whether a process has a device open.
func busy(dev string) bool {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	return slices.ContainsFunc(links, func(l string) bool {
		to, err := os.Readlink(l)
		return err == nil && to == dev
	})
}

func mapImage(t testing.TB, img string) (fact.Facts, extent.List) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, used, err := Used(f, st.Size())
	if err != nil {
		t.Fatalf("Used: %v", err)
	}
	if err := used.Valid(); err != nil {
		t.Fatal(err)
	}
	return facts, used
}

// open reads a volume that must be good.
func open(t testing.TB, b []byte) *volume {
	t.Helper()
	v := &volume{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := v.used(); err != nil {
		t.Fatal(err)
	}
	return v
}

// partclone returns what partclone calls used.
func partclone(t testing.TB, img string) extent.List {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	tool(t, "partclone.exfat", "-q", "-D", "-L", domain+".log", "-s", img, "-o", domain)
	b, err := os.ReadFile(domain)
	if err != nil {
		t.Fatal(err)
	}
	var list extent.List
	for _, m := range regexp.MustCompile(`(?m)^(0x\w+)\s+(0x\w+)\s+\+$`).FindAllSubmatch(b, -1) {
		off, err1 := strconv.ParseInt(string(m[1]), 0, 64)
		n, err2 := strconv.ParseInt(string(m[2]), 0, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("partclone: %q", m[0])
		}
		list.Add(extent.Extent{Off: off, Len: n})
	}
	if len(list) == 0 {
		t.Fatalf("partclone says nothing: %q", b)
	}
	return list
}

// dump returns how many clusters dump.exfat counts as used, and how many there are.
func dump(t testing.TB, img string) (used, all int64) {
	t.Helper()
	out := tool(t, "dump.exfat", img)
	m := regexp.MustCompile(`Total Clusters:\s*(\d+)\s+Free Clusters:\s*(\d+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("dump.exfat: %s", out)
	}
	all, _ = strconv.ParseInt(string(m[1]), 10, 64)
	free, _ := strconv.ParseInt(string(m[2]), 10, 64)
	return all - free, all
}

// fsck checks the volume, and returns what it says of it.
func fsck(t testing.TB, img string) string {
	t.Helper()
	out := string(tool(t, "fsck.exfat", "-n", img))
	if !strings.Contains(out, ": clean. ") || strings.Count(out, "\n") > 2 {
		t.Fatalf("fsck.exfat: %s", out)
	}
	_, out, _ = strings.Cut(out, ": clean. ")
	return out
}

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	dst := bytes.Repeat([]byte("\x85\x02FILE\xc0\x03\xc1\xa5\x5a\xff\x0f\x53\xef\x01\x77"), len(src)/17+1)[:len(src)]
	for _, e := range used {
		copy(dst[e.Off:e.End()], src[e.Off:e.End()])
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, dst, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
