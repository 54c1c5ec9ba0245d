package agent

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCaptureShrunk captures a disk as a smaller one, which a smaller disk then takes; one that cannot shrink is refused.
func TestCaptureShrunk(t *testing.T) {
	quick(t)
	disk := filepath.Join(t.TempDir(), "n01.img")
	out, err := exec.Command("sh", "-euc", `mkdir "$1.tree"; echo kept >"$1.tree/file"; truncate -s 500M "$1"; echo 'start=2048' | sfdisk -q "$1"; mke2fs -q -t ext4 -d "$1.tree" -E offset=1048576 "$1" 499M`, "sh", disk).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := sum(t, disk)
	s := newFakeServer(t)
	task := captureTask()
	task.Shrink = true
	s.tasks = append(s.tasks, task)
	if action, err := Run(t.Context(), s.config(t, disk)); err != nil || action != ActionReboot {
		t.Fatalf("%s, %v", action, err)
	}
	d := s.last(t)
	if !d.OK || sum(t, disk) != before {
		t.Fatalf("%+v, %+v", d, d.Error)
	}
	target := emptyDisk(t, 120)
	s.mu.Lock()
	s.tasks = append(s.tasks[:0], deployTask(d.Manifest))
	s.mu.Unlock()
	if action, err := Run(t.Context(), s.config(t, target)); err != nil || action != ActionReboot {
		t.Fatalf("%s, %v", action, err)
	}
	if d = s.last(t); !d.OK {
		t.Fatalf("%+v", d.Error)
	}
	if out, err := exec.Command("sh", "-euc", `e2fsck -fn "$1?offset=1048576"; debugfs -R 'cat /file' "$1?offset=1048576"`, "sh", target).CombinedOutput(); err != nil || !strings.Contains(string(out), "kept\n") {
		t.Errorf("%v\n%s", err, out)
	}

	s.mu.Lock()
	s.tasks = append(s.tasks[:0], task)
	s.mu.Unlock()
	if _, err := Run(t.Context(), s.config(t, emptyDisk(t, 20))); err != nil {
		t.Fatal(err)
	}
	if d = s.last(t); d.OK || d.Error == nil || d.Error.Code != "refused" || !strings.Contains(d.Error.Hint, "without --shrink") {
		t.Errorf("a disk without partitions: %+v", d.Error)
	}
}
