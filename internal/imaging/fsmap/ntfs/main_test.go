package ntfs

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// mkntfs makes a volume in a sparse file of kib KiB.
func mkntfs(t testing.TB, kib int64, args ...string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, kib<<10); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkntfs", append(append([]string{"-q", "-F", "-f", "-L", "Grüße 𝄞"}, args...), img)...)
	return img
}

// mounted runs f with the volume mounted by ntfs-3g, and returns when all is written.
func mounted(t testing.TB, img, options string, f func(dir string)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	device := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			t.Fatal(err)
		}
		return st.Dev
	}
	before := device()
	cmd := command("ntfs-3g", "-o", "no_detach,streams_interface=windows,compression,"+options, img, dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for start := time.Now(); device() == before; time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-done:
			t.Fatalf("ntfs-3g %s: %v\n%s", img, err, out.Bytes())
		default:
		}
		if time.Since(start) > 20*time.Second {
			cmd.Process.Kill()
			t.Fatalf("ntfs-3g %s is not mounted", img)
		}
	}
	defer func() {
		// A program that is just being started elsewhere may have a file open for a moment.
		for tries := 0; ; tries++ {
			out, err := command("umount", dir).CombinedOutput()
			if err == nil {
				break
			}
			if tries == 100 {
				t.Errorf("umount %s: %v\n%s", dir, err, out)
				cmd.Process.Kill()
				command("umount", "-l", dir).Run()
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err := <-done; err != nil {
			t.Errorf("ntfs-3g %s: %v\n%s", img, err, out.Bytes())
		}
	}()
	f(dir)
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

// partclone returns what partclone.ntfs calls used.
func partclone(t testing.TB, img string) extent.List {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	tool(t, "partclone.ntfs", "-q", "-D", "-L", domain+".log", "-s", img, "-o", domain)
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

// ntfscluster returns how many clusters it counts as used by files and by the system, by their attributes, and by the
// bitmap.
func ntfscluster(t testing.TB, img string) (byFiles, byBitmap int64) {
	t.Helper()
	out := tool(t, "ntfscluster", "-f", img)
	field := func(name string) int64 {
		m := regexp.MustCompile(`(?m)^` + name + `\s*: (\d+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("ntfscluster says nothing of %q: %s", name, out)
		}
		n, _ := strconv.ParseInt(string(m[1]), 10, 64)
		return n
	}
	m := regexp.MustCompile(`Volume Size in Clusters:\s*(\d+)`).FindSubmatch(tool(t, "ntfsinfo", "-f", "-m", img))
	if m == nil {
		t.Fatal("ntfsinfo does not tell the clusters")
	}
	all, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return field("clusters of user data") + field("clusters of metadata"), all - field("clusters of free space")
}

// consistent asks ntfsresize, which holds all files against the bitmap, and ntfsfix.
func consistent(t testing.TB, img string) {
	t.Helper()
	out, err := command("ntfsresize", "--info", "--force", "--no-progress-bar", img).CombinedOutput()
	// It accounts for a $Bitmap with an attribute list, but would not resize it.
	if err != nil && !bytes.Contains(out, []byte("ERROR: Highly fragmented $Bitmap isn't supported yet.")) || !bytes.Contains(out, []byte("Collecting resizing constraints")) {
		t.Errorf("ntfsresize --info: %v\n%s", err, out)
	}
	out = tool(t, "ntfsfix", "-n", img)
	if !bytes.Contains(out, []byte("processed successfully")) {
		t.Errorf("ntfsfix -n: %s", out)
	}
}

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	dst := bytes.Repeat([]byte("FILE0\x00\x03\x00\xa5\x5a\xff\x0f\x53\xef\x01\x77"), len(src)/16+1)[:len(src)]
	for _, e := range used {
		copy(dst[e.Off:e.End()], src[e.Off:e.End()])
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, dst, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
