package lab

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/stateless"
	"mimeo/internal/night"
	"mimeo/lab/rack"
	"mimeo/lab/sim"
)

// faultLab is a rack with real servers and agents, whose nodes are processes: n01 has a disk, n02 an empty one.
type faultLab struct {
	*rack.Rack
	t      *testing.T
	ctx    context.Context
	n1, n2 *sim.Node
}

// quick makes mimeod give up within seconds, so that a test of giving up takes seconds.
const quick = `
limits:
  netboot: 4s
  agent_silence: 5s
  reboot: 20s
  power: 10s
`

func newFaultLab(t *testing.T, args ...string) *faultLab {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	t.Cleanup(cancel)
	config := filepath.Join(t.TempDir(), "mimeod.yaml")
	if err := os.WriteFile(config, []byte(quick), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &faultLab{t: t, ctx: ctx, Rack: newRack(t, ctx)}
	fakeStateless(t, l.State)
	startServer(t, ctx, l.Rack, append([]string{"--config", config}, args...)...)
	l.n1 = l.node("n01", 1, sourceDisk(t))
	empty := filepath.Join(l.Dir, "n02.img")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(empty, 1200<<20); err != nil {
		t.Fatal(err)
	}
	l.n2 = l.node("n02", 2, empty)
	return l
}

func (l *faultLab) node(name string, i int, disk string) *sim.Node {
	n := &sim.Node{Name: name, MAC: fmt.Sprintf("52:54:00:77:01:%02d", i), IP: fmt.Sprintf("10.77.0.%d", 20+i), Disks: []string{disk},
		Agent: filepath.Join(programs, "mimeo-agent"), Log: filepath.Join(l.Dir, name+".log")}
	if err := sim.New(l.ctx, l.Net, n); err != nil {
		l.t.Fatal(err)
	}
	bmc, err := l.AddBMC(l.ctx, n)
	if err != nil {
		l.t.Fatal(err)
	}
	mimeo(l.t, l.ctx, l.Rack, "node", "add", name, "--mac", n.MAC, "--ip", n.IP, "--bmc", "redfish+http://"+bmc+":8000", "--user", rack.BMCUser,
		"--set", "bmc.password="+rack.BMCPassword, "--arch", "amd64", "--set", "firmware=bios")
	l.t.Cleanup(func() { n.PowerOff() })
	return n
}

// sourceMu is held while the disk is made.
var sourceMu sync.Mutex

// sourceDisk makes a disk with some hundred MB that do not compress, so that a capture takes seconds.
func sourceDisk(t *testing.T) string {
	t.Helper()
	sourceMu.Lock()
	defer sourceMu.Unlock()
	kept := filepath.Join(cacheDir(t), "faults-source.img")
	if _, err := os.Stat(kept); err != nil {
		script := `set -e; d=$(mktemp -d); mkdir $d/tree
i=0; while [ $i -lt 40 ]; do head -c 10000000 /dev/urandom >$d/tree/$i; i=$((i+1)); done
cp -a /usr/share/perl $d/tree/
truncate -s 900M $d/disk; sgdisk -og -n 1:1M:+64M -t 1:8200 -n 2:65M:0 $d/disk >/dev/null
mke2fs -q -t ext4 -d $d/tree $d/fs 830M; dd if=$d/fs of=$d/disk bs=1M seek=65 conv=notrunc,sparse status=none
truncate -s 64M $d/swap; mkswap -q $d/swap >/dev/null; dd if=$d/swap of=$d/disk bs=1M seek=1 conv=notrunc,sparse status=none
mv $d/disk "$1"; rm -r $d`
		if out, err := exec.Command("sh", "-c", script, "sh", kept).CombinedOutput(); err != nil {
			t.Fatalf("make the source disk: %v: %s", err, out)
		}
	}
	disk := filepath.Join(t.TempDir(), "n01.img")
	copySparse(t, kept, disk)
	return disk
}

// start begins a job and returns its ID.
func (l *faultLab) start(args ...string) string {
	l.t.Helper()
	var jobs []api.Job
	if err := json.Unmarshal([]byte(mimeo(l.t, l.ctx, l.Rack, append(args, "--json")...)), &jobs); err != nil {
		l.t.Fatal(err)
	}
	return jobs[0].ID
}

func (l *faultLab) job(id string) (j api.Job) {
	out, err := l.Run(l.ctx, "job", "show", id, "--json")
	if err != nil {
		return api.Job{ID: id, Active: true} // the server may be down just now
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		l.t.Fatal(err)
	}
	return j
}

// until waits for a job to come to a state.
func (l *faultLab) until(id string, what string, ok func(api.Job) bool) api.Job {
	l.t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		j := l.job(id)
		if ok(j) {
			return j
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(filepath.Join(l.Dir, string(j.Node)+".log"))
			l.t.Fatalf("job %s did not come to %q in 2 minutes: %+v; the node's log ends with:\n%s", id, what, j, rack.Tail(b, 30))
		}
	}
}

