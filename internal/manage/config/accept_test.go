package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAccept(t *testing.T) {
	for text, want := range map[string]string{
		"accept:\n- names: {A1: n01}\n- macs: ['*']\n  name: 'n{seq:3}'\n": "",
		"accept:\n- name: n01\n":                                         "c.yaml:2: accept[0].name: there is no condition",
		"accept:\n- macs: ['*']\n":                                       "accept[0].name: is missing",
		"accept:\n- macs: ['*']\n  name: 'n{seq'\n":                      "a brace is alone",
		"accept:\n- macs: ['*']\n  name: 'n{sek}'\n":                     "{sek}: known are",
		"accept:\n- macs: ['*']\n  name: 'n{seq:99}'\n":                  "at most 9 digits",
		"accept:\n- macs: ['*']\n  name: 'n{mac:3}'\n":                   "others none",
		"accept:\n- macs: ['*']\n  name: 'N_{seq}'\n":                    "is no name of a node",
		"accept:\n- names: {A1: N_1}\n":                                  "is no name of a node",
		"accept:\n- names: {A1: n1}\n  name: n2\n":                       "stands in place of",
		"accept:\n- macs: ['*']\n  name: n1\n  bmc: maybe\n":             "want ask or reported",
		"accept:\n- macs: ['*']\n  name: n1\n  set: {mac: aa}\n":         "mac is what the machine says",
		"accept:\n- macs: ['*']\n  name: n1\n  set: {hostname: '{x}'}\n": "{x}: known are",
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file)
		if err == nil {
			err = c.Complete()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestFill(t *testing.T) {
	values := map[string]string{"seq": "7", "port": "1234", "serial": "abc"}
	for pattern, want := range map[string]string{"n{seq}": "n7", "n{seq:3}-{serial}": "n007-abc", "{port:2}x": "1234x", "plain": "plain"} {
		if got, err := Fill(pattern, values); err != nil || got != want {
			t.Errorf("%s: %q, %v", pattern, got, err)
		}
	}
	if _, err := Fill("n{mac}", values); err == nil {
		t.Error("what is not there is filled in")
	}
}
