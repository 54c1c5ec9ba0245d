package ipmi

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

func TestSealOpens(t *testing.T) {
	for _, s := range []suite{suite3, suite17} {
		k, err := newKeys(s, []byte("session integrity key"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 70 {
			plain := bytes.Repeat([]byte{0xa5}, n)
			raw := k.seal(payloadIPMI, 7, 9, plain)
			p, err := parsePacket(raw)
			if err != nil || p.id != 7 || p.seq != 9 || !p.sealed {
				t.Fatalf("suite %d, %d bytes: %+v, %v", s.id, n, p, err)
			}
			if got, err := k.open(p); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("suite %d, %d bytes: %x, %v", s.id, n, got, err)
			}
			for i := range raw {
				bad := bytes.Clone(raw)
				bad[i] ^= 1
				if p, err := parsePacket(bad); err == nil && i > 3 {
					if _, err := k.open(p); err == nil {
						t.Fatalf("suite %d, %d bytes: byte %d may be changed", s.id, n, i)
					}
				}
			}
		}
	}
}

func TestNumbersComeOnce(t *testing.T) {
	c := &session{}
	for _, step := range []struct {
		seq  uint32
		want bool
	}{{0, false}, {1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {3, false}, {40, true}, {8, false}, {9, true}, {9, false}, {40, false}, {1000, true}, {41, false}, {999, true}} {
		if got := c.fresh(step.seq); got != step.want {
			t.Errorf("%d is fresh: %v, want %v", step.seq, got, step.want)
		}
	}
}

// liar sends what nobody asked for before each packet that it lets through.
type liar struct {
	net.PacketConn
	mu   sync.Mutex
	last []byte
}

func (l *liar) WriteTo(p []byte, addr net.Addr) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lies [][]byte
	for n := range len(p) {
		lies = append(lies, p[:n])
	}
	for i := 4; i < len(p); i++ {
		b := bytes.Clone(p)
		b[i] ^= 0x41
		// Before there are keys nothing can tell a message that was changed on its way from another one.
		if p[5]&0xc0 == 0xc0 || i < headerLen+2 && i != 5 {
			lies = append(lies, b)
		}
	}
	// Encrypted, it says, and four bytes long.
	lies = append(lies, append(append(bytes.Clone(p[:14]), 4, 0, 1, 2, 3, 4, 0xff, 0xff, 0, 7), make([]byte, 16)...))
	// The same answer without encryption, and the one before once more.
	bare := bytes.Clone(p)
	bare[5] &^= 0xc0
	lies = append(lies, bare, l.last)
	for _, lie := range lies {
		if !bytes.Equal(lie, p) {
			l.PacketConn.WriteTo(lie, addr)
		}
	}
	l.last = bytes.Clone(p)
	return l.PacketConn.WriteTo(p, addr)
}

// TestLies holds the client against somebody on the wire who sends it packets: in a session none of them counts.
func TestLies(t *testing.T) {
	for _, suite := range []int{3, 17} {
		m := powertest.NewMachine()
		b := vbmc.New(m, "ops", "secret")
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := pc.LocalAddr().String()
		ctx, cancel := context.WithCancel(context.Background())
		var served sync.WaitGroup
		served.Go(func() { b.ServeIPMI(ctx, &liar{PacketConn: pc}) })
		o := quick(addr)
		o.CipherSuite, o.Wait = suite, time.Second
		powertest.Run(t, m, func(t *testing.T) power.Controller { return open(t, o) })
		cancel()
		served.Wait()
	}
}

// FuzzConversation answers a whole login with packets that are the fuzzer's.
func FuzzConversation(f *testing.F) {
	ok := append([]byte{0, 0, 4, 0}, make([]byte, 40)...)
	for _, kind := range []byte{payloadOpenResponse, payloadRAKP2, payloadRAKP4, 0xc0} {
		f.Add(kind, ok)
	}
	f.Add(byte(payloadOpenResponse), []byte{0, 0x11})
	k, _ := newKeys(suite17, []byte("k"))
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		if len(payload) > maxPacket {
			return
		}
		raw := append(header(kind, 0, 0, len(payload)), payload...)
		for _, in := range [][]byte{payload, raw, append(raw, payload...)} {
			if p, err := parsePacket(in); err == nil {
				k.open(p)
			}
		}
		parseResponse(payload, 0, 0, 0)
		for _, seal := range []bool{false, true} {
			c := &session{keys: k, conn: &script{kind: kind, payload: payload, keys: k, seal: seal}, wait: time.Millisecond}
			c.setup(context.Background(), payloadOpenRequest, payloadOpenResponse, []byte{0, 0, 0, 0})
			c.call(context.Background(), fnChassis, cmdChassisStatus, nil)
			login(context.Background(), c.conn, time.Millisecond, sends, suite17, "ops", "secret", privilegeOperator)
		}
	})
}

// script is a connection on which the same answer comes to each packet, once.
type script struct {
	net.Conn
	kind    byte
	payload []byte
	keys    keys
	seal    bool
	ready   bool
}

func (s *script) Write(p []byte) (int, error)     { s.ready = true; return len(p), nil }
func (s *script) SetReadDeadline(time.Time) error { return nil }
func (s *script) Close() error                    { return nil }
func (s *script) Read(buf []byte) (int, error) {
	if !s.ready {
		return 0, timeout{}
	}
	s.ready = false
	if s.seal {
		return copy(buf, s.keys.seal(payloadIPMI, 0, 1, s.payload)), nil
	}
	return copy(buf, append(header(s.kind, 0, 0, len(s.payload)), s.payload...)), nil
}

type timeout struct{}

func (timeout) Error() string   { return "timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }
