package agent

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/agent/upstream"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
)

// windowsDisk is a disk with an NTFS at 1 MiB, on which prepare has run with its mount point as $1.
func windowsDisk(t *testing.T, prepare string, log []byte) (hwinfo.Disk, *manifest.Manifest) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if log != nil {
		if err := os.WriteFile(path+".log", log, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("sh", "-euc", `truncate -s 41M "$1"; echo 'start=2048, size=81920, type=7' | sfdisk -q --label dos "$1"
truncate -s 40M "$1.fs"; mkntfs -q -F -f -L Windows "$1.fs" >/dev/null 2>&1; mkdir "$1.mnt"; ntfs-3g "$1.fs" "$1.mnt"
(set -- "$1.mnt"; `+prepare+`); umount "$1.mnt"
while pgrep -f "ntfs-3g $1.fs" >/dev/null; do sleep 0.1; done
[ ! -e "$1.fs.grown" ] || ntfsfix "$1.fs" >/dev/null # it is to be checked when Windows starts, as after ntfsresize
[ ! -e "$1.log" ] || { ntfscat -i 2 "$1.fs" >"$1.old"; dd if="$1.log" of="$1.old" conv=notrunc status=none; ntfscp -f -i "$1.fs" "$1.old" 2 >/dev/null; }
dd if="$1.fs" of="$1" bs=1M seek=1 conv=notrunc status=none`, "sh", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return hwinfo.Disk{Path: path, Image: true}, &manifest.Manifest{Volumes: []manifest.Volume{{Partition: 1, Off: 1 << 20, Len: 40 << 20, Type: "ntfs", Method: manifest.MethodUsed}}}
}

// openLog is the start of a $LogFile that Windows has open: two restart pages with a client (NTFS documentation of the Linux-NTFS
// project, "$LogFile").
func openLog() []byte {
	le := binary.LittleEndian
	b := make([]byte, 4096)
	copy(b, "RSTR")
	le.PutUint16(b[4:], 0x1e)
	le.PutUint16(b[6:], 9)
	le.PutUint32(b[0x10:], 4096)
	le.PutUint32(b[0x14:], 4096)
	le.PutUint16(b[0x18:], 0x30)
	le.PutUint16(b[0x1a:], 1)
	le.PutUint16(b[0x1c:], 1)
	area := b[0x30:]
	le.PutUint16(area[8:], 1)
	le.PutUint16(area[0xa:], 0xffff)
	le.PutUint32(area[0x10:], 67-22)
	le.PutUint16(area[0x14:], 0xe0)
	le.PutUint16(area[0x16:], 0x40)
	le.PutUint64(area[0x18:], 2<<20)
	le.PutUint16(area[0x24:], 0x30)
	le.PutUint16(area[0x26:], 0x40)
	c := area[0x40:]
	le.PutUint16(c[0x10:], 0xffff)
	le.PutUint16(c[0x12:], 0xffff)
	le.PutUint32(c[0x1c:], 8)
	copy(c[0x20:], "N\x00T\x00F\x00S\x00")
	le.PutUint16(b[0x1e:], 7) // the update sequence: the last two bytes of each sector
	for i := range 8 {
		copy(b[0x20+2*i:], b[512*i+510:512*i+512])
		le.PutUint16(b[512*i+510:], 7)
	}
	return append(b, b...)
}

func windowsJob(t *testing.T, d hwinfo.Disk) *job {
	t.Helper()
	s := newFakeServer(t)
	srv, err := upstream.New(s.URL, s.pin(), "tok")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	j := &job{agent: &agent{Config: s.config(t, d.Path), srv: srv}, disk: d, task: api.Task{Kind: api.TaskDeploy, Job: "j1", Node: "n07", Hostname: "n07.rack", Attrs: map[string]string{"LABEL_OU": "R&D 100%"}}}
	j.report = newReporter(srv, "j1", "b1", func(string, ...any) {}, func(error) {})
	t.Cleanup(j.report.close)
	return j
}

// ntfs reads a file of the deployed NTFS with its own tools.
func ntfs(t *testing.T, d hwinfo.Disk, name string) string {
	t.Helper()
	out, err := exec.Command("sh", "-euc", `dd if="$1" of="$1.fs" bs=1M skip=1 count=40 status=none; ntfscat -f "$1.fs" "$2"`, "sh", d.Path, name).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}

const windowsTree = `mkdir -p "$1/WINDOWS/system32" "$1/WINDOWS/Setup/scripts"; printf 'echo mine\r\n' >"$1/WINDOWS/Setup/scripts/setupcomplete.CMD"`

func TestWindows(t *testing.T) {
	d, m := windowsDisk(t, windowsTree+`; >"$1/../disk.fs.grown"`, nil)
	j := windowsJob(t, d)
	j.task.First = []api.Postscript{{Name: "one.cmd", Content: []byte("echo one\r\n")}, {Name: "join.ps1", Content: []byte("Write-Host two\r\n")}}
	j.task.Unattend = []byte("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<unattend><ComputerName>*</ComputerName><OU>${LABEL_OU}</OU></unattend>\n")
	for range 2 { // onto what the deploy before has left
		if found, err := j.windows(t.Context(), m); !found || err != nil {
			t.Fatal(found, err)
		}
	}
	if got := ntfs(t, d, "WINDOWS/Setup/scripts/setupcomplete.CMD"); got != windowsLine+"\r\necho mine\r\n" {
		t.Errorf("SetupComplete.cmd: %q", got)
	}
	dir := "WINDOWS/Setup/scripts/mimeo-first/"
	run := ntfs(t, d, dir+"run.cmd")
	if !strings.Contains(run, "\r\ncall :one 001.one.cmd || goto failed\r\ncall :one 002.join.ps1 || goto failed\r\nschtasks /delete ") || strings.Count(run, "\n") != strings.Count(run, "\r\n") {
		t.Errorf("run.cmd:\n%s", run)
	}
	if got := ntfs(t, d, dir+"002.join.ps1"); got != "Write-Host two\r\n" {
		t.Errorf("%q", got)
	}
	if env := ntfs(t, d, dir+"env.cmd"); !strings.Contains(env, "set \"HOSTNAME=n07.rack\"\r\n") || !strings.Contains(env, "set \"LABEL_OU=R&D 100%%\"\r\n") {
		t.Errorf("env.cmd:\n%s", env)
	}
	if got := ntfs(t, d, "WINDOWS/Panther/unattend.xml"); !strings.Contains(got, "<ComputerName>n07</ComputerName><OU>R&amp;D 100%</OU>") {
		t.Errorf("unattend.xml: %s", got)
	}
	// The tools find nothing wrong, and no mount or device is left.
	if out, err := exec.Command("ntfsfix", "-n", d.Path+".fs").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if m, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(m), "mimeo-target") {
		t.Error("a mount is left")
	}
	// A next deploy without any takes them away.
	j.task.First, j.task.Unattend = nil, nil
	if found, err := j.windows(t.Context(), m); !found || err != nil {
		t.Fatal(found, err)
	}
	if got := ntfs(t, d, "WINDOWS/Setup/scripts/setupcomplete.CMD"); got != "echo mine\r\n" {
		t.Errorf("SetupComplete.cmd: %q", got)
	}
}

const windowsLine = `call "%SystemRoot%\Setup\Scripts\mimeo-first\run.cmd"`

func TestWindowsRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare, host, unattend, script string
		found                           bool
		want                            string
	}{
		"data":        {`mkdir "$1/photos"`, "n07", "", "a.cmd", false, ""},
		"sleeps":      {windowsTree + `; printf 'hibr' >"$1/hiberfil.sys"; truncate -s 8192 "$1/hiberfil.sys"`, "n07", "", "a.cmd", true, "hibernated Windows"},
		"crashed":     {windowsTree, "n07", "", "a.cmd", true, "not left its filesystem in order"},
		"name":        {windowsTree, "n07-with-a-long-name", "<a><ComputerName>x</ComputerName></a>", "a.cmd", true, "at most 15"},
		"variable":    {windowsTree, "n07", "<a>${LABEL_NOPE}</a>", "a.cmd", true, "${LABEL_NOPE}"},
		"not XML":     {windowsTree, "n07", "<a>", "a.cmd", true, "no XML"},
		"not Windows": {windowsTree, "n07", "", "a.sh", true, "ends in .cmd"},
	} {
		t.Run(name, func(t *testing.T) {
			var log []byte
			if name == "crashed" {
				log = openLog()
			}
			d, m := windowsDisk(t, c.prepare, log)
			j := windowsJob(t, d)
			j.task.Hostname, j.task.Unattend = c.host, []byte(c.unattend)
			j.task.First = []api.Postscript{{Name: c.script, Content: []byte("echo\r\n")}}
			found, err := j.windows(t.Context(), m)
			if found != c.found || (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%t, %v", found, err)
			}
			var e *api.Error
			if (name == "sleeps" || name == "crashed") && (!errors.As(err, &e) || e.Hint == "") {
				t.Errorf("no hint: %v", err)
			}
		})
	}
}
