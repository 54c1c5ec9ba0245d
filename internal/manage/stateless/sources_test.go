package stateless

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

func TestMachineSources(t *testing.T) {
	etc := t.TempDir()
	if err := os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"sources.list": `
# deb http://old.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # ours
deb	[ arch=amd64 signed-by=` + keyring + ` ] http://mirror.example/pub/x bookworm-updates main
deb-src http://mirror.example/debian bookworm main
deb [trusted=yes] http://mirror.example/debian-security bookworm-security main
deb http://mirror.example/debian bookworm-backports main
deb [signed-by=/etc/apt/keyrings/other.gpg] http://other.example/debian bookworm main
deb http://other.example/apt bookworm main
deb [broken http://mirror.example/debian bookworm main
deb
`,
		"sources.list.d/debian.sources": `Types: deb deb-src
# a note
URIs: http://second.example/debian
Suites: bookworm
  bookworm-updates
Components: main
Signed-By: ` + keyring + `

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
Signed-By: ` + keyring + `

Types: deb
URIs: https://packages.example/debian/12/prod
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg
`,
		"sources.list.d/nothing.list.save": "deb http://saved.example/debian bookworm main\n",
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all, err := machineSources(etc)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"deb http://mirror.example/debian trixie main",
		"deb [signed-by=" + keyring + "] http://mirror.example/pub/x trixie-updates main",
		"deb [trusted=yes] http://mirror.example/debian-security trixie-security main",
		"deb [signed-by=" + keyring + "] http://second.example/debian trixie main",
		"deb [signed-by=" + keyring + "] http://second.example/debian trixie-updates main",
	}
	if d := cmp.Diff(want, forSuite(all, []string{"bookworm", "stable"}, "trixie", []string{"main"})); d != "" {
		t.Errorf("sources (-want +got):\n%s", d)
	}
	if got := forSuite(all, []string{"noble"}, "trixie", []string{"main"}); len(got) != 0 {
		t.Errorf("a machine of another release gives %v", got)
	}
}

func TestReleaseNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(file, []byte("ID=debian\nVERSION_CODENAME=\"bookworm\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := releaseNames(file); got[0] != "bookworm" {
		t.Errorf("names are %v", got)
	}
}

func TestAcquireSettings(t *testing.T) {
	for line, want := range map[string]bool{
		`Acquire::http::Proxy "http://proxy.example:3128";`:          true,
		`Acquire::https::CAInfo "/etc/ssl/own.pem";`:                 true,
		`Acquire::Check-Valid-Until "false";`:                        true,
		`Acquire::IndexTargets::deb::Packages::MetaKey "x";`:         false,
		`Acquire::Languages "none";`:                                 false,
		`Acquire::http::Proxy-Auto-Detect "";`:                       false,
		`DPkg::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb";`: false,
		`APT::Update::Post-Invoke:: "rm -f /var/cache/apt/*.bin";`:   false,
		`Dir::Cache::pkgcache "";`:                                   false,
	} {
		if got := acquireSetting(line); got != want {
			t.Errorf("%s taken over: %v, want %v", line, got, want)
		}
	}
}

func TestParseDeb(t *testing.T) {
	sum := strings.Repeat("a", 64)
	good := "Package: curl\nVersion: 1:7.88-1\nArchitecture: amd64\nSize: 123\nSHA256: " + sum + "\nDescription: x\n long text\n"
	d, err := parseDeb(good)
	if err != nil || d.name != "curl" || d.version != "1:7.88-1" || d.size != 123 || d.sha256 != sum {
		t.Errorf("%+v, %v", d, err)
	}
	for _, bad := range []string{"", strings.Replace(good, "123", "x", 1), strings.Replace(good, "curl", "../curl", 1),
		strings.Replace(good, sum, "aa", 1), strings.Replace(good, "amd64", "", 1)} {
		if d, err := parseDeb(bad); err == nil {
			t.Errorf("%q was taken as %+v", bad, d)
		}
	}
}
