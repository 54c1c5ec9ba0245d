package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/imaging/store/sign"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diskScript makes a disk image as a small installed system has it: GPT, swap, an ext4 with data, an ext4 root last.
const diskScript = `set -e
d=$(mktemp -d); trap 'rm -rf $d' EXIT
mkdir -p $d/root/etc/ssh $d/root/usr/lib $d/root/var/lib/systemd $d/root/bin $d/root/proc $d/root/dev $d/root/run $d/root/sys $d/data
echo golden >$d/root/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 golden\n' >$d/root/etc/hosts
echo 0123456789abcdef0123456789abcdef >$d/root/etc/machine-id
echo ID=test >$d/root/etc/os-release
echo 'UUID=6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9a01 / ext4 defaults 0 1' >$d/root/etc/fstab
ssh-keygen -q -t ed25519 -N '' -C root@golden -f $d/root/etc/ssh/ssh_host_ed25519_key
cp "$(command -v busybox)" $d/root/bin/sh
head -c 3000000 /dev/urandom >$d/root/etc/blob; echo seed >$d/root/var/lib/systemd/random-seed
echo 'ID=decoy' >$d/data/notes; mkdir $d/data/etc; echo ID=decoy >$d/data/etc/os-release
truncate -s 96M "$1"
sgdisk -og -n 1:2048:+8M -t 1:8200 -n 2:0:+16M -n 3:0:0 "$1" >/dev/null
truncate -s 8M $d/swap; mkswap -q $d/swap >/dev/null
dd if=$d/swap of="$1" bs=1M seek=1 conv=notrunc,sparse status=none
mke2fs -q -t ext4 -d $d/data $d/p2 16M; dd if=$d/p2 of="$1" bs=1M seek=9 conv=notrunc,sparse status=none
mke2fs -q -t ext4 -U 6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9a01 -d $d/root $d/p3 70M; dd if=$d/p3 of="$1" bs=1M seek=25 conv=notrunc,sparse status=none
`

// makeDisk makes such a disk image.
func makeDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "n01.img")
	if out, err := exec.Command("sh", "-c", diskScript, "sh", path).CombinedOutput(); err != nil {
		t.Fatalf("make a disk: %v: %s", err, out)
	}
	return path
}

func emptyDisk(t *testing.T, mib int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "n02.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, mib<<20); err != nil {
		t.Fatal(err)
	}
	return path
}

func sum(t *testing.T, path string) [32]byte {
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
	return [32]byte(h.Sum(nil))
}

func captureTask() api.Task {
	return api.Task{Kind: api.TaskCapture, Job: "j1", Node: "n01", Image: "golden", Attrs: map[string]string{"MASTER": "10.0.0.1"},
		Pre:  []api.Postscript{{Name: "pre", Content: []byte("#!/bin/sh\necho $NODE $MASTER $TASK $IMAGE $JOB $DISK_SERIAL; test -n \"$DISK\"\n")}},
		Post: []api.Postscript{{Name: "post", Content: []byte("#!/bin/sh\ntest ${#MANIFEST} = 64 && echo captured\n")}}}
}

func deployTask(id string) api.Task {
	return api.Task{Kind: api.TaskDeploy, Job: "j2", Node: "n02", Image: "golden", Rev: 1, Manifest: id, Hostname: "n02.rack", Compare: true, Force: true,
		Trust: []api.TrustedKey{{Name: "test", Key: sign.Text(testKey.Public().(ed25519.PublicKey))}}}
}

// capture1 captures a disk through the server and returns the manifest's ID.
func capture1(t *testing.T, s *fakeServer, disk string) string {
	t.Helper()
	s.mu.Lock()
	s.tasks = append(s.tasks, captureTask())
	s.mu.Unlock()
	if action, err := Run(t.Context(), s.config(t, disk)); err != nil || action != ActionReboot {
		t.Fatalf("capture: %s, %v", action, err)
	}
	d := s.last(t)
	if !d.OK {
		t.Fatalf("capture failed: %+v", d.Error)
	}
	return d.Manifest
}

