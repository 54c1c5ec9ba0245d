package ipmi

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

// TestConsoleOfForeignBMC holds the console against OpenIPMI's simulator, whose serial port is a TCP connection here.
func TestConsoleOfForeignBMC(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	_, serial, _ := net.SplitHostPort(ln.Addr().String())
	pc.Close()
	conf := fmt.Sprintf(`name "node1"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 %s
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  sol "tcp:127.0.0.1:%s" 115200
  user 1 true "" "test" user 10 none md2 md5 straight
  user 2 true "ops" "secret" admin 10 none md2 md5 straight
`, port, serial)
	emu := "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n"
	for name, text := range map[string]string{"lan.conf": conf, "sim.emu": emu} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sim := exec.Command("ipmi_sim", "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "sim.emu"), "-n", "-s", dir)
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { sim.Process.Kill(); sim.Wait() }()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	machine, err := ln.Accept()
	if err != nil {
		t.Fatal("the simulator does not open the serial port: ", err)
	}
	defer machine.Close()

	o := quick("127.0.0.1:" + port)
	o.CipherSuite, o.Wait = 3, 400*time.Millisecond
	s := newSOL(t, o)
	l := dial(t, s, false)
	said, typed := noise(4000), noise(500)
	go machine.Write(said)
	if got := hear(t, l, len(said)); !bytes.Equal(got, said) {
		t.Errorf("the console shows something else than the machine says (%d bytes)", len(got))
	}
	sent := make(chan error, 1)
	go func() { sent <- l.Send(t.Context(), typed) }()
	got := make([]byte, len(typed))
	machine.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(machine, got); err != nil || !bytes.Equal(got, typed) {
		t.Errorf("the machine gets something else than what is typed: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	_, err = newSOL(t, o).Dial(t.Context(), false)
	wantError(t, err, power.ErrTaken, "another session")
	l.Close()
	l = dial(t, newSOL(t, o), false)
	go machine.Write([]byte("again"))
	if got := hear(t, l, 5); string(got) != "again" {
		t.Errorf("after opening it again: %q", got)
	}
}

// TestForeignConsoles holds the virtual BMC's console against clients that are not ours: it is what our client is
// tested with.
func TestForeignConsoles(t *testing.T) {
	for name, command := range map[string]func(host, port string) []string{
		"ipmitool": func(host, port string) []string {
			return []string{"ipmitool", "-I", "lanplus", "-C", "17", "-H", host, "-p", port, "-U", "ops", "-P", "secret", "sol", "activate"}
		},
		"ipmiconsole": func(host, _ string) []string {
			return []string{"ipmiconsole", "-h", host, "-u", "ops", "-p", "secret", "-I", "17"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := vbmc.New(powertest.NewMachine(), "ops", "secret")
			port := newSerial(b)
			at := "127.0.0.1:0"
			if name == "ipmiconsole" {
				at = "127.83.79.76:623" // it knows no other port
			}
			host, udp, _ := net.SplitHostPort(serveAt(t, b, at))
			// They want a terminal; script gives them one.
			cmd := exec.Command("script", "-q", "-e", "-c", strings.Join(command(host, udp), " "), "/dev/null")
			cmd.Env = append(os.Environ(), "TERM=dumb")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out := &lockedBuffer{}
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer func() {
				in.Close()
				cmd.Process.Kill()
				<-ended
			}()
			text := strings.Repeat("0123456789 abcdefghij\r\n", 40)
			go port.Print([]byte(text)) // when the console is open
			out.wait(t, text)
			io.WriteString(in, "typed at it\r")
			if got := port.Typed(t, 12); string(got) != "typed at it\r" {
				t.Errorf("typed: %q", got)
			}
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) wait(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		l.mu.Lock()
		s := l.b.String()
		l.mu.Unlock()
		if strings.Contains(s, text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%q was not shown:\n%q", text[:20], s)
		}
	}
}
