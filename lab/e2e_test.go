package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
	"mimeo/lab/golden"
	"mimeo/lab/rack"
	"mimeo/lab/tree"
)

// programs is the folder of mimeod, mimeo and mimeo-agent, built once for all tests of the lab.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "mimeo-lab-bin-")
	if err == nil {
		programs = dir
		var out []byte
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir, "mimeo/cmd/mimeod", "mimeo/cmd/mimeo", "mimeo/cmd/mimeo-agent") // compiled by setup already
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// cacheDir keeps what takes long to make between runs: Debian packages and the golden root tree.
func cacheDir(t testing.TB) string {
	dir, err := filepath.Abs("../build/out/cache")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "packages"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newRack(t testing.TB, ctx context.Context) *rack.Rack {
	t.Helper()
	r, err := rack.New(ctx, fmt.Sprintf("mlab-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6), t.TempDir(), programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close the rack: %v", err)
		}
		if t.Failed() {
			for _, f := range []string{"mimeod.log", "n01.log", "n02.log"} {
				if b, err := os.ReadFile(filepath.Join(r.Dir, f)); err == nil {
					t.Logf("%s ends with:\n%s", f, rack.Tail(b, 60))
				}
			}
		}
	})
	if err := os.MkdirAll(r.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(cacheDir(t), "packages"), filepath.Join(r.State, "cache")); err != nil {
		t.Fatal(err)
	}
	return r
}

// startServer starts mimeod in the rack.
func startServer(t testing.TB, ctx context.Context, r *rack.Rack, args ...string) {
	t.Helper()
	if err := r.StartServer(ctx, args...); err != nil {
		t.Fatal(err)
	}
}

