package vbmc

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

const (
	payloadSOL  = 0x01
	fnTransport = 0x0c

	solRetry = 200 * time.Millisecond // until a packet that is not acknowledged goes again
	solTries = 40                     // then the console ends
	solMost  = 100                    // characters in a packet
)

// sol is Serial over LAN (chapter 15) in one session.
type sol struct {
	s      *ipmiServer
	c      *session
	cancel context.CancelFunc
	done   sync.WaitGroup
	acks   chan [3]byte // sequence number, count, status
	ring   chan struct{}
	newest uint32 // session sequence number of a packet that came

	mu    sync.Mutex
	port  io.ReadWriteCloser // nil while it is not open
	last  byte               // sequence number of the newest packet that came
	inbox []byte             // from the machine
}

// payload carries out commands for payloads (chapter 24), Get Session Info (22.20) and the parameters of Serial over LAN
// (chapter 26). The caller does not hold the lock.
func (s *ipmiServer) payload(fn, cmd byte, data []byte, c *session) (code byte, reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bmc.Serial == nil {
		return codeInvalid, nil
	}
	if s.sol != nil && time.Since(s.sol.c.used) > sessionIdle {
		s.dropSOL(false)
	}
	switch {
	case fn == fnTransport:
		return s.solParameter(cmd, data)
	case cmd == 0x3d:
		return s.sessionInfo(data, c)
	case cmd == 0x4c: // Set User Payload Access
		return codeOK, nil
	case cmd == 0x4d: // Get User Payload Access
		return codeOK, []byte{0x02, 0, 0, 0}
	case cmd == 0x4e: // Get Channel Payload Support: IPMI, SOL; the session's set-up
		return codeOK, []byte{0x03, 0, 0x3f, 0, 0, 0, 0, 0}
	case cmd == 0x4f: // Get Channel Payload Version
		return codeOK, []byte{0x10}
	case len(data) < 1 || data[0]&0x3f != payloadSOL:
		return 0x80, nil // no such payload
	case cmd == 0x4a: // Get Payload Activation Status
		if s.sol == nil {
			return codeOK, []byte{1, 0, 0}
		}
		return codeOK, []byte{1, 1, 0}
	case len(data) < 2 || data[1]&0xf != 1:
		return codeParameter, nil
	case cmd == 0x4b: // Get Payload Instance Info
		out := make([]byte, 12)
		if s.sol != nil {
			binary.LittleEndian.PutUint32(out, s.sol.c.id)
		}
		return codeOK, out
	case cmd == 0x49: // Deactivate Payload
		if s.sol == nil {
			return 0x80, nil
		}
		s.dropSOL(s.sol.c != c)
		return codeOK, nil
	case cmd == 0x48: // Activate Payload
		if len(data) < 6 {
			return codeLength, nil
		}
		if data[2]&0xc0 != 0xc0 {
			return 0x84, nil // not without encryption
		}
		if s.sol != nil {
			return 0x80, nil
		}
		s.startSOL(c)
		out := []byte{0, 0, 0, 0, solMost + 4, 0, solMost + 4, 0}
		return codeOK, append(append(out, s.udpPort()...), 0xff, 0xff)
	}
	return codeInvalid, nil
}

// solParameter is Set and Get SOL Configuration Parameters (26.2, 26.3).
func (s *ipmiServer) solParameter(cmd byte, data []byte) (byte, []byte) {
	switch {
	case cmd == 0x21 && len(data) >= 3:
		return codeOK, nil
	case cmd != 0x22:
		return codeInvalid, nil
	case len(data) < 4:
		return codeLength, nil
	}
	v := map[byte][]byte{0: {0}, 1: {1}, 2: {0xc0 | privilegeOperator}, 3: {10, solMost}, 4: {7, 20}, 5: {0x0a}, 6: {0x0a}, 7: {1}, 8: s.udpPort()}[data[1]]
	if v == nil {
		return 0x80, nil
	}
	return codeOK, append([]byte{0x11}, v...)
}

func (s *ipmiServer) udpPort() []byte {
	a, _ := s.pc.LocalAddr().(*net.UDPAddr)
	return binary.LittleEndian.AppendUint16(nil, uint16(a.Port))
}

// sessionInfo tells of a session by its ID, or of the asker's.
func (s *ipmiServer) sessionInfo(data []byte, c *session) (byte, []byte) {
	if len(data) < 1 {
		return codeLength, nil
	}
	if data[0] == 0xff {
		if len(data) < 5 {
			return codeLength, nil
		}
		if c = s.sessions[binary.LittleEndian.Uint32(data[1:])]; c == nil {
			return codeNotThere, nil
		}
	}
	out := []byte{byte(c.id), maxSessions, byte(len(s.sessions)), 2, c.privilege, 0x11}
	ip, port := net.IPv4zero.To4(), 0
	if a, ok := c.addr.(*net.UDPAddr); ok && a.IP.To4() != nil {
		ip, port = a.IP.To4(), a.Port
	}
	out = append(append(out, ip...), 0, 0, 0, 0, 0, 0)
	return codeOK, binary.LittleEndian.AppendUint16(out, uint16(port))
}

