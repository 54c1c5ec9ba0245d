package firstboot

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
)

// system is a root with BusyBox and the given files; "A -> B" is a link, and one that ends in "/" a folder.
func system(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	must(errors.Join(os.MkdirAll(filepath.Join(dir, "dev"), 0o755), os.MkdirAll(filepath.Join(dir, "etc"), 0o755)))
	must(unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755))
	for _, a := range strings.Fields("sh env cat mkdir date tail wc timeout rm sed sleep echo") {
		must(os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	for _, f := range files {
		name, to, link := strings.Cut(f, " -> ")
		name, text, given := strings.Cut(name, "=")
		must(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		switch {
		case link:
			must(os.Symlink(to, filepath.Join(dir, name)))
		case strings.HasSuffix(name, "/"):
			must(os.MkdirAll(filepath.Join(dir, name), 0o755))
		case given:
			must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		default:
			must(os.WriteFile(filepath.Join(dir, name), []byte("here\n"), 0o755))
		}
	}
	return dir
}

// boot starts what the system's init would start.
func boot(dir string) (string, error) {
	c := exec.Command("/bin/sh", Dir+"/run")
	c.Dir, c.Env = "/", []string{"PATH=/bin", "LEAK=1"}
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	out, err := c.CombinedOutput()
	return string(out), err
}

func script(name, text string) api.Postscript {
	return api.Postscript{Name: name, Content: []byte("#!/bin/sh\n" + text + "\n")}
}

// left are the files below a folder that are of ours.
func left(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err == nil && strings.Contains(p, "mimeo-first") && !strings.HasSuffix(p, ".log") {
			out = append(out, strings.TrimPrefix(p, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const systemd = "sbin/init -> /lib/systemd/systemd"

func TestRun(t *testing.T) {
	dir := system(t, systemd)
	init, err := Place(dir, []api.Postscript{
		script("one", `echo "$NODE, $LABEL_Q, $HOME, ${LEAK:-none}, $(pwd)"`),
		script("two", `echo "cannot be" >&2; [ -e /ready ]`),
		script("three", "cat; echo at last"),
	}, map[string]string{"NODE": "n07", "LABEL_Q": "it's\n$HOME `x`", "not a name": "x"})
	if err != nil || init != "systemd" {
		t.Fatal(init, err)
	}
	all := left(t, dir)
	out, err := boot(dir)
	if err == nil || !strings.Contains(out, "n07, it's\n$HOME `x`, /root, none, /\none is done\n") || !strings.Contains(out, "cannot be\ntwo failed: exit status 1.") || strings.Contains(out, "three") {
		t.Errorf("%v\n%s", err, out)
	}
	now := left(t, dir)
	if len(now) != len(all)-1 || slices.ContainsFunc(now, func(s string) bool { return strings.HasSuffix(s, ".one") }) {
		t.Errorf("after a failure: %v", now)
	}
	// The next boot begins with the one that failed.
	if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err = boot(dir)
	if err != nil || strings.Contains(out, "one begins") || !strings.Contains(out, "two is done\nthree begins\nat last\nthree is done\nall is done\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if now := left(t, dir); len(now) != 0 {
		t.Errorf("left behind: %v", now)
	}
	b, err := os.ReadFile(filepath.Join(dir, Log))
	if st, serr := os.Stat(filepath.Join(dir, Log)); err != nil || serr != nil || st.Mode().Perm() != 0o600 || strings.Count(string(b), "two begins") != 2 || !strings.Contains(string(b), "\nat last\n") {
		t.Errorf("%v, %v\n%s", err, serr, b)
	}
}

func TestTooLong(t *testing.T) {
	dir := system(t, systemd)
	p := script("slow", "echo begun; sleep 60")
	p.TimeoutMS = 200 // at least 1 s
	if _, err := Place(dir, []api.Postscript{p}, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := boot(dir); err == nil || !strings.Contains(out, "slow failed: exit status 143, after its limit of 1 s.") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestInits(t *testing.T) {
	sysv := []string{"sbin/init", "etc/init.d/", "etc/rc2.d/", "etc/rc3.d/"}
	openrc := []string{"usr/sbin/openrc-run", "etc/runlevels/default/", "etc/init.d/"}
	for _, c := range []struct {
		files []string
		want  string
		links []string
	}{
		{[]string{systemd}, "systemd", []string{"etc/systemd/system/multi-user.target.wants/mimeo-first.service"}},
		{append(sysv, "usr/lib/systemd/systemd"), "System V init", []string{"etc/rc2.d/S99mimeo-first", "etc/rc5.d/S99mimeo-first"}},
		{append(sysv, "etc/init.d/.depend.start=TARGETS = bootlogs ssh\nINTERACTIVE =\nssh: bootlogs\n"), "System V init", nil},
		{append(sysv, openrc...), "OpenRC", []string{"etc/runlevels/default/mimeo-first"}},
		{[]string{"sbin -> usr/sbin", "usr/sbin/init -> ../lib/systemd/systemd", "etc/init.d/", "etc/rc2.d/"}, "systemd", nil},
		{[]string{"usr/lib/systemd/systemd"}, "systemd", nil},
		{nil, "", nil},
	} {
		dir := system(t, c.files...)
		for range 2 { // a deploy onto what a deploy has left
			init, err := Place(dir, []api.Postscript{script("a", "exit 0")}, nil)
			if b, err := os.ReadFile(filepath.Join(dir, order)); err == nil && string(b) != "TARGETS = bootlogs ssh mimeo-first\nmimeo-first: bootlogs ssh\nINTERACTIVE =\nssh: bootlogs\n" {
				t.Errorf("order:\n%s", b)
			}
			if init != c.want || (c.want == "") != errors.Is(err, ErrNoInit) {
				t.Errorf("%v: %q, %v", c.files, init, err)
			}
		}
		for _, l := range c.links {
			if b, err := os.ReadFile(filepath.Join(dir, l)); err != nil || !strings.Contains(string(b), "/bin/sh "+Dir+"/run") {
				t.Errorf("%s: %v\n%s", l, err, b)
			}
		}
		if c.want != "" {
			if out, err := boot(dir); err != nil {
				t.Errorf("%v: %v\n%s", c.files, err, out)
			}
		}
		if now := left(t, dir); len(now) != 0 {
			t.Errorf("%v: left behind: %v", c.files, now)
		}
		if b, err := os.ReadFile(filepath.Join(dir, order)); err == nil && string(b) != "TARGETS = bootlogs ssh\nINTERACTIVE =\nssh: bootlogs\n" {
			t.Errorf("order afterwards:\n%s", b)
		}
	}
}

// What the captured system still had to run is not for the node that its image is deployed to.
func TestImageHadSome(t *testing.T) {
	dir := system(t, systemd)
	if _, err := Place(dir, []api.Postscript{script("old", "exit 1"), script("older", "exit 1")}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Place(dir, []api.Postscript{script("new", "exit 0")}, nil); err != nil {
		t.Fatal(err)
	}
	if now := strings.Join(left(t, dir), " "); strings.Contains(now, "old") || !strings.Contains(now, "001.600.new") {
		t.Error(now)
	}
	if init, err := Place(dir, nil, nil); err != nil || init != "" || len(left(t, dir)) != 0 {
		t.Error(init, err, left(t, dir))
	}
}

func TestLinksOut(t *testing.T) {
	out := t.TempDir()
	for _, l := range []string{"etc/systemd -> ", "etc/systemd/system/multi-user.target.wants -> "} {
		dir := system(t, systemd, l+out)
		if _, err := Place(dir, []api.Postscript{script("a", "exit 0")}, nil); err == nil {
			t.Errorf("%s was followed", l)
		}
		if now := left(t, dir); len(now) != 0 {
			t.Errorf("left behind: %v", now)
		}
	}
	if e, err := os.ReadDir(out); err != nil || len(e) != 0 {
		t.Error(e, err)
	}
}

func TestLabels(t *testing.T) {
	dir := system(t, systemd, "etc/systemd/system/multi-user.target.wants/")
	const want = "system_u:object_r:systemd_unit_file_t:s0\x00"
	for _, d := range []string{"etc/systemd/system", "etc/systemd/system/multi-user.target.wants"} {
		if err := unix.Setxattr(filepath.Join(dir, d), "security.selinux", []byte(want), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Place(dir, []api.Postscript{script("a", "exit 0")}, nil); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"etc/systemd/system/mimeo-first.service", "etc/systemd/system/multi-user.target.wants/mimeo-first.service"} {
		var b [100]byte
		if n, err := unix.Lgetxattr(filepath.Join(dir, f), "security.selinux", b[:]); err != nil || string(b[:n]) != want {
			t.Errorf("%s: %q, %v", f, b[:max(n, 0)], err)
		}
	}
}
