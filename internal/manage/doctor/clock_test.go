package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mimeo/internal/manage/config"
)

// A clock that nobody keeps right is warned of, and one that cannot be right is bad.
func TestClock(t *testing.T) {
	was := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		now      time.Time
		synced   bool
		maxError time.Duration
		state    State
		text     string
	}{
		{was.Add(time.Hour), true, 3500 * time.Microsecond, OK, "kept right by a time service within 4 ms"},
		{was.Add(-10 * time.Second), true, time.Millisecond, OK, "2026-05-01T11:59:50Z"},
		{was.Add(time.Hour), false, 16 * time.Second, Warn, "nothing keeps it right; nodes are given it"},
		{was.Add(time.Hour), true, 4 * time.Second, Warn, "may be off by 4s; nodes are given it"},
		{time.Unix(0, 0).UTC(), true, 0, Bad, "1970-01-01T00:00:00Z, but the inventory is from 2026-05-01T12:00:00Z"},
		{was.Add(-time.Hour), true, 0, Bad, "but the inventory"},
		{was.AddDate(30, 0, 0), true, 0, Bad, "it says 2056-05-01"},
	} {
		d := &doctor{}
		d.judgeClock(kernelClock{tc.now, tc.synced, tc.maxError}, "the inventory", was)
		if f := d.list[0]; len(d.list) != 1 || f.Name != "clock" || f.State != tc.state || !strings.Contains(f.Text, tc.text) || (f.Hint == "") != (tc.state == OK) {
			t.Errorf("%+v: %+v", tc, d.list)
		}
	}
}

// What is read from the kernel is what another program reads there.
func TestReadClock(t *testing.T) {
	out, err := exec.Command("busybox", "adjtimex").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := readClock()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`maxerror: +(\d+)`).FindStringSubmatch(string(out))
	if m == nil {
		t.Fatalf("%s", out)
	}
	var us int64
	fmt.Sscan(m[1], &us)
	// It grows by half a millisecond a second, and jumps where a time service has just set it.
	if off := c.maxError - time.Duration(us)*time.Microsecond; off.Abs() > 100*time.Millisecond {
		t.Errorf("it may be off by %v, busybox says %s µs", c.maxError, m[1])
	}
	if unsync := strings.Contains(string(out), "UNSYNC") || strings.Contains(string(out), "return value: 5"); c.synced == unsync {
		t.Errorf("synced is %v, busybox says\n%s", c.synced, out)
	}
}

// A clock that has gone back is found out by the inventory.
func TestLastWritten(t *testing.T) {
	state := t.TempDir()
	d := &doctor{Options: Options{Config: config.Config{State: state}}}
	if what, at := d.lastWritten(); what == "the inventory" || at.After(time.Now()) {
		t.Errorf("%s, %v", what, at)
	}
	file, then := filepath.Join(state, "mimeo.db"), time.Now().Add(48*time.Hour).Truncate(time.Second)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, then, then); err != nil {
		t.Fatal(err)
	}
	if what, at := d.lastWritten(); what != "the inventory" || !at.Equal(then) {
		t.Errorf("%s, %v", what, at)
	}
	d.clock()
	if f := d.list[0]; f.State != Bad {
		t.Errorf("%+v", f)
	}
}
