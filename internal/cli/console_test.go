package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/power/powertest"
	"mimeo/internal/manage/server"
	"mimeo/lab/vbmc"
)

// consoleLab is the real server, with a node n1 whose BMC is virtual and whose machine is the test.
type consoleLab struct {
	t     *testing.T
	bmc   *vbmc.BMC
	port  *powertest.Port
	state string
	stop  func()
}

func newConsoleLab(t *testing.T) *consoleLab {
	t.Helper()
	l := &consoleLab{t: t, state: t.TempDir(), bmc: vbmc.New(powertest.NewMachine(), "ops", "secret"), port: powertest.NewPort()}
	l.bmc.Serial = l.port.Open
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Config{State: l.state, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"}
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), cfg, "test", slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, answered := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	bmcCtx, bmcStop := context.WithCancel(context.Background())
	go func() { answered <- l.bmc.ServeIPMI(bmcCtx, pc) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		l.stop()
		bmcStop()
		<-answered
	})
	var a client.Access
	b, err := os.ReadFile(filepath.Join(l.state, "admin.json"))
	if err != nil || json.Unmarshal(b, &a) != nil {
		t.Fatal("admin.json: ", err)
	}
	add := api.NodeAdd{Range: "n[1-2]", Set: map[string]string{}, PerNode: map[node.Name]map[string]string{
		"n1": {"mac": "52:54:00:00:00:01", "bmc": "ipmi://" + pc.LocalAddr().String(), "bmc.user": "ops", "bmc.password": "secret"}, "n2": {"mac": "52:54:00:00:00:02"}}}
	if err := client.New(a).Do(t.Context(), http.MethodPost, "/v1/nodes", add, nil); err != nil {
		t.Fatal(err)
	}
	return l
}

// command is mimeo in a process of its own.
func (l *consoleLab) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "mimeo"
	cmd.Env = append(os.Environ(), "MIMEO_ADMIN_FILE="+filepath.Join(l.state, "admin.json"), "TZ=UTC")
	return cmd
}

// runs calls mimeo without a terminal and expects an exit code.
func (l *consoleLab) runs(code int, stdin string, args ...string) (out, errs string) {
	l.t.Helper()
	var o, e bytes.Buffer
	cmd := l.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
	cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		l.t.Errorf("mimeo %q ends with %d, want %d:\n%s%s", args, got, code, o.String(), e.String())
	}
	return o.String(), e.String()
}

// tty is a terminal with mimeo in it.
type tty struct {
	t       *testing.T
	keys    *os.File // and what it shows
	slave   *os.File
	before  unix.Termios
	cmd     *exec.Cmd
	ended   chan struct{}
	mu      sync.Mutex
	showed  bytes.Buffer
	showing sync.WaitGroup
}

func (l *consoleLab) open(args ...string) *tty {
	l.t.Helper()
	return l.openCommand(l.command(args...))
}

func (l *consoleLab) openCommand(cmd *exec.Cmd) *tty {
	t := l.t
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := keys.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	y := &tty{t: t, keys: keys, slave: slave, cmd: cmd, ended: make(chan struct{})}
	y.before = y.settings()
	y.cmd.Stdin, y.cmd.Stdout, y.cmd.Stderr = slave, slave, slave
	y.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := y.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { y.cmd.Wait(); close(y.ended) }()
	y.showing.Go(func() {
		buf := [4096]byte{}
		for {
			n, err := keys.Read(buf[:])
			y.mu.Lock()
			y.showed.Write(buf[:n])
			y.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		y.cmd.Process.Kill()
		<-y.ended
		slave.Close()
		keys.Close()
		y.showing.Wait()
	})
	return y
}

func (y *tty) settings() unix.Termios {
	s, err := unix.IoctlGetTermios(int(y.slave.Fd()), unix.TCGETS)
	if err != nil {
		y.t.Fatal(err)
	}
	return *s
}

func (y *tty) shows(text string) {
	y.t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		y.mu.Lock()
		s := y.showed.String()
		y.mu.Unlock()
		if strings.Contains(s, text) {
			return
		}
		if time.Now().After(end) {
			y.t.Fatalf("the terminal does not show %q:\n%q", text, s)
		}
	}
}

func (y *tty) keysIn(text string) {
	if _, err := io.WriteString(y.keys, text); err != nil {
		y.t.Fatal(err)
	}
}

