package tftp

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// results collects the ends of transfers.
type results struct {
	mu  sync.Mutex
	all []Result
}

func (r *results) add(x Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, x)
}

func (r *results) get() []Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Result(nil), r.all...)
}

// serve starts a server on loopback.
func serve(t *testing.T, s *Server) netip.AddrPort {
	t.Helper()
	s.Addr = "127.0.0.1:0"
	if s.Timeout == 0 {
		s.Timeout = 30 * time.Millisecond
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	addr := s.LocalAddr()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return addr
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// folder is a root with files of several sizes.
func folder(t *testing.T) (*os.Root, map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{
		"empty": {}, "small": random(100), "block": random(512), "blocks": random(5120), "loader.efi": random(300_003),
		"sub/grub.cfg": random(700),
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, files
}

// client is a command line that fetches name from host:port into the file out.
type client struct {
	name string
	args func(host string, port int, name, out string) []string
}

var clients = []client{
	{"tftp-hpa", func(h string, p int, name, out string) []string {
		return []string{"tftp", "-m", "octet", h, strconv.Itoa(p), "-c", "get", name, out}
	}},
	{"curl", func(h string, p int, name, out string) []string {
		return []string{"curl", "-sS", "-o", out, fmt.Sprintf("tftp://%s:%d/%s", h, p, name)}
	}},
	{"curl blksize 1428", func(h string, p int, name, out string) []string {
		return []string{"curl", "-sS", "--tftp-blksize", "1428", "-o", out, fmt.Sprintf("tftp://%s:%d/%s", h, p, name)}
	}},
	{"curl no options", func(h string, p int, name, out string) []string {
		return []string{"curl", "-sS", "--tftp-no-options", "-o", out, fmt.Sprintf("tftp://%s:%d/%s", h, p, name)}
	}},
	{"atftp blksize tsize", func(h string, p int, name, out string) []string {
		return []string{"atftp", "--option", "blksize 8000", "--option", "tsize 0", "--option", "timeout 1", "-g", "-r", name, "-l", out, h, strconv.Itoa(p)}
	}},
	{"atftp windowsize", func(h string, p int, name, out string) []string {
		return []string{"atftp", "--option", "blksize 1428", "--option", "windowsize 8", "--option", "timeout 1", "-g", "-r", name, "-l", out, h, strconv.Itoa(p)}
	}},
}

func fetch(t *testing.T, c client, at netip.AddrPort, name string) ([]byte, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	args := c.args(at.Addr().String(), int(at.Port()), name, out)
	msg, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%v: %w: %s", args, err, msg)
	}
	return os.ReadFile(out)
}

func TestClientsFetch(t *testing.T) {
	root, files := folder(t)
	var res results
	at := serve(t, &Server{Open: Dir(root), Done: res.add})
	n := 0
	for _, c := range clients {
		for name, want := range files {
			if name == "empty" && strings.HasPrefix(c.name, "curl") {
				continue // it stops at a tsize of 0
			}
			got, err := fetch(t, c, at, name)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s fetched %d bytes of %s, which has %d: %v", c.name, len(got), name, len(want), err)
			}
			n++
		}
	}
	// The last acknowledgement may still be on its way.
	for end := time.Now().Add(5 * time.Second); len(res.get()) < n && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	for _, r := range res.get() {
		if r.Err != nil || r.Sent != r.Size {
			t.Errorf("%s: %d of %d bytes sent: %v", r.Name, r.Sent, r.Size, r.Err)
		}
	}
	if got := len(res.get()); got != n {
		t.Errorf("%d transfers ended, not %d", got, n)
	}
}

func TestClientsFetchOverBadLine(t *testing.T) {
	root, files := folder(t)
	at := serve(t, &Server{Open: Dir(root), Retries: 20})
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			name := "blocks"
			if strings.Contains(c.name, "size") {
				name = "loader.efi"
			}
			r := newRelay(t, at)
			got, err := fetch(t, c, r.addr, name)
			if err != nil || !bytes.Equal(got, files[name]) {
				t.Errorf("fetched %d bytes, not %d: %v", len(got), len(files[name]), err)
			}
			if lost := r.lost(); lost == 0 {
				t.Error("the line lost nothing")
			}
		})
	}
}

// relay is a line between one client and the server that loses one packet in sixteen and doubles one in ten.
type relay struct {
	addr netip.AddrPort
	mu   sync.Mutex
	rnd  *rand.Rand
	n    int
}