func TestCaptureAndDeploy(t *testing.T) {
	quick(t)
	disk := makeDisk(t)
	before := sum(t, disk)
	s := newFakeServer(t)
	id := capture1(t, s, disk)
	d := s.last(t)
	if sum(t, disk) != before {
		t.Error("the capture changed the disk")
	}
	if len(d.Outputs) != 2 || d.Outputs[0].Output != "n01 10.0.0.1 capture golden j1 n01.img\n" || d.Outputs[1].Output != "captured\n" {
		t.Errorf("outputs: %+v", d.Outputs)
	}
	if d.Counts["used"] == 0 || d.Counts["new"] == 0 || d.Disk.Serial != "n01.img" || d.BootID != "boot-1" || d.Job != "j1" || d.PhaseMS[api.PhaseCapturing] == 0 {
		t.Errorf("done: %+v", d)
	}
	if got := s.phases(); !slices.Contains(got, api.PhasePre) || got[len(got)-1] == api.PhaseAgent {
		t.Errorf("phases: %q", got)
	}
	if h := s.hellos[0]; h.Version != api.AgentVersion || h.BootID != "boot-1" || h.Build != "b1" || len(h.Hardware.Disks) != 1 {
		t.Errorf("hello: %+v", h)
	}

	// Onto a larger disk, with a postscript in its root.
	target := emptyDisk(t, 160)
	task := deployTask(id)
	task.Root = []api.Postscript{{Name: "inroot", Content: []byte("#!/bin/sh\nread h </etc/hostname; echo $h $HOSTNAME; echo done >/etc/postscript-was-here; ln -sf ../lib/systemd/systemd /bin/init\n")}}
	task.First = []api.Postscript{{Name: "atboot", Content: []byte("#!/bin/sh\necho up\n")}}
	s.mu.Lock()
	s.tasks = []api.Task{task}
	s.progress = nil
	s.mu.Unlock()
	if action, err := Run(t.Context(), s.config(t, target)); err != nil || action != ActionReboot {
		t.Fatalf("deploy: %s, %v", action, err)
	}
	if d = s.last(t); !d.OK || !d.Touched || d.Counts["written"] == 0 {
		t.Fatalf("deploy: %+v: %+v", d, d.Error)
	}
	if len(d.Outputs) != 1 || d.Outputs[0].Output != "n02.rack n02.rack\n" || d.Outputs[0].Stage != api.PhaseRootPost {
		t.Errorf("outputs: %+v", d.Outputs)
	}
	checkDeployed(t, target)
	said := slices.Clone(d.Log)
	for _, p := range s.progress {
		said = append(said, p.Log...)
	}
	for _, want := range []string{"disk ", "host name n02.rack", "SSH host keys made new", "left for the first boot, by systemd: atboot"} {
		if !slices.ContainsFunc(said, func(line string) bool { return strings.HasPrefix(line, want) }) {
			t.Errorf("the server was not told %q: %q", want, said)
		}
	}

	// Again: nearly nothing is to be written.
	first := d.Counts["written"]
	task.Job = "j3"
	s.mu.Lock()
	s.tasks = []api.Task{task}
	s.mu.Unlock()
	if _, err := Run(t.Context(), s.config(t, target)); err != nil {
		t.Fatal(err)
	}
	if d = s.last(t); !d.OK || d.Counts["written"] > first/2 || d.Counts["skipped"] == 0 {
		t.Errorf("second deploy: %+v, first wrote %d", d.Counts, first)
	}
	checkDeployed(t, target)

	// And again without reading what nobody wrote to since; onto a disk that is another, or of which nothing is known, all is read.
	last := &api.LastDeploy{Image: "golden", Rev: 1, Manifest: id, Disk: d.Disk, Job: "j3"}
	other := *last
	other.Disk.Serial = "another"
	for i, c := range []struct {
		last *api.LastDeploy
		why  string
	}{{last, ""}, {&other, "onto another disk"}, {nil, "reads everything, because of no deploy"}} {
		task.Job, task.Last = fmt.Sprint("j", 4+i), &api.TrustLast{Deploy: c.last}
		s.mu.Lock()
		s.tasks, s.progress = []api.Task{task}, nil
		s.mu.Unlock()
		if _, err := Run(t.Context(), s.config(t, target)); err != nil {
			t.Fatal(err)
		}
		if d = s.last(t); !d.OK || (d.Counts["trusted"] > 0) != (c.why == "") || d.Counts["trusted"]+d.Counts["skipped"] < 5_000_000 {
			t.Errorf("deploy that trusts (%s): %+v: %+v", c.why, d.Counts, d.Error)
		}
		said := slices.Clone(d.Log)
		for _, p := range s.progress {
			said = append(said, p.Log...)
		}
		if text := strings.Join(said, "\n"); !strings.Contains(text, c.why) || strings.Contains(text, "reads everything") != (c.why != "") {
			t.Errorf("want %q, said is:\n%s", c.why, text)
		}
		checkDeployed(t, target)
	}
	if loops, _ := exec.Command("sh", "-c", "grep -l "+filepath.Dir(target)+" /sys/block/loop*/loop/backing_file").Output(); len(loops) > 0 {
		t.Errorf("loop devices are left: %s", loops)
	}
	if m, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(m, []byte("mimeo-target")) {
		t.Error("a mount is left")
	}
}