// mimeo calls the command line and fails the test where it fails.
func mimeo(t testing.TB, ctx context.Context, r *rack.Rack, args ...string) string {
	t.Helper()
	out, err := r.Run(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func copySparse(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// diskMap is what mimeo-agent map --json prints, so far as the test reads it (docs/formats/map-json.md).
type diskMap struct {
	Table   manifest.Table `json:"table"`
	Volumes []struct {
		Partition int        `json:"partition"`
		Off       int64      `json:"off"`
		Len       int64      `json:"len"`
		Type      string     `json:"type"`
		Used      [][2]int64 `json:"used"`
	} `json:"volumes"`
}

func mapDisk(t *testing.T, disk string) (m diskMap) {
	t.Helper()
	out, err := exec.Command(filepath.Join(programs, "mimeo-agent"), "map", disk, "--json").Output()
	if err != nil {
		t.Fatalf("map %s: %v", disk, err)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// sameBytes compares ranges of two disks and returns how many bytes differ, in blocks of 4 KiB.
func sameBytes(t *testing.T, a, b string, extents [][2]int64) (differ, total int64) {
	t.Helper()
	fa, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer fb.Close()
	ba, bb := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, e := range extents {
		for off, end := e[0], e[0]+e[1]; off < end; {
			n := min(int64(len(ba)), end-off)
			if _, err := fa.ReadAt(ba[:n], off); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if _, err := fb.ReadAt(bb[:n], off); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			for i := int64(0); i < n; i += 4096 {
				j := min(i+4096, n)
				if !bytes.Equal(ba[i:j], bb[i:j]) {
					differ += j - i
				}
			}
			total += n
			off += n
		}
	}
	return differ, total
}

// mount mounts a range of a disk image read-only and returns where.
func mount(t *testing.T, disk string, off, length int64) string {
	t.Helper()
	out, err := exec.Command("losetup", "-f", "--show", "-r", "-o", fmt.Sprint(off), "--sizelimit", fmt.Sprint(length), disk).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	dir := t.TempDir()
	if err := syscall.Mount(loop, dir, "ext4", syscall.MS_RDONLY, "noload"); err != nil {
		exec.Command("losetup", "-d", loop).Run()
		t.Fatalf("mount %s: %v", loop, err)
	}
	t.Cleanup(func() {
		syscall.Unmount(dir, 0)
		exec.Command("losetup", "-d", loop).Run()
	})
	return dir
}

func fsck(t *testing.T, disk string, off int64) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", disk, off)).CombinedOutput(); err != nil {
		t.Errorf("e2fsck of %s at %d: %v\n%s", filepath.Base(disk), off, err, out)
	}
}

// identity are the files of the root filesystem that a deploy makes the node's own.
var identity = regexp.MustCompile(`^(etc/mimeo-deployed|etc/hostname|etc/hosts|etc/machine-id|var/lib/dbus/machine-id|etc/ssh/ssh_host_.*|etc/mimeo-first.*|etc/systemd/system.*|var/lib/systemd/random-seed|etc|etc/ssh|var/lib/dbus|var/lib/systemd|lost\+found|\.):`)

func TestCaptureDeploy(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	r := newRack(t, ctx)
	cache := cacheDir(t)
	buildImages(t, ctx, r, "imaging")
	postscripts(t, r, `echo "hello from $NODE, job $JOB, image $IMAGE, of $MASTER"`)
	// A virtual machine that hangs in its firmware or kernel, which emulated ones do at times, is started anew soon.
	config := filepath.Join(r.Dir, "mimeod.yaml")
	if err := os.WriteFile(config, []byte("limits:\n  netboot: 90s\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	startServer(t, ctx, r, "--config", config)

	disk1, disk2 := filepath.Join(r.Dir, "n01.img"), filepath.Join(r.Dir, "n02.img")
	if err := golden.Make(ctx, disk1, golden.Config{Cache: cache, SizeMiB: 2560, Log: func(s string) { t.Log(s) }}); err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(r.Dir, "n01-captured.img")
	copySparse(t, disk1, before)
	// n02's disk is larger, and full of what must not be taken for the image.
	if out, err := exec.Command("sh", "-c", `truncate -s 4G "$1"; sgdisk -og -n 1:1M:+1G -n 2:0:0 "$1" >/dev/null; head -c 300M /dev/urandom | dd of="$1" bs=1M seek=2 conv=notrunc status=none`, "sh", disk2).CombinedOutput(); err != nil {
		t.Fatalf("prepare n02's disk: %v: %s", err, out)
	}
	n1, bmc1, err := r.AddNode(ctx, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:00:01", Disk: disk1, Serial: "GOLDEN-1"})
	if err != nil {
		t.Fatal(err)
	}
	// Without a reboot of its own the test can look at n02's disk between the deploy and its first boot.
	n2, bmc2, err := r.AddNode(ctx, rack.NodeConfig{Name: "n02", MAC: "52:54:00:77:00:02", Disk: disk2, Serial: "TARGET-2", NoReboot: true})
	if err != nil {
		t.Fatal(err)
	}
	mimeo(t, ctx, r, "node", "add", "n01", "--mac", n1.MAC, "--ip", "10.77.0.11", "--bmc", "ipmi://"+bmc1, "--user", rack.BMCUser, "--set", "bmc.password="+rack.BMCPassword, "--set", "knobs.console=ttyS0,115200")
	mimeo(t, ctx, r, "node", "add", "n02", "--mac", n2.MAC, "--bmc", "redfish+http://"+bmc2+":8000", "--user", rack.BMCUser, "--set", "bmc.password="+rack.BMCPassword, "--set", "knobs.console=ttyS0,115200", "--set", "knobs.loader=own")

	// Postscripts of all nodes, of the image in captures alone, of the image, and of a node, which does without one that is not there.
	for _, name := range []string{"everywhere", "captured", "stamped", "mine"} {
		if err := os.WriteFile(filepath.Join(r.State, "nfs/postscripts", name), []byte("#!/bin/sh\necho $TASK "+name+" on $NODE\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mimeo(t, ctx, r, "group", "set", "all", "label.postscripts.root=everywhere,missing", "--yes")
	mimeo(t, ctx, r, "image", "set", "debian12", "postscripts.post.capture=captured", "postscripts.root=stamped")
	mimeo(t, ctx, r, "node", "set", "n02", "label.postscripts.root=-missing,mine")
	ran := func(job string) (names []string) {
		var j api.Job
		if err := json.Unmarshal([]byte(mimeo(t, ctx, r, "job", "show", job, "--json")), &j); err != nil {
			t.Fatal(err)
		}
		for _, o := range j.Outputs {
			if o.Exit != 0 || !strings.Contains(o.Output, "n0") && o.Name != "mark" {
				t.Errorf("%s: postscript %+v", job, o)
			}
			names = append(names, string(o.Stage)+" "+o.Name)
		}
		return names
	}

	t.Log(mimeo(t, ctx, r, "capture", "n01", "--image", "debian12", "--watch"))
	if got, want := ran("j1"), []string{"pre-postscripts hello", "post-postscripts captured"}; !slices.Equal(got, want) {
		t.Errorf("the capture ran %q, want %q", got, want)
	}
	if _, err := n1.WaitConsole(ctx, 0, golden.Marker+` node=golden root=/dev/vda5`); err != nil {
		t.Fatalf("n01 does not boot its disk after the capture: %v", err)
	}

	var deploy []api.Job
	if err := json.Unmarshal([]byte(mimeo(t, ctx, r, "deploy", "n02", "--image", "debian12", "--json")), &deploy); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(12 * time.Minute); ; time.Sleep(time.Second) {
		var j api.Job
		if err := json.Unmarshal([]byte(mimeo(t, ctx, r, "job", "show", deploy[0].ID, "--json")), &j); err != nil {
			t.Fatal(err)
		}
		if !j.Active || j.Phase == api.PhaseRebooting && !n2.Power() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("n02 did not end its deploy within 12 minutes")
		}
	}
	after := filepath.Join(r.Dir, "n02-deployed.img")
	copySparse(t, disk2, after)
	if err := n2.PowerOn(); err != nil {
		t.Fatal(err)
	}
	t.Log(mimeo(t, ctx, r, "job", "watch", deploy[0].ID))
	mark, err := n2.WaitConsole(ctx, 0, golden.Marker+` node=n02 root=/dev/vda5 id=[0-9a-f]{32} size=\d+`)
	if err != nil {
		t.Fatalf("n02 does not boot its disk after the deploy: %v", err)
	}
	t.Log(mark)
	if got, want := ran(deploy[0].ID), []string{"pre-postscripts hello", "root-postscripts mark", "root-postscripts everywhere", "root-postscripts stamped", "root-postscripts mine"}; !slices.Equal(got, want) {
		t.Errorf("the deploy ran %q, want %q", got, want)
	}
	if _, err := n2.WaitConsole(ctx, 0, `MIMEO-LAB-FIRST n02 debian12@1 active`); err != nil {
		t.Errorf("the first boot of n02 did not run what was left for it: %v", err)
	}

	compareDisks(t, before, after)
	rootFS := mount(t, after, golden.RootOff, 4<<30-golden.RootOff-1<<20)
	if b, err := os.ReadFile(filepath.Join(rootFS, "etc/mimeo-deployed")); err != nil || string(b) != "n02 debian12@1\n" {
		t.Errorf("the root postscript left %q, %v", b, err)
	}

	// The chain of events is the one that the design tells.
	events := mimeo(t, ctx, r, "node", "events", "n02")
	for _, kind := range []string{"dhcp-", "undionly.kpxe by TFTP", "script", "kernel", "initrd", "rootimg", "agent", "told-disk"} {
		if !strings.Contains(events, kind) {
			t.Errorf("n02's events lack %q:\n%s", kind, events)
		}
	}
	mimeo(t, ctx, r, "image", "verify", "debian12@1")
	if got := mimeo(t, ctx, r, "image", "cat", "debian12", "/etc/os-release"); !strings.Contains(got, "ID=debian") {
		t.Errorf("the image's /etc/os-release: %s", got)
	}
	if got := mimeo(t, ctx, r, "image", "files", "debian12@1", "/etc/hostname"); !strings.Contains(got, "/etc/hostname") {
		t.Errorf("the image's /etc/hostname: %s", got)
	}
	if show := mimeo(t, ctx, r, "job", "show", "j1"); !strings.Contains(show, "hello from n01, job j1, image debian12, of 10.77.0.1") {
		t.Errorf("the postscript's output is not shown:\n%s", show)
	}

	// A postscript that fails fails the job, with its output, before the disk is read; the node boots its disk again.
	postscripts(t, r, "echo the scratch filer is down; exit 7")
	from := n1.ConsoleSize()
	out, err := r.Run(ctx, "capture", "n01", "--image", "debian12", "--watch")
	if err == nil || !strings.Contains(err.Error(), "the scratch filer is down") || !strings.Contains(err.Error(), "7") {
		t.Errorf("a postscript failed, and the capture ended with %v\n%s", err, out)
	}
	if list := mimeo(t, ctx, r, "image", "list"); strings.Contains(list, "debian12@2") {
		t.Errorf("a revision was made all the same:\n%s", list)
	}
	if _, err := n1.WaitConsole(ctx, from, golden.Marker+` node=golden`); err != nil {
		t.Errorf("n01 does not boot its disk after the failure: %v", err)
	}
	rescueShell(t, ctx, r, n1)
}

// postscripts sets what the imaging profile runs before a task, by NFS from the management node, and in a deployed root.
func postscripts(t *testing.T, r *rack.Rack, hello string) {
	t.Helper()
	write := func(name, text string, mode os.FileMode) {
		file := filepath.Join(r.State, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("nfs/postscripts/hello.sh", "#!/bin/sh\n"+hello+"\n", 0o755)
	write("profiles/imaging.yaml", `extends: imaging
postscripts:
  pre:
    - {name: hello, path: /mnt/postscripts/hello.sh}
  root:
    - name: mark
      content: |
        #!/bin/sh
        echo "$NODE $IMAGE@$REV" >/etc/mimeo-deployed
  first:
    - name: up
      content: |
        #!/bin/sh
        echo "<1>MIMEO-LAB-FIRST $NODE $IMAGE@$REV $(systemctl is-active network-online.target)" >/dev/kmsg
`, 0o644)
}

// rescueShell boots a node into a shell, signs in by SSH, and sends it back to its disk.
func rescueShell(t *testing.T, ctx context.Context, r *rack.Rack, n *rack.Node) {
	t.Helper()
	key := filepath.Join(r.Dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	mimeo(t, ctx, r, "boot", "n01", "shell", "--cycle", "--ssh-key", key+".pub")
	var out []byte
	var err error
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Second) {
		out, err = r.Net.Command(ctx, "ssh", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5",
			"root@10.77.0.11", "cat /sys/block/vda/serial; findmnt -no FSTYPE /").CombinedOutput()
		if err == nil {
			break
		}
	}
	if err != nil || !strings.Contains(string(out), "GOLDEN-1") || !strings.Contains(string(out), "overlay") {
		t.Fatalf("no shell by SSH in the stateless image: %v: %s", err, out)
	}
	from := n.ConsoleSize()
	mimeo(t, ctx, r, "boot", "n01", "disk")
	wait, cancel := context.WithTimeout(ctx, 6*time.Minute)
	defer cancel()
	if _, err := n.WaitConsole(wait, from, golden.Marker+` node=golden`); err != nil {
		t.Errorf("n01 does not leave the shell for its disk: %v", err)
	}
}

// compareDisks holds the disk that was written against the one that was captured.
func compareDisks(t *testing.T, captured, deployed string) {
	a, b := mapDisk(t, captured), mapDisk(t, deployed)
	if a.Table.Kind != "gpt" || b.Table.Kind != "gpt" || !strings.EqualFold(a.Table.ID, b.Table.ID) || len(a.Table.Partitions) != len(b.Table.Partitions) {
		t.Fatalf("tables differ: %+v, %+v", a.Table, b.Table)
	}
	if out, err := exec.Command("sgdisk", "-v", deployed).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No problems found")) {
		t.Errorf("sgdisk -v of n02's disk: %v\n%s", err, out)
	}
	last := len(a.Table.Partitions) - 1
	for i, p := range a.Table.Partitions {
		q := b.Table.Partitions[i]
		if i == last {
			if q.Len <= p.Len {
				t.Errorf("the last partition did not grow: %d, %d bytes", p.Len, q.Len)
			}
			q.Len = p.Len
		}
		if fmt.Sprint(p) != fmt.Sprint(q) {
			t.Errorf("partition %d differs: %+v, %+v", i+1, p, q)
		}
	}
	root := a.Table.Partitions[last]
	for _, v := range a.Volumes {
		differ, total := sameBytes(t, captured, deployed, v.Used)
		t.Logf("partition %d, %s: %d of %d used bytes differ", v.Partition, v.Type, differ, total)
		switch {
		case total == 0:
			t.Errorf("partition %d has no used extents", v.Partition)
		case v.Partition == root.Number && differ > total/20:
			t.Errorf("identity and growth changed more than a twentieth of the root filesystem")
		case v.Partition != root.Number && differ > 0:
			t.Errorf("partition %d differs", v.Partition)
		}
		if strings.HasPrefix(v.Type, "ext") {
			fsck(t, deployed, v.Off)
			length := v.Len
			treeA := mount(t, captured, v.Off, length)
			if v.Partition == root.Number {
				length = b.Table.Partitions[last].Len
			}
			treeB := mount(t, deployed, v.Off, length)
			compareTrees(t, treeA, treeB)
		}
	}
	// Boot code in the MBR is part of what boots.
	if differ, _ := sameBytes(t, captured, deployed, [][2]int64{{0, 440}}); differ > 0 {
		t.Error("the boot code in the MBR differs")
	}
}

func compareTrees(t *testing.T, a, b string) {
	t.Helper()
	fa, err := tree.Read(a)
	if err != nil {
		t.Fatal(err)
	}
	fb, err := tree.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(fa) < 100 {
		t.Errorf("only %d files were compared", len(fa))
	}
	for _, d := range tree.Diff(fa, fb) {
		if !identity.MatchString(d) {
			t.Errorf("file tree: %s", d)
		}
	}
}
