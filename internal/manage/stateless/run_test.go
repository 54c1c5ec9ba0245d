package stateless

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRemoveTree removes a folder in which a killed program left a mount: what was mounted keeps its files.
func TestRemoveTree(t *testing.T) {
	dir := t.TempDir()
	kept, gone := filepath.Join(dir, "kept"), filepath.Join(dir, "a folder/root/dev")
	write(t, filepath.Join(kept, "file"), "x", 0o644)
	if err := os.MkdirAll(gone, 0o755); err != nil {
		t.Fatal(err)
	}
	shell(t, `mount --bind "$1" "$2" && mount -t tmpfs tmpfs "$2"`, kept, gone)
	if err := removeTree(filepath.Join(dir, "a folder")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(kept, "file")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a folder")); err == nil {
		t.Error("the folder is still there")
	}
	if err := removeTree(filepath.Join(dir, "never there")); err != nil {
		t.Error(err)
	}
}

func TestMountsOfACommandStayItsOwn(t *testing.T) {
	dir := t.TempDir()
	out, err := command{name: "sh", mountNS: true, args: []string{"-c", `mount -t tmpfs tmpfs "$1" && touch "$1/file" && echo done`, "sh", dir}}.run(context.Background())
	if err != nil || string(out) != "done\n" {
		t.Fatalf("%q, %v", out, err)
	}
	if mounts, err := mountsBelow(dir); err != nil || len(mounts) != 0 {
		t.Errorf("mounts below %s: %v, %v", dir, mounts, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err == nil {
		t.Error("its files are to be seen outside")
	}
}

func TestCommandErrors(t *testing.T) {
	if _, err := (command{name: "no-such-program"}).run(context.Background()); err == nil || code(err) != "internal" {
		t.Errorf("%v", err)
	}
	_, err := (command{name: "sh", args: []string{"-c", "echo why >&2; exit 3"}}).run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	started := time.Now()
	if _, err := (command{name: "sh", args: []string{"-c", "sleep 60 & wait"}}).run(ctx); err == nil {
		t.Error("a cancelled command gave no error")
	}
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("it took %v to end", d)
	}
}