// checkDeployed asks the system's own tools: the table, the filesystem, its size, what lies in it.
func checkDeployed(t *testing.T, disk string) {
	t.Helper()
	script := `set -e
d=$(mktemp -d); trap 'rm -rf $d' EXIT
sgdisk -v "$1" | grep -q "No problems found" || { sgdisk -v "$1"; exit 1; }
dd if="$1" of=$d/p3 bs=1M skip=25 status=none
e2fsck -fn $d/p3 >$d/fsck 2>&1 || { cat $d/fsck; exit 1; }
for f in etc/hostname etc/hosts etc/machine-id etc/ssh/ssh_host_ed25519_key.pub etc/postscript-was-here; do echo "== $f"; debugfs -R "cat /$f" $d/p3 2>/dev/null; done
echo "== seed"; debugfs -R "stat /var/lib/systemd/random-seed" $d/p3 2>&1 | grep -c Inode || :
echo "== left"; debugfs -R "ls /" $d/p3 2>/dev/null | grep -c mimeo || :
echo "== first"; debugfs -R "ls /etc/mimeo-first" $d/p3 2>/dev/null | grep -o '[0-9]*[.]600[.][a-z]*'; debugfs -R "cat /etc/mimeo-first/env" $d/p3 2>/dev/null | grep -E 'HOST|DISK='
dumpe2fs -h $d/p3 2>/dev/null | grep '^Block count'`
	out, err := exec.Command("sh", "-c", script, "sh", disk).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text := string(out)
	for _, want := range []string{"== etc/hostname\nn02.rack\n", "127.0.1.1\tn02.rack n02\n", " root@n02\n", "== etc/postscript-was-here\ndone\n", "== seed\n0\n", "== left\n0\n", "== first\n001.600.atboot\nexport HOSTNAME='n02.rack'\nBlock count"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "0123456789abcdef0123456789abcdef") {
		t.Error("the machine ID is the captured one")
	}
	_, count, _ := strings.Cut(text, "Block count:")
	var blocks int64
	if n := strings.Fields(count); len(n) > 0 {
		for _, c := range n[0] {
			blocks = blocks*10 + int64(c-'0')
		}
	}
	if size := blocks * 1024; size < 130<<20 && blocks*4096 < 130<<20 {
		t.Errorf("the filesystem did not grow: %d blocks", blocks)
	}
}

func TestWrongDisk(t *testing.T) {
	quick(t)
	disk := makeDisk(t)
	task := captureTask()
	task.Disk = node.DiskRule{Serial: "other"}
	s := newFakeServer(t, task)
	Run(t.Context(), s.config(t, disk))
	if d := s.last(t); d.OK || d.Error == nil || !strings.Contains(d.Error.Message, "n01.img") || d.Error.Hint == "" || d.Touched {
		t.Errorf("%+v: %+v", d, d.Error)
	}
	s.mu.Lock()
	s.tasks = []api.Task{captureTask()}
	s.mu.Unlock()
	Run(t.Context(), s.config(t, disk, emptyDisk(t, 8)))
	if d := s.last(t); d.OK || !strings.Contains(d.Error.Message, "2 disks") {
		t.Errorf("%+v: %+v", d, d.Error)
	}
}

func TestTooSmallIsNotTouched(t *testing.T) {
	quick(t)
	s := newFakeServer(t)
	id := capture1(t, s, makeDisk(t))
	target := emptyDisk(t, 60)
	before := sum(t, target)
	s.mu.Lock()
	s.tasks = []api.Task{deployTask(id)}
	s.mu.Unlock()
	Run(t.Context(), s.config(t, target))
	if d := s.last(t); d.OK || d.Touched || d.Error.Code != "disk_too_small" || !strings.Contains(d.Error.Message, "nothing was written") {
		t.Errorf("%+v: %+v", d, d.Error)
	}
	if sum(t, target) != before {
		t.Error("the disk was written to")
	}
}

func TestAFullDiskNeedsForce(t *testing.T) {
	quick(t)
	s := newFakeServer(t)
	disk := makeDisk(t)
	id := capture1(t, s, disk)
	task := deployTask(id)
	task.Force = false
	s.mu.Lock()
	s.tasks = []api.Task{task}
	s.mu.Unlock()
	before := sum(t, disk)
	Run(t.Context(), s.config(t, disk))
	if d := s.last(t); d.OK || d.Touched || d.Error.Code != "refused" || sum(t, disk) != before {
		t.Errorf("%+v: %+v", d, d.Error)
	}
	s.mu.Lock()
	s.tasks = []api.Task{task}
	s.mu.Unlock()
	Run(t.Context(), s.config(t, emptyDisk(t, 96)))
	if d := s.last(t); !d.OK {
		t.Errorf("onto an empty disk: %+v", d.Error)
	}
}

