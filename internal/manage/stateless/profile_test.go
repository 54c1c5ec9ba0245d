package stateless

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mimeo/internal/cluster/api"
)

// writeProfile puts a profile into the state folder's profiles.
func writeProfile(t *testing.T, state, name, text string) {
	t.Helper()
	if err := os.MkdirAll(profilesDir(state), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(profilesDir(state), name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestProfileErrorsNameTheLine(t *testing.T) {
	for _, c := range []struct{ text, line, says string }{
		{"", "line 1", "empty"},
		{"suite: bookworm\npakages: [curl]\n", "line 2", "pakages"},
		{"suite: bookworm\nsuite: trixie\n", "line 2", "suite"},
		{"suite: bookworm\npackages: curl\n", "line 2", ""},
		{"suite: [\n", "line", ""},
		{"suite: Bookworm\n", "line 1", "not the name of a Debian release"},
		{"suite: x\n\npackages:\n  - curl\n  - 'Curl;rm'\n", "line 5", "not the name of a package"},
		{"suite: x\nkernel:\n  mips: linux\n", "line", `"mips"`},
		{"suite: x\nkernel:\n  amd64: -linux\n", "line 3", "not the name of a package"},
		{"suite: x\nmodules:\n  initrd:\n    - e1000\n    - 'a b'\n", "line 5", "kernel module"},
		{"suite: x\nexclude:\n  - usr/share\n", "line 3", "absolute path"},
		{"suite: x\nexclude:\n  - /a/../..\n", "line 3", "absolute path"},
		{"suite: x\nexclude: ['/[']\n", "line 2", "absolute path"},
		{"suite: x\nfiles:\n  - path: /etc/a\n    mode: 0999\n", "line", "octal"},
		{"suite: x\nfiles:\n  - path: /etc/../../b\n", "line 3", "absolute path"},
		{"suite: x\nfiles:\n  - path: /etc/a\n    content: x\n    link: y\n", "line 3", "more than one"},
		{"suite: x\nfiles:\n  - {path: /a, colour: red}\n", "line 3", "colour"},
		{"suite: x\nmounts:\n  - source: nas\n    target: /mnt\n", "line 3", "ADDRESS:/path"},
		{"suite: x\nmounts:\n  - {source: 'nas:/a', target: mnt}\n", "line 3", "absolute path"},
		{"suite: x\nmounts:\n  - {source: 'nas:/a', target: /mnt, options: 'ro, vers=3'}\n", "line 3", "blanks"},
		{"suite: x\npostscripts:\n  pre:\n    - name: a\n", "line 4", "exactly one"},
		{"suite: x\npostscripts:\n  post:\n    - {name: a, path: x.sh}\n", "line 4", "absolute path"},
		{"suite: x\npostscripts:\n  root:\n    - {name: '../a', content: x}\n", "line 4", "letters"},
		{"suite: x\npostscripts:\n  root:\n    - {name: a, content: x, timeout: soon}\n", "line", "90s"},
		{"suite: x\npostscripts:\n  first:\n    - {name: '../a', content: x}\n", "line 4", "letters"},
		{"suite: x\ncmdline:\n  - a b\n", "line 3", "one word"},
		{"suite: x\nsources:\n  - deb-src x\n", "line 3", "deb [options]"},
	} {
		_, err := ParseProfile([]byte(c.text))
		if err == nil {
			t.Errorf("%q was taken", c.text)
			continue
		}
		if s := err.Error(); !strings.HasPrefix(s, c.line) || !strings.Contains(s, c.says) || strings.Contains(s, "\n") {
			t.Errorf("%q: error %q; want one line that starts with %q and says %q", c.text, s, c.line, c.says)
		}
	}
}

func TestImagingProfile(t *testing.T) {
	p, err := LoadProfile(t.TempDir(), "imaging")
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "imaging" || p.Suite != "bookworm" || len(p.Packages) == 0 || len(p.Modules.Initrd) == 0 || len(p.Modules.Rootimg) == 0 {
		t.Errorf("imaging is %+v", p)
	}
	got, err := p.MountsFor(map[string]string{"MASTER": "10.0.0.5", "NFS_PORT": "4450"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Source != "10.0.0.5:/postscripts" || got[0].Target != "/mnt/postscripts" || !strings.Contains(got[0].Options, "mountport=4450") {
		t.Errorf("mounts are %+v", got)
	}
	if _, err := p.MountsFor(nil); err == nil || !strings.Contains(err.Error(), "${MASTER}") {
		t.Errorf("without MASTER: error %v", err)
	}
}

func TestExtend(t *testing.T) {
	state := t.TempDir()
	writeProfile(t, state, "base.yaml", `
suite: bookworm
components: [main]
kernel: {amd64: linux-image-amd64, arm64: linux-image-arm64}
packages: [curl, less]
modules: {initrd: [drivers/net/], rootimg: [fs/]}
exclude: [/usr/share/doc, /usr/share/man]
cmdline: [quiet]
files:
  - {path: /etc/motd, content: "one\n"}
  - {path: /etc/keep, mode: 0600, content: "kept\n"}
mounts: [{source: "nas:/a", target: /mnt/a}]
postscripts:
  pre: [{name: first, content: "#!/bin/sh\n"}]
`)
	writeProfile(t, state, "hello.sh", "#!/bin/sh\necho hello\n")
	writeProfile(t, state, "child.yaml", `
extends: base
kernel: {amd64: linux-image-cloud-amd64}
packages: [-less, vim-tiny, curl]
modules: {initrd: [-drivers/net/wireless/]}
exclude: [-/usr/share/man]
cmdline: [debug]
files:
  - path: /etc/motd
    content: "two\n"
mounts: [{source: "nas:/b", target: /mnt/a, options: ro}]
postscripts:
  pre:
    - {name: second, source: hello.sh, timeout: 90s}
    - {name: first, path: /mnt/a/first.sh}
`)
	p, err := LoadProfile(state, "child")
	if err != nil {
		t.Fatal(err)
	}
	want := Profile{
		Name: "child", Extends: "base", Suite: "bookworm", Components: []string{"main"},
		Kernel:   map[string]string{"amd64": "linux-image-cloud-amd64", "arm64": "linux-image-arm64"},
		Packages: []string{"curl", "vim-tiny"},
		Modules:  Modules{Initrd: []string{"drivers/net/", "-drivers/net/wireless/"}, Rootimg: []string{"fs/"}},
		Exclude:  []string{"/usr/share/doc"}, Cmdline: []string{"quiet", "debug"},
		Files:  []File{{Path: "/etc/motd", Content: "two\n"}, {Path: "/etc/keep", Mode: 0o600, Content: "kept\n"}},
		Mounts: []Mount{{Source: "nas:/b", Target: "/mnt/a", Options: "ro"}},
		Postscripts: Postscripts{Pre: []Postscript{{Name: "first", Path: "/mnt/a/first.sh"},
			{Name: "second", Source: "hello.sh", Content: "#!/bin/sh\necho hello\n", Timeout: Duration(90 * time.Second)}}},
	}
	if d := cmp.Diff(want, p); d != "" {
		t.Errorf("profile (-want +got):\n%s", d)
	}
	scripts := []api.Postscript{{Name: "first", Path: "/mnt/a/first.sh"}, {Name: "second", Content: []byte("#!/bin/sh\necho hello\n"), TimeoutMS: 90000}}
	var got []api.Postscript
	for _, ps := range p.Stage("pre") {
		got = append(got, ps.API())
	}
	if d := cmp.Diff(scripts, got); d != "" {
		t.Errorf("postscripts (-want +got):\n%s", d)
	}
}

func TestExtendOwnNameMeansBuiltin(t *testing.T) {
	state := t.TempDir()
	writeProfile(t, state, "imaging.yaml", "extends: imaging\npackages: [nvme-cli]\n")
	p, err := LoadProfile(state, "imaging")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(p.Packages); p.Packages[n-1] != "nvme-cli" || n < 5 {
		t.Errorf("packages are %v", p.Packages)
	}
	names, err := Profiles(state)
	if d := cmp.Diff([]string{"compute", "imaging", "virtual"}, names); d != "" || err != nil {
		t.Errorf("profiles: %v, %s", err, d)
	}
}

func TestProfilesThatCannotBe(t *testing.T) {
	state := t.TempDir()
	writeProfile(t, state, "a.yaml", "extends: b\n")
	writeProfile(t, state, "b.yaml", "extends: a\n")
	writeProfile(t, state, "self.yaml", "extends: self\n")
	writeProfile(t, state, "nosuite.yaml", "packages: [curl]\n")
	writeProfile(t, state, "nosource.yaml", "suite: x\nfiles: [{path: /a, source: missing}]\n")
	writeProfile(t, state, "bad.yaml", "suite: x\nbad: y\n")
	for name, says := range map[string]string{
		"a": "extends", "self": "no built-in profile", "nosuite": "suite is missing", "nosource": "missing", "bad": "bad.yaml: line 2",
		"nothere": "no profile nothere", "../a": "profile name", "": "profile name", ".a": "profile name",
	} {
		if _, err := LoadProfile(state, name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("profile %q: error %v does not say %q", name, err, says)
		}
	}
}

func FuzzParseProfile(f *testing.F) {
	text, err := builtin.ReadFile("profiles/imaging.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("suite: x\nfiles:\n  - {path: /a, mode: 0755, content: b}\n"))
	f.Add([]byte("suite: x\npostscripts:\n  pre:\n    - {name: a, content: x, timeout: 1m}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseProfile(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		for _, file := range p.Files {
			if !cleanAbs(file.Path) {
				t.Errorf("path %q was taken", file.Path)
			}
		}
	})
}

// An init of its own must be in the rootimg, also by a link; a profile inherits it.
func TestInit(t *testing.T) {
	p, err := LoadProfile(t.TempDir(), "compute")
	if err != nil || p.Init != "/sbin/init" || !slices.Contains(p.Cmdline, "net.ifnames=0") || slices.Contains(p.Packages, "dropbear-bin") || slices.Contains(p.Exclude, "/usr/share/zoneinfo") {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := over(p, Profile{}).Init; got != "/sbin/init" {
		t.Errorf("a child's init is %q", got)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := finishRoot(dir, p, 0); err == nil || !strings.Contains(err.Error(), "/sbin/init is not in its rootimg") {
		t.Error(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/lib/systemd/systemd", filepath.Join(dir, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	if err := finishRoot(dir, p, 0); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"init", "/", "/sbin/../init", "/sbin/in it"} {
		if _, err := ParseProfile([]byte("init: \"" + bad + "\"\n")); err == nil || !strings.Contains(err.Error(), "init") {
			t.Errorf("init %q: %v", bad, err)
		}
	}
}
