package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestForgetGRUB resets a machine in the middle of its boot: what it leaves behind must not be in the way of the next
// one, which comes from the same port.
func TestForgetGRUB(t *testing.T) {
	body := bytes.Repeat([]byte("kernel "), 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: forgetGRUB(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body)
	})), ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, bootConnKey{}, c) }}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(newBootListener(ctx, l)) }()
	defer func() {
		cancel()
		srv.Close()
		<-served
	}()
	for _, c := range []struct {
		agent string
		kept  bool
	}{{"GRUB 2.06-13+deb12u2", false}, {"iPXE/1.21.1", true}} {
		t.Run(c.agent, func(t *testing.T) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: n\r\nUser-Agent: %s\r\n\r\n", c.agent)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body) // at the speed of a machine that boots
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(body), err)
			}
			from := conn.LocalAddr().(*net.TCPAddr)
			vanish(t, conn.(*net.TCPConn))
			kept := true
			for start := time.Now(); kept && time.Since(start) < time.Second; time.Sleep(20 * time.Millisecond) {
				kept = connected(t, l.Addr().(*net.TCPAddr).Port, from.Port)
			}
			if kept != c.kept {
				t.Errorf("the connection from port %d is kept: %v, want %v", from.Port, kept, c.kept)
			}
		})
	}
	// One that takes nothing is in nobody's way once its machine boots again: it is reset as soon as a port before it
	// asks, and those before that port are not.
	ask := func(port int) (net.Conn, int) {
		t.Helper()
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}).Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: n\r\nUser-Agent: GRUB 2.12\r\n\r\n")
		return conn, conn.LocalAddr().(*net.TCPAddr).Port
	}
	answered := func(c net.Conn) {
		t.Helper()
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	var ports [3]int // three in a row that are free
	for from, taken := firstGRUB, true; taken; from += 3 {
		if from > firstGRUB+100 {
			t.Fatal("no three free ports in a row")
		}
		taken = false
		for i := range ports {
			ports[i] = from + i
			o, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports[i]))
			if taken = taken || err != nil; err == nil {
				o.Close()
			}
		}
	}
	first, _ := ask(ports[0])
	slow, err := http.ReadResponse(bufio.NewReader(first), nil)
	if err != nil {
		t.Fatal(err)
	}
	last, stale := ask(ports[2])
	answered(last)
	vanish(t, last.(*net.TCPConn))
	next, _ := ask(ports[1])
	answered(next)
	if connected(t, l.Addr().(*net.TCPAddr).Port, stale) {
		t.Errorf("the connection from port %d is kept while one from port %d is served", stale, ports[1])
	}
	if got, err := io.ReadAll(slow.Body); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the connection before it got %d bytes of %d, %v", len(got), len(body), err)
	}
	next.Close()
	first.Close()
	// One that takes nothing does not keep the server from ending.
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: n\r\nUser-Agent: GRUB 2.12\r\n\r\n")
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	cancel()
	srv.Close()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the server took %v to end", d)
	}
}

// vanish ends a connection as a machine does that is reset: without a word.
func vanish(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) })
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// connected tells whether the kernel has a connection from one port to another, of any state.
func connected(t *testing.T, local, remote int) bool {
	t.Helper()
	for _, name := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if strings.HasSuffix(f[1], fmt.Sprintf(":%04X", local)) && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", remote)) {
				return true
			}
		}
	}
	return false
}
