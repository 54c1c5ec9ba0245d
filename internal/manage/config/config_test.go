package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	f := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(f)
	if err == nil {
		err = c.Complete()
	}
	return c, err
}

func TestDefaults(t *testing.T) {
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.State != "/var/lib/mimeo" || c.Store != "dir:/var/lib/mimeo/store" || c.HTTPS != ":4443" || c.Limits.BMCs != 16 {
		t.Errorf("defaults are %+v", c)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "missing.yaml")); err == nil {
		t.Error("a file that was named and is missing is no error")
	}
}

func TestFile(t *testing.T) {
	c, err := load(t, "state: /srv/m\ninterfaces:\n- name: eth1\n  dhcp: proxy\n- name: eth2\n  pool: [10.0.0.5-10.0.0.9]\nlimits:\n  netboot: 90s\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Interfaces[0].DHCP != "proxy" || c.Interfaces[1].DHCP != "full" || time.Duration(c.Limits.Netboot) != 90*time.Second {
		t.Errorf("read %+v", c)
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	for text, want := range map[string]string{
		"stat: /x\n":                                   "stat",
		"http: nonsense\n":                             "http:",
		"store: s3:bucket\n":                           "store:",
		"interfaces:\n- dhcp: full\n":                  "interfaces[0].name",
		"interfaces:\n- name: a\n  dhcp: x\n":          "interfaces[0].dhcp",
		"interfaces:\n- name: a\n- name: a\n":          "twice",
		"interfaces:\n- name: a\n  pool: [10.0.0.9]\n": "pool",
		"interfaces:\n- name: a\n  gateway: x\n":       "no IPv4",
		"limits:\n  netboot: soon\n":                   "90s",
		"limits:\n  netboot: -3s\n":                    "90s",
		"log: loud\n":                                  "log:",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v does not say %q", text, err, want)
		}
	}
}

func TestParseInterface(t *testing.T) {
	if f := ParseInterface("br0=proxy"); f.Name != "br0" || f.DHCP != "proxy" {
		t.Errorf("%+v", f)
	}
	if f := ParseInterface("br0"); f.DHCP != "full" {
		t.Errorf("%+v", f)
	}
}
