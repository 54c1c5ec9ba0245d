package powertest

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Port is the serial port of a machine, as a virtual BMC opens it: what Print writes the BMC reads, and what was typed
// at the machine is kept.
type Port struct {
	mu   sync.Mutex
	cond *sync.Cond
	in   bytes.Buffer // from the BMC
	conn net.Conn     // the machine's end while it is open
}

// NewPort makes one.
func NewPort() *Port {
	p := &Port{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// Open is for vbmc.BMC.Serial.
func (p *Port) Open(context.Context) (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	p.mu.Lock()
	p.conn = ours
	p.cond.Broadcast()
	p.mu.Unlock()
	go func() { // until the BMC closes it
		buf := [256]byte{}
		for {
			n, err := ours.Read(buf[:])
			p.mu.Lock()
			p.in.Write(buf[:n])
			if err != nil && p.conn == ours {
				p.conn = nil
			}
			p.cond.Broadcast()
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return theirs, nil
}

// Print waits until the port is open, and returns when the BMC has read the text.
func (p *Port) Print(text []byte) {
	p.mu.Lock()
	for p.conn == nil {
		p.cond.Wait()
	}
	c := p.conn
	p.mu.Unlock()
	c.Write(text)
}

// Typed waits until n bytes were typed at the machine, and returns all that was.
func (p *Port) Typed(t *testing.T, n int) []byte {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		b := bytes.Clone(p.in.Bytes())
		p.mu.Unlock()
		if len(b) >= n {
			return b
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d bytes were typed: %q", len(b), n, b[max(0, len(b)-80):])
		}
	}
}
