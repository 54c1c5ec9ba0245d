package localcmd_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// agent is the program, built as it is released.
var agent string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "mimeo-agent-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	agent = filepath.Join(dir, "mimeo-agent")
	build := exec.Command("go", "build", "-o", agent, "mimeo/cmd/mimeo-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	code := 1
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build mimeo-agent: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// result is what a run of the agent left.
type result struct {
	code     int
	out, err string
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	cmd := exec.Command(agent, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// ok runs the agent, which must succeed, with --json, into v.
func ok(t *testing.T, v any, args ...string) {
	t.Helper()
	r := run(t, append(args, "--json")...)
	if r.code != 0 {
		t.Fatalf("%v: exit %d\n%s", args, r.code, r.err)
	}
	dec := json.NewDecoder(strings.NewReader(r.out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, r.out)
	}
}

// fails runs the agent, which must end with code and say all of what.
func fails(t *testing.T, code int, args []string, what ...string) {
	t.Helper()
	r := run(t, args...)
	if r.code != code {
		t.Errorf("%v: exit %d, want %d\n%s", args, r.code, code, r.err)
	}
	for _, w := range what {
		if !strings.Contains(r.err, w) {
			t.Errorf("%v: nothing of %q in\n%s", args, w, r.err)
		}
	}
	if r.out != "" {
		t.Errorf("%v: printed %s", args, r.out)
	}
}

type captured struct {
	Image, ID                       string
	Rev                             int
	DiskSize                        int64 `json:"disk_size"`
	Used, Zero, New, Stored, Reused int64
	Seconds                         float64
	Warnings                        []string
}

type deployed struct {
	Image, ID, Grown                        string
	Rev                                     int
	Used, Written, Skipped, Zeroed, Fetched int64
	Trusted                                 int64
	Seconds                                 float64
	Untrusted                               []string
}

func tool(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func empty(t *testing.T, path string, mib int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(mib<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// rootOff is where the ext4 of a golden disk begins.
const rootOff = 1 << 20

// golden makes a disk of 96 MiB with a GPT and an ext4 of 94 MiB that holds some files of mib MiB in all.
func golden(t *testing.T, mib int) (path, tree string) {
	t.Helper()
	dir := t.TempDir()
	tree = filepath.Join(dir, "tree")
	rng := rand.New(rand.NewPCG(1, uint64(mib)))
	for i := range mib {
		sub := filepath.Join(tree, fmt.Sprint(i%5))
		os.MkdirAll(sub, 0o755)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("file", i)), noise(rng, 1<<20), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	path = empty(t, filepath.Join(dir, "golden.img"), 96)
	tool(t, "label: gpt\nsize=94MiB, name=root\n", "sfdisk", "-q", path)
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, "-E", fmt.Sprint("offset=", rootOff), path, "94M")
	return path, tree
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

// sameTree compares the files of the filesystem on a disk with a folder.
func sameTree(t *testing.T, disk, tree string) {
	t.Helper()
	tool(t, "", "e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", disk, rootOff))
	dir := t.TempDir()
	tool(t, "", "mount", "-o", fmt.Sprint("ro,loop,offset=", rootOff), disk, dir)
	defer tool(t, "", "umount", dir)
	tool(t, "", "diff", "-r", "--exclude", "lost+found", tree, dir)
}

func TestThereAndBack(t *testing.T) {
	disk, tree := golden(t, 20)
	work := t.TempDir()
	store := "dir:" + filepath.Join(work, "store")

	var first, second captured
	ok(t, &first, "capture", disk, "--store", store, "--image", "golden")
	if first.Image != "golden" || first.Rev != 1 || first.DiskSize != 96<<20 || len(first.ID) != 64 || first.Warnings == nil {
		t.Errorf("the first capture is %+v", first)
	}
	if first.Used < 20<<20 || first.Used > 40<<20 || first.New < 20<<20 || first.Stored < 20<<20 || first.Zero+first.New+first.Reused != first.Used {
		t.Errorf("the first capture of 20 MiB of noise is %+v", first)
	}
	ok(t, &second, "capture", disk, "--store", store, "--image", "golden")
	if second.Rev != 2 || second.New != 0 || second.Used != first.Used {
		t.Errorf("the second capture of the same disk is %+v", second)
	}
	if r := run(t, "capture", disk, "--store", store, "--image", "other"); r.code != 0 || !strings.Contains(r.out, "other@1: ") || !strings.Contains(r.err, "mapping\n") {
		t.Errorf("for people: %+v", r)
	}

	// Onto a file that is not there, with the disk's size, and again: nothing to write.
	copied := filepath.Join(work, "copy.img")
	var d deployed
	ok(t, &d, "deploy", "golden@1", copied, "--store", store, "--verify")
	if d.Image != "golden" || d.Rev != 1 || d.Used != first.Used || d.Skipped != 0 || d.Grown != "" || d.Fetched == 0 {
		t.Errorf("the deploy is %+v", d)
	}
	sameTree(t, copied, tree)
	var s syscall.Stat_t
	if err := syscall.Stat(copied, &s); err != nil || s.Size != 96<<20 || s.Blocks*512 > 30<<20 {
		t.Errorf("the copy is a file of %d bytes that takes %d (%v)", s.Size, s.Blocks*512, err)
	}
	ok(t, &d, "deploy", "golden", copied, "--store", store, "--force")
	if d.Rev != 2 || d.Written > 1<<20 || d.Skipped < 20<<20 {
		t.Errorf("the deploy onto the same is %+v", d)
	}
	ok(t, &d, "deploy", "golden", copied, "--store", store, "--force", "--whole")
	if d.Skipped != 0 || d.Written < 20<<20 {
		t.Errorf("the deploy of all is %+v", d)
	}

	// Onto a larger disk: the last partition and its filesystem grow, or not.
	large := empty(t, filepath.Join(work, "large.img"), 300)
	ok(t, &d, "deploy", "golden", large, "--store", store)
	if !strings.Contains(d.Grown, "partition 1 (ext4)") {
		t.Errorf("grown: %q", d.Grown)
	}
	if out := tool(t, "", "sgdisk", "-v", large); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	if out := tool(t, "", "dumpe2fs", "-h", fmt.Sprintf("%s?offset=%d", large, rootOff)); !strings.Contains(out, fmt.Sprintf("Block count:              %d\n", 298<<20/4096)) {
		t.Errorf("the filesystem did not grow: %+v\n%s", d, out[:1500])
	}
	sameTree(t, large, tree)
	d = deployed{}
	ok(t, &d, "deploy", "golden", large, "--store", store, "--grow", "none", "--force")
	if d.Grown != "" {
		t.Errorf("grown: %q", d.Grown)
	}
	sameTree(t, large, tree)
}

func TestRefusals(t *testing.T) {
	disk, _ := golden(t, 2)
	work := t.TempDir()
	place := filepath.Join(work, "store")
	store := "dir:" + place
	ok(t, new(captured), "capture", disk, "--store", store, "--image", "golden")

	small := empty(t, filepath.Join(work, "small.img"), 60)
	fails(t, 4, []string{"deploy", "golden", small, "--store", store}, "too small", fmt.Sprint(60<<20), "nothing was written", "ends at", "--shrink")
	used := empty(t, filepath.Join(work, "used.img"), 96)
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-L", "precious", used)
	fails(t, 4, []string{"deploy", "golden", used, "--store", store}, "not empty", "precious", "--force")
	tool(t, "label: dos\nsize=3MiB\n", "sfdisk", "-q", "--wipe", "always", used)
	fails(t, 4, []string{"deploy", "golden", used, "--store", store}, "not empty", "partition table (mbr) with 1 partition")
	if err := os.WriteFile(filepath.Join(work, "note.img"), append(make([]byte, 5000), "somebody's"...), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Truncate(filepath.Join(work, "note.img"), 96<<20)
	fails(t, 4, []string{"deploy", "golden", filepath.Join(work, "note.img"), "--store", store}, "data in its first MiB")

	fails(t, 3, []string{"deploy", "silver", small, "--store", store}, "no image silver", "it has: golden")
	fails(t, 3, []string{"deploy", "golden@7", small, "--store", store}, "golden@7", "it has: golden@1")
	fails(t, 3, []string{"deploy", "golden", "/dev/no-such-disk", "--store", store}, "no disk /dev/no-such-disk", "lsblk")
	fails(t, 3, []string{"deploy", "golden", small, "--store", "dir:" + filepath.Join(work, "nothing")}, "no store")
	fails(t, 3, []string{"capture", filepath.Join(work, "nothing.img"), "--store", store, "--image", "x"}, "no such file")
	fails(t, 2, []string{"capture", disk, "--store", place, "--image", "x"}, "dir:PATH", "hint: say --store dir:"+place)
	fails(t, 2, []string{"capture", disk, "--store", store}, "--image")
	fails(t, 2, []string{"capture", disk, "--image", "x"}, "--store")
	fails(t, 2, []string{"capture", "--store", store, "--image", "x"}, "usage: mimeo-agent capture DISK")
	fails(t, 2, []string{"capture", disk, "--store", store, "--image", "../x"}, "image name")
	fails(t, 2, []string{"capture", disk, "--store", store, "--image", "x", "--codec", "lzma"}, "zstd, s2 or auto")
	fails(t, 4, []string{"deploy", "golden", small, "--store", store, "--grow", "all"}, "has no volume of that", "--grow none")
	fails(t, 2, []string{"deploy", "golden", small, "--store", store, "--gorw", "last"}, "unknown flag")
}

func sum(t *testing.T, path string) string {
	t.Helper()
	return strings.Fields(tool(t, "", "sha256sum", path))[0]
}

// TestMounted refuses a disk whose filesystem is mounted, in both directions.
func TestMounted(t *testing.T) {
	disk, _ := golden(t, 2)
	work := t.TempDir()
	store := "dir:" + filepath.Join(work, "store")
	ok(t, new(captured), "capture", disk, "--store", store, "--image", "golden")
	dir := t.TempDir()
	tool(t, "", "mount", "-o", fmt.Sprint("ro,loop,offset=", rootOff), disk, dir)
	defer tool(t, "", "umount", dir)
	before := sum(t, disk)
	fails(t, 4, []string{"capture", disk, "--store", store, "--image", "golden"}, "in use", dir, "unmount")
	fails(t, 4, []string{"deploy", "golden", disk, "--store", store, "--force"}, "in use", dir)
	if sum(t, disk) != before {
		t.Error("the mounted disk was written to")
	}
	var c captured
	ok(t, &c, "capture", disk, "--store", store, "--image", "golden", "--force")
	if c.Rev != 2 {
		t.Errorf("the forced capture is %+v", c)
	}
}

// TestGoesOnAfterKill kills captures at different moments: what the store has is not stored again, and no half revision
// is to be seen.
func TestGoesOnAfterKill(t *testing.T) {
	disk, tree := golden(t, 70)
	work := t.TempDir()
	place := filepath.Join(work, "store")
	killed := 0
	for try := range 8 {
		cmd := exec.Command(agent, "capture", disk, "--store", "dir:"+place, "--image", "golden", "--workers", "1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); stored(place) < int64(try)*6<<20 && time.Since(start) < 5*time.Second; {
			time.Sleep(time.Millisecond)
		}
		cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			break // it was faster
		}
		killed++
		if r := run(t, "deploy", "golden", filepath.Join(work, "no.img"), "--store", "dir:"+place); r.code != 3 {
			t.Fatalf("after a kill: %+v", r)
		}
	}
	if killed == 0 {
		t.Fatal("no capture was interrupted")
	}
	there := stored(place)
	var c captured
	ok(t, &c, "capture", disk, "--store", "dir:"+place, "--image", "golden")
	if c.Rev != 1 || c.Stored > 74<<20-there+8<<20 {
		t.Errorf("%d kills left %d bytes; the capture then stored %d", killed, there, c.Stored)
	}
	copied := filepath.Join(work, "copy.img")
	ok(t, new(deployed), "deploy", "golden", copied, "--store", "dir:"+place)
	sameTree(t, copied, tree)
}

// stored returns the bytes of a store's packs.
func stored(place string) (n int64) {
	packs, _ := filepath.Glob(filepath.Join(place, "packs", "*"))
	for _, p := range packs {
		if st, err := os.Stat(p); err == nil {
			n += st.Size()
		}
	}
	return n
}

// TestDamagedStore flips a bit in the store: the deploy says so, and leaves no disk that boots.
func TestDamagedStore(t *testing.T) {
	disk, _ := golden(t, 10)
	work := t.TempDir()
	place := filepath.Join(work, "store")
	ok(t, new(captured), "capture", disk, "--store", "dir:"+place, "--image", "golden")
	packs, _ := filepath.Glob(filepath.Join(place, "packs", "*"))
	if len(packs) == 0 {
		t.Fatal("no pack")
	}
	f, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0}
	f.ReadAt(b, 6<<20)
	b[0] ^= 4
	if _, err := f.WriteAt(b, 6<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	target := filepath.Join(work, "copy.img")
	fails(t, 1, []string{"deploy", "golden", target, "--store", "dir:" + place}, "damaged", "no partition table", "store repair")
	if out := tool(t, "", "sfdisk", "-d", disk); !strings.Contains(out, "label: gpt") {
		t.Fatal(out)
	}
	if out, err := exec.Command("sfdisk", "-d", target).CombinedOutput(); err == nil && strings.Contains(string(out), "label: gpt") {
		t.Errorf("the half-written disk has a table: %s", out)
	}
	// What the hint says helps.
	if r := run(t, "store", "repair", "--yes", "--store", "dir:"+place); r.code != 1 || !strings.Contains(r.out, "1 chunks lost") {
		t.Errorf("store repair: exit %d\n%s%s", r.code, r.out, r.err)
	}
	ok(t, new(captured), "capture", disk, "--store", "dir:"+place, "--image", "golden")
	ok(t, new(deployed), "deploy", "golden@1", target, "--store", "dir:"+place, "--force")
}

// TestInterrupt ends a deploy with a signal.
func TestInterrupt(t *testing.T) {
	disk, _ := golden(t, 70)
	work := t.TempDir()
	store := "dir:" + filepath.Join(work, "store")
	cmd := exec.Command(agent, "capture", disk, "--store", store, "--image", "golden", "--workers", "1")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); stored(filepath.Join(work, "store")) == 0 && time.Since(start) < 5*time.Second; {
		time.Sleep(time.Millisecond)
	}
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit %d, want 130\n%s", code, errs.String())
	}
}
