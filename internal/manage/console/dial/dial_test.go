package dial

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/console"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bmc is a virtual one: IPMI at its port, Redfish at another one of the same address.
type bmc struct {
	*vbmc.BMC
	port *powertest.Port
	node node.Node
}

func newBMC(t *testing.T, host string, change func(*vbmc.BMC)) *bmc {
	t.Helper()
	b := &bmc{BMC: vbmc.New(powertest.NewMachine(), "ops", "secret"), port: powertest.NewPort()}
	b.Serial = b.port.Open
	change(b.BMC)
	pc, err := net.ListenPacket("udp4", host+":623")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: b.Handler()}
	var served sync.WaitGroup
	served.Go(func() { b.ServeIPMI(ctx, pc) })
	served.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		cancel()
		srv.Close()
		served.Wait()
	})
	b.node = node.Node{Name: "n1", BMC: node.BMC{URL: "redfish+http://" + ln.Addr().String(), User: "ops"}}
	return b
}

func open(t *testing.T, n node.Node, dir string) (console.Way, console.Line) {
	t.Helper()
	w, err := Open(n, "secret", dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := w.Dial(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return w, l
}

func hear(t *testing.T, l console.Line, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got := ""
	for !strings.Contains(got, text) {
		data, _, err := l.Receive(ctx)
		if err != nil {
			t.Fatalf("waited for %q, got %q: %v", text, got, err)
		}
		got += string(data)
	}
}

func TestSerialOverLAN(t *testing.T) {
	on := map[string]any{"ServiceEnabled": true}
	for name, c := range map[string]struct {
		url    string
		change func(*vbmc.BMC)
		way    string
	}{
		"IPMI":   {"ipmi://127.83.79.78", func(*vbmc.BMC) {}, "IPMI Serial over LAN"},
		"system": {"", func(b *vbmc.BMC) { b.Redfish.Console = map[string]any{"IPMI": on} }, "Redfish service says"},
		"manager": {"", func(b *vbmc.BMC) {
			b.Redfish.ConsoleOfManager = map[string]any{"ServiceEnabled": true, "ConnectTypesSupported": []string{"SSH", "IPMI"}}
		}, "Redfish service says"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBMC(t, "127.83.79.78", c.change)
			if c.url != "" {
				b.node.BMC.URL = c.url
			}
			w, l := open(t, b.node, t.TempDir())
			if !strings.Contains(w.String(), c.way) {
				t.Errorf("the way is %q", w)
			}
			go b.port.Print([]byte("login: "))
			hear(t, l, "login: ")
			if err := l.Send(t.Context(), []byte("root")); err != nil {
				t.Fatal(err)
			}
			b.port.Typed(t, 4)
			// The same BMC and account: the same way, which knows its old session.
			if again, err := Open(b.node, "secret", "", w); err != nil || again != w {
				t.Errorf("another way for the same BMC: %v", err)
			}
			if again, err := Open(b.node, "other", "", w); err != nil || again == w {
				t.Errorf("the same way for another password: %v", err)
			}
		})
	}
}

func TestNoConsole(t *testing.T) {
	off := map[string]any{"ServiceEnabled": false}
	b := newBMC(t, "127.83.79.79", func(b *vbmc.BMC) {
		b.Redfish.Console = map[string]any{"IPMI": off, "SSH": map[string]any{"SharedWithManagerCLI": true}}
		b.Redfish.ConsoleOfManager = map[string]any{"ServiceEnabled": false, "ConnectTypesSupported": []string{"IPMI"}}
	})
	w, err := Open(b.node, "secret", t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Dial(t.Context(), false)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != "refused" || !strings.Contains(e.Message, "no serial console that is switched on") || !strings.Contains(e.Hint, "bmc=ipmi://127.83.79.79") {
		t.Errorf("%v", err)
	}
	if n := b.Sessions(); n != 0 {
		t.Errorf("%d Redfish sessions are left behind", n)
	}
}

// sshBMC is a BMC's SSH service with a command line: "console" leads to an echo.
type sshBMC struct {
	key    atomic.Value // ssh.Signer
	breaks chan uint32
	conns  chan net.Conn
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (b *sshBMC) serve(t *testing.T, host string) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp4", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { ln.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() { b.one(c) })
		}
	})
	_, p, _ := net.SplitHostPort(ln.Addr().String())
	port, _ = strconv.Atoi(p)
	return port
}

