package bringup

import (
	"os"
	"path/filepath"
	"testing"
)

// A program of another root is found by links that are absolute in it, and by nothing of this one.
func TestLookInside(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"usr/sbin", "lib/systemd", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"sbin": "usr/sbin", "usr/sbin/init": "/lib/systemd/systemd", "usr/sbin/near": "../../lib/systemd/systemd", "usr/sbin/loop": "loop", "usr/sbin/out": "/bin/sh"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"lib/systemd/systemd": 0o755, "etc/text": 0o644} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, ok := range map[string]bool{"/sbin/init": true, "/usr/sbin/init": true, "/lib/systemd/systemd": true, "/usr/sbin/near": true,
		"/sbin/loop": false, "/sbin/out": false, "/etc/text": false, "/etc": false, "/nothing": false} {
		if _, err := lookInside(root, name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParamsOfOwnInit(t *testing.T) {
	p := ParseParams("quiet mimeo.node=n07 mimeo.init=/sbin/init mimeo.hostname=login.example.org")
	if p.Init != "/sbin/init" || p.Host() != "login.example.org" {
		t.Errorf("%+v", p)
	}
	if p := ParseParams("mimeo.node=n07"); p.Init != "" || p.Host() != "n07" {
		t.Errorf("%+v", p)
	}
}
