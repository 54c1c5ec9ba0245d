package vbmc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// The numbers are those of the IPMI v2.0 specification, revision 1.1; sections are named where they are used.
const (
	rmcpIPMI = 0x07 // message class (13.1.3)

	authNone = 0x00 // IPMI 1.5 packet without authentication (13.6)
	authPlus = 0x06 // RMCP+ (13.6)

	payloadIPMI         = 0x00
	payloadOpenRequest  = 0x10
	payloadOpenResponse = 0x11
	payloadRAKP1        = 0x12
	payloadRAKP2        = 0x13
	payloadRAKP3        = 0x14
	payloadRAKP4        = 0x15

	maxSessions = 16
	sessionIdle = 60 * time.Second
	setupIdle   = 10 * time.Second

	privilegeUser     = 2 // where a session starts (22.18)
	privilegeOperator = 3
	privilegeAdmin    = 4
)

func (b *BMC) knows(suite int) bool { return b.Suites == nil || slices.Contains(b.Suites, suite) }

// ServeIPMI answers IPMI 2.0 over LAN (RMCP+, cipher suites 3 and 17) until ctx is done. It closes pc.
func (b *BMC) ServeIPMI(ctx context.Context, pc net.PacketConn) error {
	s := &ipmiServer{bmc: b, sessions: map[uint32]*session{}, ctx: ctx}
	copy(s.guid[:], "mimeo virtual bmc")
	pc = &lossyConn{PacketConn: pc, b: b}
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	defer stop()
	defer pc.Close()
	s.pc = pc
	var work sync.WaitGroup
	defer work.Wait()
	defer s.endSOL(false)
	buf := make([]byte, 2048)
	for {
		n, addr, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		packet := append([]byte(nil), buf[:n]...)
		// A power command takes a while; the client asks again meanwhile and is answered each time.
		work.Go(func() {
			b.pause(ctx)
			if answer := s.handle(packet, addr); answer != nil {
				pc.WriteTo(answer, addr)
			}
		})
	}
}

type ipmiServer struct {
	bmc  *BMC
	guid [16]byte

	mu       sync.Mutex
	sessions map[uint32]*session // by our ID
	epoch    int64               // of the BMC, when the sessions were made
	progress bool                // "set in progress" of the boot options
	ack      byte                // their acknowledgements
	clear    byte                // their "do not clear the valid bit"
	nextID   uint32
	reserved uint16 // of sensor records and event log

	ctx context.Context // of ServeIPMI
	pc  net.PacketConn
	sol *sol // the active one
}

