package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
)

// peak is the most memory in bytes that a server of a state folder has ever had.
func peak(t *testing.T, state string) int64 {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range all {
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(status), "cmdline"))
		args := strings.Split(string(line), "\x00")
		if filepath.Base(args[0]) != "mimeod" || !strings.Contains(string(line), "\x00"+state+"\x00") {
			continue
		}
		b, err := os.ReadFile(status)
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(b), "VmHWM:")
		n, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n << 10
	}
	t.Fatalf("no mimeod of %s", state)
	return 0
}

// Sixteen nodes are captured at once, where twelve may be: four wait for their turn. All come through, and the server's
// memory stays far below what it may spend on each.
func TestSixteenCaptures(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	const nodes, most = 16, 12
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	config := filepath.Join(t.TempDir(), "mimeod.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "jobs:\n  max_captures: %d\n", most), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &faultLab{t: t, ctx: ctx, Rack: newRack(t, ctx)}
	fakeStateless(t, l.State)
	startServer(t, ctx, l.Rack, "--config", config)
	for i := range nodes {
		name := fmt.Sprintf("c%02d", i+1)
		disk := filepath.Join(l.Dir, name+".img")
		script := `set -e; head -c 80M /dev/urandom >"$1"; sgdisk -Zog -n 1:1M:0 "$1" >/dev/null`
		if out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", disk).CombinedOutput(); err != nil {
			t.Fatalf("make a disk: %v: %s", err, out)
		}
		l.node(name, i+1, disk)
	}
	before := peak(t, l.State)
	begun := time.Now()
	var ids []string
	for i := range nodes {
		ids = append(ids, l.start("capture", fmt.Sprintf("c%02d", i+1), "--image", fmt.Sprintf("many%d", i+1)))
	}
	waited := false
	for left := nodes; left > 0; time.Sleep(100 * time.Millisecond) {
		var jobs []api.Job
		if err := json.Unmarshal([]byte(mimeo(t, ctx, l.Rack, "job", "list", "--json")), &jobs); err != nil {
			t.Fatal(err)
		}
		left = 0
		queued, reading := 0, []int64{}
		for _, j := range jobs {
			switch {
			case j.Phase == api.PhaseQueued:
				queued++
			case j.Phase == api.PhaseCapturing:
				reading = append(reading, j.Done>>20)
			}
			if j.Active {
				left++
			}
		}
		if working := left - queued; working > most {
			t.Fatalf("%d captures are at work, want at most %d", working, most)
		}
		waited = waited || queued >= nodes-most
		if len(reading) == most {
			t.Logf("MiB captured of each: %d", reading)
		}
	}
	grown := peak(t, l.State) - before
	t.Logf("%d captures of 80 MiB took %v; mimeod had %d MiB more than before, at most", nodes, time.Since(begun).Round(time.Second), grown>>20)
	if !waited {
		t.Errorf("not as many as %d waited for their turn", nodes-most)
	}
	if grown > most*64<<20 {
		t.Errorf("mimeod took %d MiB for %d captures, more than 64 MiB for each", grown>>20, most)
	}
	for i, id := range ids {
		l.done(id)
		mimeo(t, ctx, l.Rack, "image", "verify", fmt.Sprintf("many%d@1", i+1))
	}
}