func ended(j api.Job) bool { return !j.Active }

func capturing(j api.Job) bool { return j.Phase == api.PhaseCapturing || !j.Active }

func writing(j api.Job) bool { return j.Phase == api.PhaseWriting || !j.Active }

// done waits for a job to end well, and checks that the node is left as every job must leave it.
func (l *faultLab) done(id string) api.Job {
	l.t.Helper()
	j := l.until(id, "end", ended)
	if j.Phase != api.PhaseDone {
		l.t.Fatalf("job ended %s: %+v", j.Phase, j.Error)
	}
	l.bootsDisk(j.Node)
	return j
}

// failed waits for a job to fail, with an error that names every word.
func (l *faultLab) failed(id string, words ...string) api.Job {
	l.t.Helper()
	j := l.until(id, "end", ended)
	if j.Phase != api.PhaseFailed {
		l.t.Fatalf("job ended %s, should have failed: %+v", j.Phase, j)
	}
	text := j.Error.Message + " " + j.Error.Hint
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			l.t.Errorf("the error does not say %q: %s", w, text)
		}
	}
	l.t.Logf("failed as it should: %s (hint: %s)", j.Error.Message, j.Error.Hint)
	l.bootsDisk(j.Node)
	return j
}

func (l *faultLab) bootsDisk(name node.Name) {
	l.t.Helper()
	var nodes []api.NodeStatus
	if err := json.Unmarshal([]byte(mimeo(l.t, l.ctx, l.Rack, "node", "list", string(name), "--json")), &nodes); err != nil {
		l.t.Fatal(err)
	}
	if nodes[0].Boot != node.BootDisk {
		l.t.Errorf("%s is left with boot state %s", name, nodes[0].Boot)
	}
}

// revisions lists what is published of an image.
func (l *faultLab) revisions(image string) []api.Revision {
	l.t.Helper()
	var images []api.Image
	if err := json.Unmarshal([]byte(mimeo(l.t, l.ctx, l.Rack, "image", "list", "--json")), &images); err != nil {
		l.t.Fatal(err)
	}
	for _, im := range images {
		if im.Name == image {
			return im.Revisions
		}
	}
	return nil
}

// whole checks that an image has n revisions, and reads them all back.
func (l *faultLab) whole(image string, n int) {
	l.t.Helper()
	revs := l.revisions(image)
	if len(revs) != n {
		l.t.Errorf("%s has %d revisions, want %d", image, len(revs), n)
	}
	for _, r := range revs {
		mimeo(l.t, l.ctx, l.Rack, "image", "verify", fmt.Sprintf("%s@%d", r.Image, r.Rev))
	}
}

// sameUsed checks that every used extent of n01's disk is on n02's.
func (l *faultLab) sameUsed() {
	l.t.Helper()
	for _, v := range mapDisk(l.t, l.n1.Disks[0]).Volumes {
		if differ, total := sameBytes(l.t, l.n1.Disks[0], l.n2.Disks[0], v.Used); differ > 0 || total == 0 {
			l.t.Errorf("partition %d: %d of %d used bytes differ", v.Partition, differ, total)
		}
	}
}