func (b *sshBMC) one(c net.Conn) {
	defer c.Close()
	config := &ssh.ServerConfig{KeyboardInteractiveCallback: func(m ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		a, err := ask("", "", []string{"Password: "}, []bool{false})
		if err != nil || len(a) != 1 || a[0] != "secret" || m.User() != "ops" {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	config.AddHostKey(b.key.Load().(ssh.Signer))
	_, chans, reqs, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	b.conns <- c
	for nc := range chans {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range reqs {
				if r.Type == "break" {
					b.breaks <- binary.BigEndian.Uint32(r.Payload)
				}
				r.Reply(r.Type == "shell" || r.Type == "break", nil) // there are no terminals to give
			}
		}()
		go func() {
			defer ch.Close()
			ch.Write([]byte("BMC> "))
			buf := [100]byte{}
			line := ""
			for !strings.HasSuffix(line, "\r") {
				n, err := ch.Read(buf[:])
				if err != nil {
					return
				}
				line += string(buf[:n])
			}
			if line != "console com2\r" {
				ch.Write([]byte("what?\r\n"))
				return
			}
			ch.Write([]byte("Connected to COM2\r\n"))
			for {
				n, err := ch.Read(buf[:])
				if err != nil {
					return
				}
				ch.Write([]byte("<" + string(buf[:n]) + ">"))
			}
		}()
	}
}

func TestSSH(t *testing.T) {
	const host = "127.83.79.80"
	s := &sshBMC{breaks: make(chan uint32, 1), conns: make(chan net.Conn, 10)}
	s.key.Store(newKey(t))
	port := s.serve(t, host)
	b := newBMC(t, host, func(b *vbmc.BMC) {
		b.Redfish.Console = map[string]any{"SSH": map[string]any{"ServiceEnabled": true, "Port": port, "SharedWithManagerCLI": true, "ConsoleEntryCommand": "console com2"}}
	})
	dir := filepath.Join(t.TempDir(), "n1")
	w, l := open(t, b.node, dir)
	if w.String() != "SSH to its BMC" {
		t.Errorf("the way is %q", w)
	}
	hear(t, l, "Connected to COM2")
	if err := errors.Join(l.Send(t.Context(), []byte("a\x03b")), l.Break(t.Context())); err != nil {
		t.Fatal(err)
	}
	hear(t, l, "<a\x03b>")
	if ms := <-s.breaks; ms != 500 {
		t.Errorf("a break of %d ms", ms)
	}
	l.Close()

	// A line that is cut says so.
	for len(s.conns) > 0 {
		<-s.conns
	}
	_, l = open(t, b.node, dir)
	(<-s.conns).Close()
	for {
		if _, _, err := l.Receive(t.Context()); err != nil {
			var e *api.Error
			if !errors.As(err, &e) || e.Code != "unreachable" {
				t.Errorf("a line that is cut: %v", err)
			}
			break
		}
	}

	fails := func(password, code, says string) {
		t.Helper()
		w, err := Open(b.node, password, dir, nil)
		if err == nil {
			_, err = w.Dial(t.Context(), false)
		}
		var e *api.Error
		if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, says) || strings.Contains(err.Error()+e.Hint, password) {
			t.Errorf("got %v, want %s %q", err, code, says)
		}
	}
	fails("wrong", "denied", `refused user "ops"`)
	// Another key may be somebody in between, who must not be told the password.
	s.key.Store(newKey(t))
	fails("secret", "denied", "another SSH host key than before: SHA256:")
	file := filepath.Join(dir, "ssh-host-key")
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	b.node.BMC.Insecure = true
	_, l = open(t, b.node, dir)
	hear(t, l, "Connected")
	b.node.BMC.Insecure = false
	os.Remove(file)
	_, l = open(t, b.node, dir)
	hear(t, l, "Connected")
}
