package ipmi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

// newSerial gives a BMC's machine a serial port.
func newSerial(b *vbmc.BMC) *powertest.Port {
	p := powertest.NewPort()
	b.Serial = p.Open
	return p
}

func newSOL(t *testing.T, o Options) *SOL {
	t.Helper()
	s, err := NewSOL(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dial(t *testing.T, s *SOL, force bool) *Line {
	t.Helper()
	l, err := s.Dial(t.Context(), force)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// hear reads n bytes of the machine.
func hear(t *testing.T, l *Line, n int) (got []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(got) < n {
		data, note, err := l.Receive(ctx)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(got), n, err)
		}
		if note != "" {
			t.Logf("note: %s", note)
		}
		got = append(got, data...)
	}
	return got
}

// lost waits for the line's end.
func lost(t *testing.T, l *Line) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, _, err := l.Receive(ctx); err != nil {
			if ctx.Err() != nil {
				t.Fatal("the line does not end")
			}
			return err
		}
	}
}

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestConsole(t *testing.T) {
	for _, tc := range []struct {
		name   string
		suite  int
		faults vbmc.Faults
		late   time.Duration
		bytes  int
	}{
		{name: "suite 17", suite: 17, bytes: 20000},
		{name: "suite 3", suite: 3, bytes: 20000},
		{name: "every fifth packet is lost", faults: vbmc.Faults{DropEvery: 5}, bytes: 2000},
		{name: "every third packet is lost", faults: vbmc.Faults{DropEvery: 3}, bytes: 2000},
		{name: "slow", late: 50 * time.Millisecond, bytes: 1000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := vbmc.New(powertest.NewMachine(), "ops", "secret")
			b.Faults, b.Latency = tc.faults, tc.late
			port := newSerial(b)
			o := quick(serve(t, b))
			o.CipherSuite = tc.suite
			l := dial(t, newSOL(t, o), false)
			said, typed := noise(tc.bytes), noise(tc.bytes/2)
			go port.Print(said)
			sent := make(chan error, 1)
			go func() {
				port.Print(nil) // a port that is not open takes nothing
				sent <- l.Send(t.Context(), typed)
			}()
			if got := hear(t, l, len(said)); !bytes.Equal(got, said) {
				t.Errorf("the console shows something else than the machine says (%d bytes of %d)", len(got), len(said))
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if got := port.Typed(t, len(typed)); !bytes.Equal(got, typed) {
				t.Errorf("the machine gets something else than what is typed (%d bytes of %d)", len(got), len(typed))
			}
			for range 17 {
				if err := l.Break(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if b.Breaks() != 17 {
				t.Errorf("%d breaks came", b.Breaks())
			}
		})
	}
}

func TestConsoleIsTaken(t *testing.T) {
	t.Parallel()
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	port := newSerial(b)
	o := quick(serve(t, b))
	one, other := newSOL(t, o), newSOL(t, o)
	first := dial(t, one, false)
	_, err := other.Dial(t.Context(), false)
	wantError(t, err, power.ErrTaken, "another session of its user 2 from 127.0.0.1")
	second := dial(t, other, true)
	wantError(t, lost(t, first), power.ErrTaken, "ended the serial console")
	go port.Print([]byte("for the second"))
	if got := hear(t, second, 14); string(got) != "for the second" {
		t.Errorf("the second hears %q", got)
	}
	// Its own old session is taken over without force, and power is switched at the same time.
	third := dial(t, other, false)
	if _, err := open(t, o).Status(t.Context()); err != nil {
		t.Errorf("power status beside a console: %v", err)
	}
	third.Close()
	if err := third.Send(t.Context(), []byte("x")); err == nil {
		t.Error("a closed line takes characters")
	}
	// One that was closed has given the console back.
	dial(t, one, false)
}

func TestConsoleIsLost(t *testing.T) {
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	newSerial(b)
	s := newSOL(t, quick(serve(t, b)))
	l := dial(t, s, false)
	b.LoseSessions()
	wantError(t, lost(t, l), power.ErrUnreachable, "does not answer any more")
	l.Close()
	l = dial(t, s, false)
	b.SetGone(true)
	start := time.Now()
	if err := l.Send(t.Context(), []byte("x")); !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("a BMC that is gone: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("that took %v", took)
	}
	l.Close()
	b.SetGone(false)
	dial(t, s, false) // its old session still has the console there
}

func TestConsoleWithoutOne(t *testing.T) {
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	_, err := newSOL(t, quick(serve(t, b))).Dial(t.Context(), false)
	wantError(t, err, power.ErrCannot, "has no Serial over LAN")
}

func TestConsoleAmongLies(t *testing.T) {
	t.Parallel()
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	port := newSerial(b)
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeIPMI(ctx, &liar{PacketConn: pc}) }()
	defer func() { cancel(); <-done }()
	l := dial(t, newSOL(t, quick(pc.LocalAddr().String())), false)
	defer l.Close()
	said := []byte(strings.Repeat("the quick brown fox\r\n", 50))
	go port.Print(said)
	if got := hear(t, l, len(said)); !bytes.Equal(got, said) {
		t.Errorf("got %q", got)
	}
	go port.Print(nil)
	if err := l.Send(t.Context(), said[:100]); err != nil {
		t.Error(err)
	}
	if got := port.Typed(t, 100); !bytes.Equal(got, said[:100]) {
		t.Errorf("typed %q", got)
	}
}

// A packet that comes again may hold more than it did.
func TestPacketsComeAgain(t *testing.T) {
	var in solInput
	for _, step := range []struct {
		seq  byte
		data string
		want string
	}{{1, "abc", "abc"}, {1, "abc", ""}, {1, "abcde", "de"}, {1, "ab", ""}, {1, "abcdefg", "fg"}, {2, "abc", "abc"}, {1, "xyz", "xyz"}} {
		if got := in.fresh(solPacket{seq: step.seq, data: []byte(step.data)}); string(got) != step.want {
			t.Errorf("packet %d %q gives %q, want %q", step.seq, step.data, got, step.want)
		}
	}
}

// FuzzSOL feeds packets of a BMC that knows the keys and nothing else.
func FuzzSOL(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 'x'}, []byte{0, 1, 1, 0})
	f.Add([]byte{2, 3, 0xff, 0xff, 'x'}, []byte{0, 1, 0, 0x60})
	f.Add([]byte{0x0f, 0, 0, 0x0c}, []byte{})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		k, err := newKeys(suite3, []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		defer theirs.Close()
		defer ours.Close()
		l := &Line{s: &session{keys: k, conn: ours, ours: 7, id: 9}, conn: ours, wait: time.Hour, max: 16, out: make(chan received, solQueue)}
		l.launch(&write{data: []byte("hello"), taken: make(chan struct{})})
		for i, plain := range [][]byte{a, b, a, b} {
			if p, ok := parseSOL(plain); ok && !bytes.Equal(p.bytes(), plain) {
				t.Fatalf("%x becomes %x", plain, p.bytes())
			}
			l.take(k.seal(payloadSOL, 7, uint32(2*i+1), plain))
			l.take(k.seal(payloadIPMI, 7, uint32(2*i+2), plain))
			if w := l.flight; w != nil && (len(w.data) == 0 || len(w.data) > 5 || !strings.HasSuffix("hello", string(w.data))) {
				t.Fatalf("in flight: %q", w.data)
			}
			if len(l.out) > solQueue {
				t.Fatal("too much is waiting")
			}
		}
	})
}