func fileHash(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestAgentKilled(t *testing.T) {
	t.Parallel()
	l := newFaultLab(t)
	disk := fileHash(t, l.n1.Disks[0])
	for i := range 5 {
		// Each capture goes into an image of its own and, but for the first, finds its chunks: a disk that was changed
		// in between keeps it busy.
		id := l.start("capture", "n01", "--image", fmt.Sprintf("kill%d", i), "--tries", "4")
		l.until(id, "capturing", capturing)
		wait := time.Duration(rand.IntN(1200)) * time.Millisecond
		time.Sleep(wait)
		if revs := l.revisions(fmt.Sprintf("kill%d", i)); len(revs) > 0 && l.job(id).Active && l.job(id).Phase == api.PhaseCapturing {
			t.Error("a revision can be seen before its capture ended")
		}
		killed := l.n1.KillAgent()
		j := l.done(id)
		t.Logf("killed %v at %s into capturing: %v; done after %d netboots", i, wait, killed, j.Try)
		l.whole(fmt.Sprintf("kill%d", i), 1)
	}
	if fileHash(t, l.n1.Disks[0]) != disk {
		t.Error("the captured disk was changed")
	}
	for i := range 3 {
		if err := os.Truncate(l.n2.Disks[0], 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(l.n2.Disks[0], 1200<<20); err != nil {
			t.Fatal(err)
		}
		id := l.start("deploy", "n02", "--image", "kill0", "--grow", "none", "--tries", "4")
		l.until(id, "writing", writing)
		time.Sleep(time.Duration(rand.IntN(900)) * time.Millisecond)
		killed := l.n2.KillAgent()
		j := l.done(id)
		t.Logf("deploy %d: killed %v; done after %d netboots", i, killed, j.Try)
		l.sameUsed()
	}
}

func TestServerKilled(t *testing.T) {
	t.Parallel()
	l := newFaultLab(t)
	for i := range 5 {
		image := fmt.Sprintf("crash%d", i)
		id := l.start("capture", "n01", "--image", image)
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Millisecond)
		phase := l.job(id).Phase
		if err := l.StopServer(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		if err := l.StartServerAgain(l.ctx); err != nil {
			t.Fatal(err)
		}
		j := l.done(id)
		t.Logf("mimeod killed in %s; job done after %d netboots", phase, j.Try)
		l.whole(image, 1)
	}
	id := l.start("deploy", "n02", "--image", "crash0", "--grow", "none")
	l.until(id, "writing", writing)
	if err := l.StopServer(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := l.StartServerAgain(l.ctx); err != nil {
		t.Fatal(err)
	}
	l.done(id)
	l.sameUsed()
}

func TestNetworkCut(t *testing.T) {
	t.Parallel()
	l := newFaultLab(t)
	id := l.start("capture", "n01", "--image", "cut")
	l.until(id, "capturing", capturing)
	// Agent and server share the namespace's loopback: without it neither hears the other, nor do BMC and server.
	if err := l.Net.Loopback(l.ctx, false); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Second)
	if err := l.Net.Loopback(l.ctx, true); err != nil {
		t.Fatal(err)
	}
	j := l.done(id)
	t.Logf("done after %d netboots", j.Try)
	l.whole("cut", 1)
}

func TestStoreFull(t *testing.T) {
	night.Only(t)
	t.Parallel()
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(small, syscall.MNT_DETACH)
	l := newFaultLab(t, "--store", "dir:"+filepath.Join(small, "store"))
	l.failed(l.start("capture", "n01", "--image", "full"), "full")
	if revs := l.revisions("full"); len(revs) != 0 {
		t.Errorf("a half revision can be seen: %+v", revs)
	}
	// With room again the same job succeeds.
	if err := syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, "size=2g"); err != nil {
		t.Fatal(err)
	}
	l.done(l.start("capture", "n01", "--image", "full"))
	l.whole("full", 1)
}

func TestNodeNeverNetboots(t *testing.T) {
	t.Parallel()
	l := newFaultLab(t)
	l.n1.Dead = true
	j := l.failed(l.start("capture", "n01", "--image", "never", "--tries", "2"), "netboot")
	if j.Try != 2 {
		t.Errorf("gave up after %d tries, want 2", j.Try)
	}
}

func TestWrongDiskRule(t *testing.T) {
	t.Parallel()
	l := newFaultLab(t)
	mimeo(t, l.ctx, l.Rack, "node", "set", "n02", "disk.serial=NOT-HERE")
	l.done(l.start("capture", "n01", "--image", "rule"))
	before := fileHash(t, l.n2.Disks[0])
	j := l.failed(l.start("deploy", "n02", "--image", "rule"), "disk", "NOT-HERE")
	if j.Touched || fileHash(t, l.n2.Disks[0]) != before {
		t.Error("a disk that the rule does not name was written to")
	}
}

func TestSmallerDisk(t *testing.T) {
	night.Only(t)
	t.Parallel()
	l := newFaultLab(t)
	l.done(l.start("capture", "n01", "--image", "small"))
	if err := os.Truncate(l.n2.Disks[0], 800<<20); err != nil {
		t.Fatal(err)
	}
	before := fileHash(t, l.n2.Disks[0])
	j := l.failed(l.start("deploy", "n02", "--image", "small"), "small")
	if j.Touched || fileHash(t, l.n2.Disks[0]) != before {
		t.Error("a disk that is too small was written to")
	}
}

func TestDamagedChunk(t *testing.T) {
	t.Parallel()
	l := newFaultLab(t)
	l.done(l.start("capture", "n01", "--image", "hurt"))
	packs, _ := filepath.Glob(filepath.Join(l.State, "store/packs/*"))
	var largest string
	var size int64
	for _, p := range packs {
		if fi, err := os.Stat(p); err == nil && fi.Size() > size {
			largest, size = p, fi.Size()
		}
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("no pack to damage in %v: %v", packs, err)
	}
	b := make([]byte, 16)
	if _, err := f.ReadAt(b, size/2); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x55
	}
	if _, err := f.WriteAt(b, size/2); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l.failed(l.start("deploy", "n02", "--image", "hurt"), "chunk", "image verify")
	// A disk that was written in part must not boot.
	if out, err := exec.Command("sgdisk", "-p", l.n2.Disks[0]).CombinedOutput(); err == nil && strings.Contains(string(out), "8300") {
		t.Errorf("the half-written disk has a partition table:\n%s", out)
	}
	if out, err := l.Run(l.ctx, "image", "verify", "hurt@1"); err == nil {
		t.Errorf("verify did not find the damage: %s", out)
	} else {
		t.Log(err)
	}
	// Another capture brings the chunk back, and the old revision with it.
	l.done(l.start("capture", "n01", "--image", "hurt"))
	l.whole("hurt", 2)
	l.done(l.start("deploy", "n02", "--image", "hurt@1", "--grow", "none"))
	l.sameUsed()
}

// fakeStateless puts a record where a stateless image would be: these nodes boot none, but a job asks for one.
func fakeStateless(t *testing.T, state string) {
	t.Helper()
	build := strings.Repeat("0f", 16)
	dir := filepath.Join(state, "stateless", "imaging", "amd64", build)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]api.StatelessFile{}
	for _, name := range stateless.Files {
		sum := sha256.Sum256([]byte(name))
		files[name] = api.StatelessFile{Size: int64(len(name)), SHA256: fmt.Sprintf("%x", sum)}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(stateless.Stateless{Version: stateless.RecordVersion, Profile: "imaging", Arch: node.AMD64, Build: build, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "record.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(build, filepath.Join(filepath.Dir(dir), "current")); err != nil {
		t.Fatal(err)
	}
}