func newRelay(t *testing.T, server netip.AddrPort) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: front.LocalAddr().(*net.UDPAddr).AddrPort(), rnd: rand.New(rand.NewPCG(1, 2))}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		front.Close()
		back.Close()
		wg.Wait()
	})
	var mu sync.Mutex
	var from netip.AddrPort
	to := server
	wg.Go(func() {
		buf := make([]byte, 65536)
		for first := true; ; first = false {
			n, a, err := front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			from = a
			dst := to
			mu.Unlock()
			for range r.copies(first) {
				back.WriteToUDPAddrPort(buf[:n], dst)
			}
		}
	})
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, a, err := back.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			to = a // the server's port for this transfer
			dst := from
			mu.Unlock()
			for range r.copies(false) {
				front.WriteToUDPAddrPort(buf[:n], dst)
			}
		}
	})
	return r
}

// copies is how often a packet arrives. The very first is let through: how often a client repeats its request is its
// own affair.
func (r *relay) copies(first bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch x := r.rnd.IntN(80); {
	case first:
		return 1
	case x < 5:
		r.n++
		return 0
	case x < 13:
		return 2
	}
	return 1
}

func (r *relay) lost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// TestBlockNumbersGoRound fetches a file of more than 65536 blocks.
func TestBlockNumbersGoRound(t *testing.T) {
	want := random(66_000*8 + 3)
	at := serve(t, &Server{Open: func(context.Context, Request) (File, error) { return Bytes(want), nil }})
	got, err := fetch(t, client{args: func(h string, p int, name, out string) []string {
		return []string{"curl", "-sS", "--tftp-blksize", "8", "-o", out, fmt.Sprintf("tftp://%s:%d/%s", h, p, name)}
	}}, at, "big")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("fetched %d bytes, not %d: %v", len(got), len(want), err)
	}
}

// TestNoWayOut asks for what is outside of the root, and for what is no file.
func TestNoWayOut(t *testing.T) {
	root, _ := folder(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"abs": secret, "rel": "../../../../../../../../../etc/passwd", "in": "small"} {
		if err := os.Symlink(target, filepath.Join(root.Name(), link)); err != nil {
			t.Fatal(err)
		}
	}
	at := serve(t, &Server{Open: Dir(root)})
	for _, c := range []struct {
		name string
		code uint16
		ok   bool
	}{
		{name: "small", ok: true}, {name: "/small", ok: true}, {name: `\sub\grub.cfg`, ok: true}, {name: "sub//./grub.cfg", ok: true}, {name: "in", ok: true},
		{name: "nothing", code: codeNotFound}, {name: "small/x", code: codeUndefined}, {name: "sub", code: codeAccess},
		{name: "../secret", code: codeAccess}, {name: `..\secret`, code: codeAccess}, {name: "sub/../../secret", code: codeAccess},
		{name: "sub/../small", code: codeAccess}, {name: "/", code: codeAccess}, {name: ".", code: codeAccess}, {name: "a\nb", code: codeAccess},
		{name: "abs", code: codeUndefined}, {name: "rel", code: codeUndefined}, {name: secret, code: codeNotFound},
	} {
		reply := ask(t, at, []byte("\x00\x01"+c.name+"\x00octet\x00"))
		switch {
		case c.ok && (reply[1] != opData || reply[3] != 1):
			t.Errorf("%q is answered %q", c.name, reply)
		case !c.ok && (reply[1] != opError || uint16(reply[3]) != c.code):
			t.Errorf("%q is answered %q, not error %d", c.name, reply, c.code)
		}
	}
}

// ask sends one packet from a new port and gives the first answer.
func ask(t *testing.T, at netip.AddrPort, pkt []byte) []byte {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteToUDPAddrPort(pkt, at); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, from, err := conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatalf("no answer to %q: %v", pkt, err)
	}
	conn.WriteToUDPAddrPort(errorPacket(codeOptions, "enough"), from)
	return buf[:n]
}