// ends waits for mimeo's end: its exit code, and the terminal as it was.
func (y *tty) ends(code int) {
	y.t.Helper()
	select {
	case <-y.ended:
	case <-time.After(15 * time.Second):
		y.t.Fatalf("mimeo does not end; it showed %q", y.showed.String())
	}
	if got := y.cmd.ProcessState.ExitCode(); got != code {
		y.t.Errorf("it ends with %d, want %d; it showed %q", got, code, y.showed.String())
	}
	if now := y.settings(); now != y.before {
		y.t.Errorf("the terminal is left as %+v; it was %+v", now, y.before)
	}
}

func TestConsoleInTerminal(t *testing.T) {
	l := newConsoleLab(t)
	y := l.open("console", "n1")
	y.shows("the console of n1, by IPMI Serial over LAN. Leave with ~.")
	if y.settings() == y.before {
		t.Error("the terminal is not raw")
	}
	l.port.Print([]byte("\x1b[1mlogin:\x1b[0m "))
	y.shows("\x1b[1mlogin:\x1b[0m ")
	y.keysIn("a~.b\x03\x1a\r~~x\r") // all of it for the node, but for one ~
	if got := l.port.Typed(t, 10); string(got) != "a~.b\x03\x1a\r~x\r" {
		t.Errorf("typed %q", got)
	}
	y.keysIn("~B~?")
	y.shows("~B send a break")
	for end := time.Now().Add(5 * time.Second); l.bmc.Breaks() == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if l.bmc.Breaks() != 1 {
		t.Error("no break came")
	}

	// Somebody else looks on, and may not type.
	_, errs := l.runs(4, "", "console", "n1")
	if !strings.Contains(errs, "types at the console of n1") || !strings.Contains(errs, "hint: look on with --watch") {
		t.Errorf("a second one is told %q", errs)
	}
	w := l.open("console", "n1", "--watch")
	w.shows("to watch; attached too: admin from 127.0.0.1")
	w.shows("login:")
	y.shows("admin from 127.0.0.1 attached, to watch")
	w.keysIn("no\r\x03")
	w.ends(0)
	s := l.open("console", "n1", "--share", "--escape", "^]")
	s.shows("Leave with ^].")
	s.keysIn("~.\r")
	if got := l.port.Typed(t, 13); string(got[10:]) != "~.\r" {
		t.Errorf("typed %q", got[10:])
	}
	s.keysIn("\x1d.")
	s.ends(0)

	y.keysIn("\r~.")
	y.ends(0)
	out, _ := l.runs(0, "", "node", "events", "n1")
	for _, want := range []string{"serial console: admin attached", "serial console: admin attached, to watch", "serial console: admin left"} {
		if !strings.Contains(out, want) {
			t.Errorf("the node's events have no %q:\n%s", want, out)
		}
	}
}

// Control-Z stops it as other programs, under a shell that has jobs.
func TestConsoleIsSuspended(t *testing.T) {
	l := newConsoleLab(t)
	cmd := l.command()
	cmd.Path, cmd.Args = "/bin/bash", []string{"bash", "-mc", "mimeo console n1; echo it is stopped; read line; fg"}
	y := l.openCommand(cmd)
	y.shows("the console of n1")
	y.keysIn("~\x1a")
	y.shows("it is stopped")
	if now := y.settings(); now != y.before {
		t.Errorf("suspended, it leaves the terminal as %+v", now)
	}
	y.keysIn("\n")
	for end := time.Now().Add(5 * time.Second); y.settings() == y.before && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	l.port.Print([]byte("go on"))
	y.shows("go on")
	y.keysIn("~.")
	y.ends(0)
}

func TestConsoleLeavesTerminal(t *testing.T) {
	l := newConsoleLab(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		y := l.open("console", "n1", "--share")
		y.shows("the console of n1")
		y.cmd.Process.Signal(sig)
		y.ends(map[bool]int{true: 0, false: 130}[sig == syscall.SIGHUP])
	}
	y := l.open("console", "n1", "--share")
	y.shows("the console of n1")
	l.stop()
	y.shows("mimeod is being stopped")
	y.ends(5)
}

