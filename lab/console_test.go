package lab

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/lab/rack"
)

// TestConsole types at a real node through mimeod, its BMC and the command line in a terminal: it stops iPXE, gives it a
// command, and sees what comes of it.
func TestConsole(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	r := newRack(t, ctx)
	startServer(t, ctx, r)
	disk := filepath.Join(r.Dir, "n01.img")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	_, bmc, err := r.AddNode(ctx, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:02:01", Disk: disk, Serial: "D1", Memory: 256})
	if err != nil {
		t.Fatal(err)
	}
	mimeo(t, ctx, r, "node", "add", "n01", "--mac", "52:54:00:77:02:01", "--bmc", "ipmi://"+bmc, "--user", rack.BMCUser, "--set", "bmc.password="+rack.BMCPassword)

	cli := r.CLI(ctx, "console", "n01")
	cmd := exec.CommandContext(ctx, "script", "-q", "-e", "-c", strings.Join(cli.Args, " "), "/dev/null") // gives it a terminal
	cmd.Env = cli.Env
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	screen := &screen{}
	cmd.Stdout, cmd.Stderr = screen, screen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	screen.wait(t, ctx, "the console of n01, by IPMI Serial over LAN", nil)
	mimeo(t, ctx, r, "power", "n01", "on") // beside the console, by another session
	// The first line may be gone before the BMC has the machine's port, which opens with its power.
	screen.wait(t, ctx, "starting execution", nil)
	screen.wait(t, ctx, "iPXE>", func() { io.WriteString(keys, "\x02") })
	for _, word := range []string{"echo ", "typed ", "at ", "${manu", "facturer}"} { // iPXE has room for 16 characters
		mark := screen.size()
		io.WriteString(keys, word)
		screen.waitFrom(t, ctx, mark, word, nil)
	}
	io.WriteString(keys, "\r")
	screen.wait(t, ctx, "typed at Mimeo", nil)
	if out := mimeo(t, ctx, r, "power", "n01", "status"); !strings.Contains(out, "on") {
		t.Errorf("power status beside the console: %q", out)
	}
	// The line outlives the machine's power.
	mimeo(t, ctx, r, "power", "n01", "off")
	mark := screen.size()
	mimeo(t, ctx, r, "power", "n01", "on")
	screen.waitFrom(t, ctx, mark, "starting execution", nil)
	io.WriteString(keys, "\r~.")
	if err := cmd.Wait(); err != nil {
		t.Errorf("mimeo console ends with %v", err)
	}
	out := mimeo(t, ctx, r, "console", "n01", "--replay", "--plain")
	for _, want := range []string{"starting execution", "typed at Mimeo", "[the line is open, by IPMI Serial over LAN]"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log has no %q:\n%s", want, out)
		}
	}
}

// screen is what a terminal shows.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Len()
}

func (s *screen) wait(t *testing.T, ctx context.Context, text string, meanwhile func()) {
	t.Helper()
	s.waitFrom(t, ctx, 0, text, meanwhile)
}

// waitFrom waits for a text after the first bytes, and does something now and then until it comes.
func (s *screen) waitFrom(t *testing.T, ctx context.Context, from int, text string, meanwhile func()) {
	t.Helper()
	for {
		s.mu.Lock()
		shown := s.b.String()
		s.mu.Unlock()
		if strings.Contains(shown[from:], text) {
			return
		}
		if meanwhile != nil {
			meanwhile()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the terminal does not show %q:\n%q", text, shown)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