func TestRefusals(t *testing.T) {
	root, _ := folder(t)
	at := serve(t, &Server{Open: Dir(root), MaxSessions: 1})
	for _, c := range []struct{ pkt, want string }{
		{"\x00\x02small\x00octet\x00", "\x00\x05\x00\x02this server is read-only\x00"},
		{"\x00\x01small\x00netascii\x00", "\x00\x05\x00\x04only mode octet is served\x00"},
		{"\x00\x01small\x00mail\x00", "\x00\x05\x00\x04only mode octet is served\x00"},
		{"\x00\x01small", "\x00\x05\x00\x04request does not end with a zero byte\x00"},
		{"\x00\x01\x00octet\x00", "\x00\x05\x00\x04request has no file name or no mode\x00"},
		{"\x00\x01small\x00OCTET\x00BLKSIZE\x0070000\x00tsize\x000\x00multicast\x00\x00", "\x00\x06tsize\x00100\x00"},
		{"\x00\x01small\x00octet\x00blksize\x0065500\x00windowsize\x00999\x00timeout\x003\x00",
			"\x00\x06blksize\x0065464\x00windowsize\x0064\x00timeout\x003\x00"},
		{"\x00\x01small\x00octet\x00blksize\x007\x00windowsize\x000\x00timeout\x00256\x00tsize\x00x\x00", "\x00\x03\x00\x01"},
	} {
		// With one session at a time, the one before may be just about to end.
		var got []byte
		for range 100 {
			if got = ask(t, at, []byte(c.pkt)); string(got) != "\x00\x05\x00\x00too many transfers, try again\x00" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if string(got) != c.want && !(c.want == "\x00\x03\x00\x01" && bytes.HasPrefix(got, []byte(c.want))) {
			t.Errorf("%q is answered %q, not %q", c.pkt, got, c.want)
		}
	}
}

// TestSilentReceiver is told about with an error, after the retries, and the server lets go of the file.
func TestSilentReceiver(t *testing.T) {
	done := make(chan Result, 1)
	at := serve(t, &Server{Timeout: time.Millisecond, Retries: 3, Done: func(r Result) { done <- r },
		Open: func(context.Context, Request) (File, error) { return Bytes(random(5000)), nil }})
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 { // the same request again is no second transfer
		conn.WriteToUDPAddrPort([]byte("\x00\x01x\x00octet\x00"), at)
	}
	select {
	case r := <-done:
		if r.Err == nil || r.Sent != 0 || r.Remote != conn.LocalAddr().(*net.UDPAddr).AddrPort() || r.Local != at.Addr() {
			t.Errorf("result is %+v", r)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the transfer did not end")
	}
	packets := 0
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	for buf := make([]byte, 2048); ; packets++ {
		if _, err := conn.Read(buf); err != nil {
			break
		}
	}
	if packets != 4 {
		t.Errorf("block 1 was sent %d times, not 4", packets)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x00\x01small\x00octet\x00"))
	f.Add([]byte("\x00\x01/a\\b\x00octet\x00blksize\x001468\x00tsize\x000\x00windowsize\x004\x00timeout\x005\x00"))
	f.Add([]byte("\x00\x02a\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRRQ(b)
		if err != nil {
			return
		}
		if r.block != 0 && (r.block < minBlock || r.block > maxBlock) || r.window < 0 || r.window > maxWindow ||
			r.timeout < 0 || r.timeout > 255*time.Second {
			t.Errorf("out of bounds: %+v", r)
		}
		if name, err := cleanName(r.name); err == nil && (!fs.ValidPath(name) || name == ".") {
			t.Errorf("name %q became %q", r.name, name)
		}
		if oack := r.oack(1); len(r.order) > 4 || oack[1] != opOAck || (len(r.order) > 0 && oack[len(oack)-1] != 0) {
			t.Errorf("answer is %q", oack)
		}
	})
}

// TestOneAddressTakesAFewSessions has one machine ask for files that it never takes: others are served all the same.
func TestOneAddressTakesAFewSessions(t *testing.T) {
	root, _ := folder(t)
	at := serve(t, &Server{Open: Dir(root), MaxSessions: 16, Timeout: time.Second})
	open := func(from string) string {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := c.WriteToUDPAddrPort([]byte("\x00\x01small\x00octet\x00"), at); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 600)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:min(n, 30)])
	}
	for i, want := range []string{"\x00\x03\x00\x01", "\x00\x03\x00\x01", "\x00\x05\x00\x00too many transfers to this"} {
		if got := open("127.0.0.1"); !strings.HasPrefix(got, want) {
			t.Errorf("request %d is answered %q", i+1, got)
		}
	}
	if got := open("127.0.0.2"); !strings.HasPrefix(got, "\x00\x03\x00\x01") {
		t.Errorf("another machine is answered %q", got)
	}
}