func TestAFailingPostscriptFailsTheJob(t *testing.T) {
	quick(t)
	task := captureTask()
	task.Pre = []api.Postscript{{Name: "licence", Content: []byte("#!/bin/sh\necho asking; echo no licence left >&2; exit 3\n")}}
	s := newFakeServer(t, task)
	if action, err := Run(t.Context(), s.config(t, makeDisk(t))); err != nil || action != ActionReboot {
		t.Fatal(action, err)
	}
	d := s.last(t)
	if d.OK || d.Error.Code != "postscript" || !strings.Contains(d.Error.Message, "exit status 3: no licence left") || len(d.Outputs) != 1 || d.Outputs[0].Exit != 3 {
		t.Errorf("%+v: %+v", d, d.Error)
	}
	if imgs, _ := s.store.Images(t.Context()); len(imgs) > 0 || d.Manifest != "" {
		t.Errorf("%v, manifest %q", imgs, d.Manifest)
	}
}

// Cancelled in the middle of a capture, and, with the disk unharmed, before a deploy's first write.
func TestCancel(t *testing.T) {
	quick(t)
	disk := makeDisk(t)
	s := newFakeServer(t)
	id := capture1(t, s, disk)

	slow := captureTask()
	slow.Pre = []api.Postscript{{Name: "slow", Content: []byte("#!/bin/sh\nsleep 60\n")}}
	s.mu.Lock()
	s.tasks, s.cancelAt = []api.Task{slow}, api.PhasePre
	s.mu.Unlock()
	began := time.Now()
	Run(t.Context(), s.config(t, disk))
	if d := s.last(t); d.OK || !d.Cancelled || time.Since(began) > 30*time.Second {
		t.Errorf("%+v after %v", d, time.Since(began))
	}

	target := emptyDisk(t, 120)
	before := sum(t, target)
	task := deployTask(id)
	task.Pre = slow.Pre
	s.mu.Lock()
	s.tasks = []api.Task{task}
	s.mu.Unlock()
	Run(t.Context(), s.config(t, target))
	if d := s.last(t); d.OK || !d.Cancelled || d.Touched || sum(t, target) != before {
		t.Errorf("%+v", d)
	}

	// When the server hears that the writing is to begin: nothing was written.
	task.Pre = nil
	s.mu.Lock()
	s.tasks, s.cancelAt = []api.Task{task}, api.PhaseWriting
	s.mu.Unlock()
	Run(t.Context(), s.config(t, target))
	if d := s.last(t); d.OK || !d.Cancelled || d.Touched || sum(t, target) != before {
		t.Errorf("%+v: %+v", d, d.Error)
	}

	// In the middle of the writing: it stops, and says that the disk was touched.
	s.mu.Lock()
	s.tasks, s.letPass = []api.Task{task}, 1
	s.storeHook = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/get") {
			time.Sleep(200 * time.Millisecond)
		}
		return false
	}
	s.mu.Unlock()
	Run(t.Context(), s.config(t, target))
	if d := s.last(t); d.OK || !d.Cancelled || !d.Touched {
		t.Errorf("%+v: %+v", d, d.Error)
	}
}

// The last word is lost, refused for a while, and answered with "wait": it is repeated until there is an answer.
func TestDoneIsRepeated(t *testing.T) {
	quick(t)
	s := newFakeServer(t, captureTask())
	s.answer = func(n int) (api.DoneReply, int) {
		switch {
		case n < 3:
			return api.DoneReply{}, http.StatusInternalServerError
		case n < 5:
			return api.DoneReply{Action: "wait", RetryMS: 10}, 200
		}
		return api.DoneReply{Action: "poweroff"}, 200
	}
	action, err := Run(t.Context(), s.config(t, makeDisk(t)))
	if err != nil || action != ActionPowerOff {
		t.Errorf("%s, %v", action, err)
	}
	if len(s.done) != 5 {
		t.Errorf("said %d times", len(s.done))
	}
	for _, d := range s.done {
		if d.Manifest != s.done[0].Manifest || !d.OK {
			t.Errorf("not the same: %+v", d)
		}
	}
}