func TestConsoleInScripts(t *testing.T) {
	l := newConsoleLab(t)
	go func() {
		l.port.Print([]byte("SeaBIOS\r\nn1 login: "))
		l.port.Typed(t, 5)
		time.Sleep(50 * time.Millisecond)
		l.port.Print([]byte("root\r\nPassword: "))
	}()
	out, errs := l.runs(0, "root\r", "console", "n1", "--expect", "Pass.*:", "--timeout", "20s")
	if !strings.HasSuffix(out, "root\r\nPassword: ") || !strings.Contains(errs, "mimeo: left the console of n1") {
		t.Errorf("printed %q, %q", out, errs)
	}
	_, errs = l.runs(1, "", "console", "n1", "--expect", "never", "--timeout", "100ms")
	if !strings.Contains(errs, `did not show "never" within 100ms`) {
		t.Errorf("printed %q", errs)
	}
	l.runs(0, "", "console", "n1", "--watch", "--timeout", "100ms")

	out, _ = l.runs(0, "", "console", "n1", "--replay")
	if !strings.Contains(out, "SeaBIOS\r\nn1 login: root\r\nPassword: ") {
		t.Errorf("replayed %q", out)
	}
	out, _ = l.runs(0, "", "console", "n1", "--replay", "--plain", "--since", "1h")
	if lines := strings.Split(out, "\n"); len(lines) < 3 || !strings.HasSuffix(lines[1], "  SeaBIOS") || !strings.HasPrefix(lines[1], time.Now().UTC().Format("2006-01-02 ")) {
		t.Errorf("replayed %q", out)
	}
	out, _ = l.runs(0, "", "console", "n1", "--replay", "--json")
	if !strings.Contains(out, `"text":"SeaBIOS\r\nn1 login: "`) {
		t.Errorf("replayed %q", out)
	}
	start := time.Now()
	l.runs(0, "", "console", "n1", "--replay", "--speed", "1", "--max-pause", "300ms")
	if took := time.Since(start); took < 150*time.Millisecond || took > 5*time.Second {
		t.Errorf("with the pauses of then it took %v", took)
	}

	for _, tc := range []struct {
		code int
		says string
		args []string
	}{
		{3, "nothing is logged of the console of n2", []string{"n2", "--replay"}},
		{3, `no node "n9"`, []string{"n9"}},
		{1, "n2 has no BMC", []string{"n2"}},
		{2, "--speed is for --replay", []string{"n1", "--speed", "2"}},
		{2, "--force is not for --replay", []string{"n1", "--replay", "--force"}},
		{2, "want one character", []string{"n1", "--escape", "ab"}},
		{2, "--expect", []string{"n1", "--expect", "("}},
		{2, "not with --watch", []string{"n1", "--watch", "--force"}},
		{2, "want something like 10m", []string{"n1", "--replay", "--since", "yesterday"}},
	} {
		_, errs := l.runs(tc.code, "", append([]string{"console"}, tc.args...)...)
		if !strings.Contains(errs, tc.says) {
			t.Errorf("%q says %q, want %q", tc.args, errs, tc.says)
		}
	}
}

func TestEscape(t *testing.T) {
	for _, tc := range []struct{ char, in, send, acts string }{
		{"~", "~.", "", "."},
		{"~", "~~.", "~.", ""},
		{"~", "a~.", "a~.", ""},
		{"~", "a\r~.", "a\r", "."},
		{"~", "a\n~Bb~B", "a\nb~B", "B"},
		{"~", "~x", "~x", ""},
		{"~", "~?~.", "", "?."},
		{"~", "~\r~.", "~\r", "."},
		{"none", "~.", "~.", ""},
		{"^a", "~.\r\x01.", "~.\r", "."},
	} {
		for _, whole := range []bool{true, false} {
			e, err := parseEscape(tc.char)
			if err != nil {
				t.Fatal(err)
			}
			var send, acts []byte
			pieces := [][]byte{[]byte(tc.in)}
			if !whole {
				pieces = bytes.SplitAfter([]byte(tc.in), nil)
			}
			for _, p := range pieces {
				e.feed(p, func(b []byte) { send = append(send, b...) }, func(c byte) { acts = append(acts, c) })
			}
			if string(send) != tc.send || string(acts) != tc.acts {
				t.Errorf("%s %q: sends %q and does %q, want %q, %q", tc.char, tc.in, send, acts, tc.send, tc.acts)
			}
		}
	}
}