// startSOL gives the console to a session. The caller holds the lock.
func (s *ipmiServer) startSOL(c *session) {
	ctx, cancel := context.WithCancel(s.ctx)
	o := &sol{s: s, c: c, cancel: cancel, acks: make(chan [3]byte, 4), ring: make(chan struct{}, 1)}
	s.sol = o
	o.done.Go(func() { o.listen(ctx) })
	o.done.Go(func() { o.speak(ctx) })
}

// dropSOL takes the console away; the session is told where tell says so. The caller holds the lock.
func (s *ipmiServer) dropSOL(tell bool) {
	o := s.sol
	if o == nil {
		return
	}
	s.sol = nil
	if tell {
		s.sendSOL(o.c, []byte{0, 0, 0, 0x10})
	}
	o.cancel()
	o.close()
}

// endSOL is dropSOL for who does not hold the lock; it waits for the end.
func (s *ipmiServer) endSOL(tell bool) {
	s.mu.Lock()
	o := s.sol
	s.dropSOL(tell)
	s.mu.Unlock()
	if o != nil {
		o.done.Wait()
	}
}

func (s *ipmiServer) sendSOL(c *session, plain []byte) {
	if c.addr != nil {
		s.pc.WriteTo(c.sealAs(payloadSOL, plain), c.addr)
	}
}

func (o *sol) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.port != nil {
		o.port.Close()
		o.port = nil
	}
}

// listen reads the machine's serial port, and opens it again where it ends.
func (o *sol) listen(ctx context.Context) {
	buf := [512]byte{}
	for ctx.Err() == nil {
		port, err := o.s.bmc.Serial(ctx)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		o.mu.Lock()
		o.port = port
		o.mu.Unlock()
		stop := context.AfterFunc(ctx, func() { port.Close() })
		for {
			n, err := port.Read(buf[:])
			o.mu.Lock()
			o.inbox = append(o.inbox, buf[:n]...)
			if len(o.inbox) > 64<<10 { // as a BMC without room
				o.inbox = o.inbox[len(o.inbox)-64<<10:]
			}
			o.mu.Unlock()
			select {
			case o.ring <- struct{}{}:
			default:
			}
			if err != nil {
				break
			}
		}
		stop()
		o.close()
		port.Close()
	}
}

// speak sends what the machine says, one packet at a time, until it is acknowledged.
func (o *sol) speak(ctx context.Context) {
	seq := byte(0)
	for {
		o.mu.Lock()
		n := min(len(o.inbox), solMost)
		data := append([]byte(nil), o.inbox[:n]...)
		o.mu.Unlock()
		if n == 0 {
			select {
			case <-ctx.Done():
				return
			case <-o.ring:
			}
			continue
		}
		seq = seq%15 + 1
		taken, ok := o.deliver(ctx, seq, data)
		if !ok {
			return
		}
		o.mu.Lock()
		o.inbox = o.inbox[min(taken, len(o.inbox)):]
		o.mu.Unlock()
	}
}

// deliver sends a packet until it is acknowledged, and tells how many of its characters were taken.
func (o *sol) deliver(ctx context.Context, seq byte, data []byte) (taken int, ok bool) {
	for range solTries {
		o.s.mu.Lock()
		if ctx.Err() == nil {
			o.s.sendSOL(o.c, append([]byte{seq, 0, 0, 0}, data...))
		}
		o.s.mu.Unlock()
		again := time.After(solRetry)
	wait:
		for {
			select {
			case <-ctx.Done():
				return 0, false
			case a := <-o.acks:
				if a[0] == seq {
					return min(int(a[1]), len(data)), true
				}
			case <-again:
				break wait
			}
		}
	}
	return 0, false
}

// takeSOL takes a packet of the other side. The caller holds the lock.
func (s *ipmiServer) takeSOL(c *session, number uint32, p []byte) {
	o := s.sol
	if o == nil || o.c != c || len(p) < 4 || number < o.newest {
		return
	}
	o.newest = number // one that was overtaken was also sent again since
	if ack := p[1] & 0xf; ack != 0 {
		select {
		case o.acks <- [3]byte{ack, p[2], p[3]}:
		default:
		}
	}
	seq := p[0] & 0xf
	if seq == 0 {
		return
	}
	o.mu.Lock()
	again := seq == o.last
	o.last = seq
	took, status := len(p)-4, byte(0)
	if !again {
		if p[3]&0x10 != 0 {
			s.bmc.breaks.Add(1)
		}
		if o.port == nil {
			took, status = 0, 0x60 // not taken: the port is not open
			o.last = 0
		} else if took > 0 {
			o.port.Write(p[4:])
		}
	}
	o.mu.Unlock()
	s.sendSOL(c, []byte{0, seq, byte(took), status})
}

// Breaks tells how many breaks were sent to the machine.
func (b *BMC) Breaks() int { return int(b.breaks.Load()) }