// The server goes away in the middle of a capture and comes back.
func TestServerAway(t *testing.T) {
	quick(t)
	s := newFakeServer(t, captureTask())
	var until time.Time
	s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "/chunks") && until.IsZero() {
			until = time.Now().Add(1500 * time.Millisecond)
		}
		if time.Now().Before(until) {
			hj, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				hj.Close()
			}
			return true
		}
		return false
	}
	if action, err := Run(t.Context(), s.config(t, makeDisk(t))); err != nil || action != ActionReboot {
		t.Fatal(action, err)
	}
	if d := s.last(t); !d.OK {
		t.Errorf("%+v", d.Error)
	}
}

// A server that does not know the job any more stops it: the disk must not be written to for nobody.
func TestJobIsGone(t *testing.T) {
	quick(t)
	task := captureTask()
	task.Pre = []api.Postscript{{Name: "slow", Content: []byte("#!/bin/sh\nsleep 60\n")}}
	s := newFakeServer(t, task)
	s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == api.PathProgress || r.URL.Path == api.PathDone {
			http.Error(w, `{"code":"denied","message":"this token is not good any more"}`, http.StatusForbidden)
			return true
		}
		return false
	}
	began := time.Now()
	action, err := Run(t.Context(), s.config(t, makeDisk(t)))
	if err != nil || action != ActionReboot || time.Since(began) > 30*time.Second {
		t.Errorf("%s, %v after %v", action, err, time.Since(began))
	}
}

func TestTokenIsRefused(t *testing.T) {
	quick(t)
	s := newFakeServer(t)
	c := s.config(t, emptyDisk(t, 1))
	c.Token = "old"
	began := time.Now()
	if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no such token") || time.Since(began) < deniedFor {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	c.Own = true // in the stateless image a new boot brings a new token
	if action, err := Run(t.Context(), c); err != nil || action != ActionReboot {
		t.Errorf("%s, %v", action, err)
	}
}

func TestPinIsChecked(t *testing.T) {
	quick(t)
	s := newFakeServer(t, captureTask())
	c := s.config(t, emptyDisk(t, 1))
	c.Pin = strings.Repeat("00", 32)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if len(s.hellos) > 0 {
		t.Error("a server with another key was trusted with the token")
	}
	for _, bad := range []Config{{Server: "http://x", Pin: c.Pin, Token: "t"}, {Server: "https://x", Pin: "ab", Token: "t"}, {Server: "https://x", Pin: c.Pin}} {
		if _, err := Run(t.Context(), bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

// Waiting, an unknown kind, a shell where none can be offered, then the word to reboot.
func TestTasksInBetween(t *testing.T) {
	quick(t)
	st := api.Task{Kind: api.TaskStateless, Node: "n01", Pre: []api.Postscript{{Name: "once", Content: []byte("#!/bin/sh\necho ran\n")}}}
	s := newFakeServer(t, api.Task{Kind: api.TaskNone, RetryMS: 1}, api.Task{Kind: "dance"}, api.Task{Kind: api.TaskShell}, st, st)
	if action, err := Run(t.Context(), s.config(t, emptyDisk(t, 1))); err != nil || action != ActionReboot {
		t.Errorf("%s, %v", action, err)
	}
	if len(s.hellos) != 6 || len(s.done) != 0 {
		t.Errorf("%d hellos, %d done", len(s.hellos), len(s.done))
	}
	ran := 0
	for _, p := range s.progress {
		ran += len(p.Outputs)
	}
	if ran > 1 {
		t.Errorf("the postscript ran %d times", ran)
	}
}

// A chunk that is damaged ends the deploy, and the disk has no partition table.
func TestDamagedChunk(t *testing.T) {
	quick(t)
	s := newFakeServer(t)
	id := capture1(t, s, makeDisk(t))
	target := emptyDisk(t, 120)
	s.mu.Lock()
	s.tasks = []api.Task{deployTask(id)}
	good := httpstore.Handler(s.store, httpstore.Limits{})
	s.storeHook = func(w http.ResponseWriter, r *http.Request) bool {
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		if strings.HasSuffix(r.URL.Path, "/get") && len(b) > 64<<10 { // chunks, not the manifest's segments
			b[len(b)/2] ^= 1
		}
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		w.Write(b)
		return true
	}
	s.mu.Unlock()
	Run(t.Context(), s.config(t, target))
	if d := s.last(t); d.OK || !d.Touched || d.Error.Code != "store_damaged" || d.Error.Hint == "" || !strings.Contains(d.Error.Message, "no partition table") {
		t.Errorf("%+v: %+v", d, d.Error)
	}
	if out, _ := exec.Command("sgdisk", "-p", target).CombinedOutput(); !strings.Contains(string(out), "Creating new GPT entries") {
		t.Errorf("the disk has a partition table: %s", out)
	}
}
