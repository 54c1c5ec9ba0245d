package agent

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
)

// noisy is a disk image full of what must go.
func noisy(t *testing.T, mib int) string {
	t.Helper()
	path := emptyDisk(t, int64(mib))
	if err := os.WriteFile(path, bytes.Repeat([]byte("secret! "), mib<<17), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func isZero(t *testing.T, path string) bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return len(bytes.Trim(b, "\x00")) == 0
}

func wipeTask(method string) api.Task {
	return api.Task{Kind: api.TaskWipe, Job: "j9", Node: "n01", Method: method}
}

func TestWipe(t *testing.T) {
	quick(t)
	for _, method := range []string{"auto", "discard", "zero"} {
		disk := noisy(t, 12)
		s := newFakeServer(t, wipeTask(method))
		began := time.Now().Add(-time.Second)
		if action, err := Run(t.Context(), s.config(t, disk)); err != nil || action != ActionReboot {
			t.Fatalf("%s: %s, %v", method, action, err)
		}
		d := s.last(t)
		if !d.OK || !d.Touched || d.Wipe == nil || len(d.Wipe.Disks) != 1 || d.Wipe.Agent != "test" || d.Wipe.Build != "b1" {
			t.Fatalf("%s: %+v", method, d)
		}
		w := d.Wipe.Disks[0]
		if w.Asked != method || w.Command == "" || w.Verified == "" || w.Start.Before(began) || w.End.Before(w.Start) || w.Disk.Size != 12<<20 || w.Read == 0 {
			t.Errorf("%s: %+v", method, w)
		}
		if method != "auto" && w.Method != method || method == "auto" && (w.Method != "discard" || len(w.Notes) == 0) {
			t.Errorf("%s was done by %s, notes %q", method, w.Method, w.Notes)
		}
		if !isZero(t, disk) {
			t.Errorf("%s: the disk holds something", method)
		}
		if got := s.phases(); got[len(got)-1] != api.PhaseFinishing && got[len(got)-1] != api.PhaseWriting {
			t.Errorf("phases %v", got)
		}
	}
}

// What cannot be done, and a disk that is not named clearly, ends the job before anything is written.
func TestWipeIsNotBegun(t *testing.T) {
	quick(t)
	for _, c := range []struct {
		task  api.Task
		disks int
		want  string
	}{
		{wipeTask("secure-erase"), 1, "cannot be erased by secure-erase"},
		{wipeTask("crypto"), 1, "cannot be erased by crypto"},
		{wipeTask("burn"), 1, "not known"},
		{wipeTask(""), 1, "not known"},
		{wipeTask("zero"), 2, "must have exactly one fixed disk"},
	} {
		var disks []string
		for range c.disks {
			disks = append(disks, noisy(t, 2))
		}
		s := newFakeServer(t, c.task)
		if _, err := Run(t.Context(), s.config(t, disks...)); err != nil {
			t.Fatal(err)
		}
		d := s.last(t)
		if d.OK || d.Touched || d.Wipe != nil || d.Error == nil || !strings.Contains(d.Error.Message, c.want) {
			t.Errorf("%s: %+v, %+v", c.want, d, d.Error)
		}
		for _, disk := range disks {
			if b, err := os.ReadFile(disk); err != nil || !bytes.Equal(b[:16], []byte("secret! secret! ")) {
				t.Errorf("%s: the disk was written to, %v", c.want, err)
			}
		}
	}
}

func TestWipeAllDisks(t *testing.T) {
	quick(t)
	a, b := noisy(t, 2), noisy(t, 3)
	task := wipeTask("zero")
	task.AllDisks = true
	s := newFakeServer(t, task)
	if _, err := Run(t.Context(), s.config(t, a, b)); err != nil {
		t.Fatal(err)
	}
	d := s.last(t)
	if !d.OK || d.Wipe == nil || len(d.Wipe.Disks) != 2 || !isZero(t, a) || !isZero(t, b) || d.Counts["wiped"] != 5<<20 || d.Counts["checked"] != 5<<20 {
		t.Errorf("%+v, %+v", d, d.Wipe)
	}
}

// A cancel before the point of no return leaves the disk as it was.
func TestWipeCancelled(t *testing.T) {
	quick(t)
	disk := noisy(t, 2)
	s := newFakeServer(t, wipeTask("zero"))
	s.cancelAt = api.PhaseWriting
	if _, err := Run(t.Context(), s.config(t, disk)); err != nil {
		t.Fatal(err)
	}
	if d := s.last(t); d.OK || !d.Cancelled || d.Touched || isZero(t, disk) {
		t.Errorf("%+v", d)
	}
}