// handle answers a packet, or gives nil where it is none of ours.
func (s *ipmiServer) handle(p []byte, addr net.Addr) []byte {
	if len(p) < 5 || p[0] != 0x06 || p[3]&0x1f != rmcpIPMI {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.bmc.epoch.Load(); e != s.epoch {
		s.epoch = e
		clear(s.sessions)
		s.dropSOL(false)
	}
	switch p[4] {
	case authNone:
		// 4 RMCP, auth type, sequence, session ID, length (13.6)
		if len(p) < 14 || int(p[13]) != len(p)-14 {
			return nil
		}
		answer := s.message(p[14:], nil)
		if answer == nil {
			return nil
		}
		return append(append(append([]byte{}, p[:13]...), byte(len(answer))), answer...)
	case authPlus:
		return s.plus(p, addr)
	}
	return nil
}

// plus answers an RMCP+ packet: auth type, payload type, session ID, sequence, length, payload, trailer (13.6).
func (s *ipmiServer) plus(p []byte, addr net.Addr) []byte {
	if len(p) < 16 {
		return nil
	}
	kind, id := p[5], binary.LittleEndian.Uint32(p[6:])
	n := int(binary.LittleEndian.Uint16(p[14:]))
	if len(p) < 16+n {
		return nil
	}
	payload := p[16 : 16+n]
	switch kind & 0x3f {
	case payloadOpenRequest:
		return setup(payloadOpenResponse, s.open(payload))
	case payloadRAKP1:
		return setup(payloadRAKP2, s.rakp2(payload))
	case payloadRAKP3:
		return setup(payloadRAKP4, s.rakp4(payload))
	case payloadIPMI, payloadSOL:
		c := s.sessions[id]
		if c == nil || !c.active {
			return nil
		}
		plain, ok := c.open(p, kind, payload)
		if !ok || !c.fresh(binary.LittleEndian.Uint32(p[10:])) {
			return nil
		}
		c.used, c.addr = time.Now(), addr
		if kind&0x3f == payloadSOL {
			s.takeSOL(c, binary.LittleEndian.Uint32(p[10:]), plain)
			return nil
		}
		answer := s.once(c, plain)
		if answer == nil {
			return nil
		}
		out := c.seal(answer)
		if c.closed {
			delete(s.sessions, id)
			if s.sol != nil && s.sol.c == c {
				s.dropSOL(false)
			}
		}
		return out
	}
	return nil
}

// once answers a request. One that is sent again is not carried out again: it gets the same answer, or none while the
// first is still being worked on. A command may take long, so that the lock is not held meanwhile.
func (s *ipmiServer) once(c *session, m []byte) []byte {
	if bytes.Equal(m, c.last) {
		return c.reply
	}
	c.last, c.reply = append([]byte(nil), m...), nil
	s.mu.Unlock()
	answer := s.message(m, c)
	s.mu.Lock()
	if bytes.Equal(m, c.last) {
		c.reply = answer
	}
	return answer
}

// setup frames a message of the session's set-up, which is neither encrypted nor authenticated.
func setup(kind byte, payload []byte) []byte {
	if payload == nil {
		return nil
	}
	out := []byte{0x06, 0x00, 0xff, rmcpIPMI, authPlus, kind, 0, 0, 0, 0, 0, 0, 0, 0}
	out = binary.LittleEndian.AppendUint16(out, uint16(len(payload)))
	return append(out, payload...)
}

// message answers an IPMI message (13.8): rsAddr, netFn, checksum, rqAddr, rqSeq, cmd, data, checksum. c is nil
// outside of a session.
func (s *ipmiServer) message(m []byte, c *session) []byte {
	if len(m) < 7 || sum(m[:3]) != 0 || sum(m[3:]) != 0 || m[1]>>2&1 != 0 {
		return nil
	}
	fn, cmd, data := m[1]>>2, m[5], m[6:len(m)-1]
	code, reply := s.command(fn, cmd, data, c)
	head := []byte{m[3], (fn+1)<<2 | m[4]&3}
	head = append(head, -sum(head))
	body := append([]byte{m[0], m[4]&^3 | m[1]&3, cmd, code}, reply...)
	body = append(body, -sum(body))
	return append(head, body...)
}

func sum(b []byte) (n byte) {
	for _, c := range b {
		n += c
	}
	return n
}

// Completion codes (5.2).
const (
	codeOK         = 0x00
	codeBusy       = 0xc0
	codeInvalid    = 0xc1
	codeLength     = 0xc7
	codeParameter  = 0xcc
	codePrivilege  = 0xd4
	codeState      = 0xd5
	codeUnspecific = 0xff
	codeNoBootParm = 0x80 // 28.13
	codeInProgress = 0x81 // 28.12
)

const (
	fnChassis = 0x00
	fnApp     = 0x06
)

// command carries a command out.
func (s *ipmiServer) command(fn, cmd byte, data []byte, c *session) (code byte, reply []byte) {
	switch {
	case fn == fnApp && cmd == 0x38: // Get Channel Authentication Capabilities (22.13)
		if len(data) < 2 {
			return codeLength, nil
		}
		return codeOK, []byte{1, 0x80, 0x04, 0x02, 0, 0, 0, 0}
	case fn == fnApp && cmd == 0x54: // Get Channel Cipher Suites (22.15.2)
		if len(data) < 3 {
			return codeLength, nil
		}
		var list []byte
		for _, su := range suites {
			if s.bmc.knows(su.number) {
				list = append(list, 0xc0, byte(su.number), su.auth, 0x40|su.integrity, 0x80|su.secrecy)
			}
		}
		from := min(int(data[2]&0x3f)*16, len(list))
		return codeOK, append([]byte{1}, list[from:min(from+16, len(list))]...)
	case c == nil:
		return codePrivilege, nil
	case fn == fnApp && cmd == 0x01: // Get Device ID (20.1)
		return codeOK, []byte{0x20, 0x01, 0x01, 0x00, 0x02, 0xbf, 0, 0, 0, 0, 0}
	case fn == fnApp && cmd == 0x3d || fn == fnApp && cmd >= 0x48 && cmd <= 0x4f || fn == fnTransport:
		return s.payload(fn, cmd, data, c)
	case fn == fnApp && cmd == 0x37: // Get System GUID (22.14)
		return codeOK, s.guid[:]
	case fn == fnApp && cmd == 0x3b: // Set Session Privilege Level (22.18)
		if len(data) < 1 {
			return codeLength, nil
		}
		level := data[0] & 0xf
		if level > privilegeAdmin || level == 1 {
			return codeParameter, nil
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if level != 0 { // 0 asks for the present one
			c.privilege = level
		}
		return codeOK, []byte{c.privilege}
	case fn == fnApp && cmd == 0x3c: // Close Session (22.19)
		s.mu.Lock()
		defer s.mu.Unlock()
		c.closed = true
		return codeOK, nil
	case fn == fnChassis:
		s.mu.Lock()
		level := c.privilege
		s.mu.Unlock()
		// Control, identify and both boot options commands want an operator (appendix G).
		if cmd > 0x01 && level < privilegeOperator {
			return codePrivilege, nil
		}
		return s.chassis(cmd, data)
	case fn == fnSensor:
		return s.sensor(cmd, data)
	case fn == fnStorage:
		s.mu.Lock()
		level := c.privilege
		s.mu.Unlock()
		if cmd == 0x47 && level < privilegeOperator {
			return codePrivilege, nil
		}
		return s.storage(cmd, data)
	}
	return codeInvalid, nil
}

// chassis carries out commands of chapter 28.
func (s *ipmiServer) chassis(cmd byte, data []byte) (code byte, reply []byte) {
	b := s.bmc
	switch cmd {
	case 0x00: // Get Chassis Capabilities
		return codeOK, []byte{0, 0x20, 0x20, 0x20, 0x20}
	case 0x01: // Get Chassis Status
		var state byte
		if b.power() {
			state = 1
		}
		return codeOK, []byte{state, 0, 0x40} // identify is supported (28.2)
	case 0x02: // Chassis Control
		if len(data) < 1 {
			return codeLength, nil
		}
		action, ok := map[byte]string{0: "off", 1: "on", 2: "cycle", 3: "reset", 5: "soft"}[data[0]&0xf]
		if !ok {
			return codeParameter, nil
		}
		switch err := b.do(action); {
		case errors.Is(err, errOff):
			return codeState, nil
		case errors.Is(err, errBusy):
			return codeBusy, nil
		case err != nil:
			return codeUnspecific, nil
		}
		return codeOK, nil
	case 0x04: // Chassis Identify (28.5): 15 s where it does not say
		led := byte(15)
		if len(data) > 0 {
			led = data[0]
		}
		if len(data) > 1 && data[1]&1 == 1 {
			led = 255
		}
		b.setLED(led)
		return codeOK, nil
	case 0x08: // Set System Boot Options (28.12)
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.setBootOption(data), nil
	case 0x09: // Get System Boot Options (28.13)
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.bootOption(data)
	}
	return codeInvalid, nil
}
