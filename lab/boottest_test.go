package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/night"
	"mimeo/lab/golden"
)

// TestBootTest boots a captured Debian straight from the store, and the same without its kernel.
func TestBootTest(t *testing.T) {
	night.Only(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves virtual machines out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 16*time.Minute)
	defer cancel()
	dir := t.TempDir()
	disk, place, screen := filepath.Join(dir, "disk"), "dir:"+filepath.Join(dir, "store"), filepath.Join(dir, "screen.png")
	if err := golden.Make(ctx, disk, golden.Config{Cache: cacheDir(t), SizeMiB: 2560, Log: func(s string) { t.Log(s) }}); err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(programs, "mimeo-agent")
	capture := func() {
		t.Helper()
		if out, err := exec.CommandContext(ctx, agent, "capture", disk, "--store", place, "--image", "debian12").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	try := func(args ...string) (r api.BootTest, err error) {
		t.Helper()
		cmd := exec.CommandContext(ctx, agent, append([]string{"boot-test", "debian12", "--store", place, "--json", "--memory", "512", "--bus", "virtio", "--work", dir}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if jerr := json.Unmarshal(out, &r); jerr != nil {
			t.Fatalf("%v, %v: %q", err, jerr, out)
		}
		t.Logf("%+v, %v", r, err)
		if left, _ := filepath.Glob(filepath.Join(dir, "mimeo-*")); len(left) > 0 {
			t.Errorf("it left %q", left)
		}
		return r, err
	}
	capture()
	r, err := try("--screenshot", screen)
	if err != nil || !r.Booted || r.Match != "golden login:" || r.Firmware != "bios" || !r.Screen {
		t.Errorf("a good image: %+v, %v", r, err)
	}
	if b, err := os.ReadFile(screen); err != nil || !strings.HasPrefix(string(b), "\x89PNG") {
		t.Errorf("the picture: %d bytes, %v", len(b), err)
	}
	if out, err := exec.CommandContext(ctx, "debugfs", "-w", "-R", "rm /vmlinuz", fmt.Sprintf("%s?offset=%d", disk, golden.RootOff)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	capture()
	r, err = try("--timeout", "40s")
	if err == nil || r.Booted || r.Rev != 2 || !strings.Contains(r.Console, "vmlinuz") {
		t.Errorf("an image without its kernel: %+v, %v", r, err)
	}
}
