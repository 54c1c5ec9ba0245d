package ipmi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"mimeo/internal/manage/power"
)

// errSilent says that nothing that could be trusted came back in time.
var errSilent = errors.New("no answer")

// statusError is a status code of the session's set-up (table 13-15).
type statusError byte

func (s statusError) Error() string {
	texts := map[statusError]string{0x01: "no free session", 0x02: "unknown session", 0x04: "unknown authentication algorithm",
		0x05: "unknown integrity algorithm", 0x08: "session is not active", 0x09: "unknown role", 0x0a: "role or privilege is not allowed",
		0x0b: "no free session at this privilege", 0x0c: "bad length of the user's name", 0x0d: "unknown user", 0x0f: "wrong integrity check value",
		0x10: "unknown encryption algorithm", 0x11: "no such cipher suite", 0x12: "illegal parameter"}
	if t, ok := texts[s]; ok {
		return t
	}
	return fmt.Sprintf("status %#02x", byte(s))
}

// errProof says that the BMC has another password than we do.
var errProof = errors.New("the passwords differ")

// session is an RMCP+ session with one BMC, on its own socket. It is used by one goroutine at a time.
type session struct {
	keys
	conn net.Conn
	wait time.Duration // for the first answer

	id, ours  uint32 // the BMC's and our session ID
	seq       uint32 // of our last packet
	seen      uint32 // highest of the BMC's
	window    uint32 // bit n: seen-n has come (6.12.13)
	rq        byte   // sequence number of the last request
	privilege byte   // that it has by now
	sends     int    // how often a packet is sent before the BMC is called silent
	used      time.Time
}

// Privilege levels (6.8).
const (
	privilegeUser     = 2
	privilegeOperator = 3
	privilegeAdmin    = 4
)

// login opens a session (13.17 to 13.24) with one cipher suite; it sends each packet tries times at most. The BMC proves that it knows the password before we
// do.
func login(ctx context.Context, conn net.Conn, wait time.Duration, tries int, s suite, user, password string, privilege byte) (*session, error) {
	// It starts with the privilege of a user (22.18), whatever was asked for; most that is asked needs no more.
	c := &session{conn: conn, wait: wait, privilege: privilegeUser, sends: tries, used: time.Now()}
	c.ours = binary.LittleEndian.Uint32(randomBytes(4)) | 1
	name := []byte(user)
	role := []byte{0x10 | privilege, byte(len(name))} // look the user up by name only
	key := []byte(password)
	tag := randomBytes(1)[0]

	// Open Session Request: tag, privilege (0: the highest for the algorithms), our ID, algorithms.
	open := append([]byte{tag, 0, 0, 0}, le32(c.ours)...)
	for i, alg := range []byte{s.auth, s.integrity, s.secrecy} {
		open = append(open, byte(i), 0, 0, 8, alg, 0, 0, 0)
	}
	a, err := c.setup(ctx, payloadOpenRequest, payloadOpenResponse, open)
	if err != nil {
		return nil, err
	}
	if len(a) < 36 {
		return nil, fmt.Errorf("its answer to open session has %d bytes: %w", len(a), errPacket)
	}
	if a[16] != s.auth || a[24] != s.integrity || a[32] != s.secrecy {
		return nil, statusError(0x11) // it took weaker ones than we asked for
	}
	c.id = binary.LittleEndian.Uint32(a[8:])

	// RAKP 1: tag, its ID, our random number, role, name.
	rm := randomBytes(16)
	tag++
	one := append([]byte{tag, 0, 0, 0}, le32(c.id)...)
	one = append(append(append(one, rm...), role[0], 0, 0, role[1]), name...)
	if a, err = c.setup(ctx, payloadRAKP1, payloadRAKP2, one); err != nil {
		return nil, err
	}
	if len(a) < 40+s.digest {
		return nil, fmt.Errorf("its RAKP message 2 has %d bytes: %w", len(a), errPacket)
	}
	rc, guid, proof := a[8:24], a[24:40], a[40:40+s.digest]
	if !hmac.Equal(proof, s.mac(key, le32(c.ours), le32(c.id), rm, rc, guid, role, name)) {
		return nil, errProof
	}

	// RAKP 3: our proof; RAKP 4 shows that it has the same session key.
	sik := s.mac(key, rm, rc, role, name)
	tag++
	three := append([]byte{tag, 0, 0, 0}, le32(c.id)...)
	three = append(three, s.mac(key, rc, le32(c.ours), role, name)...)
	if a, err = c.setup(ctx, payloadRAKP3, payloadRAKP4, three); err != nil {
		return nil, err
	}
	if len(a) < 8+s.check || !hmac.Equal(a[8:8+s.check], s.mac(sik, rm, le32(c.id), guid)[:s.check]) {
		return nil, errProof
	}
	c.keys, err = newKeys(s, sik)
	return c, err
}

// raise gives the session more privilege (22.18).
func (c *session) raise(ctx context.Context, privilege byte) error {
	if c.privilege >= privilege {
		return nil
	}
	code, _, err := c.call(ctx, fnApp, cmdSetPrivilege, []byte{privilege})
	switch {
	case err != nil:
		return err
	case code != 0:
		return statusError(0x0a)
	}
	c.privilege = privilege
	return nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// setup sends a message of the session's set-up and waits for the one that answers it: right type, tag and session.
func (c *session) setup(ctx context.Context, kind, want byte, payload []byte) (answer []byte, err error) {
	raw := plainPacket(kind, payload)
	err = c.exchange(ctx, func() []byte { return raw }, func(p packet) bool {
		if p.sealed || p.kind != want || p.id != 0 || len(p.payload) < 8 || p.payload[0] != payload[0] {
			return false
		}
		// Some BMCs leave the ID out of an answer that refuses.
		if id := binary.LittleEndian.Uint32(p.payload[4:]); id != c.ours && (p.payload[1] == 0 || id != 0) {
			return false
		}
		answer = append([]byte(nil), p.payload...)
		return true
	})
	if err == nil && answer[1] != 0 {
		err = statusError(answer[1])
	}
	return answer, err
}

// call sends a command and returns its completion code and data. A command that is not answered is sent again, with
// the same request number, so that the BMC may know it, and as a packet of its own, so that it does not drop it.
func (c *session) call(ctx context.Context, fn, cmd byte, data []byte) (code byte, reply []byte, err error) {
	c.rq = (c.rq + 1) & 0x3f
	message := request(c.rq, fn, cmd, data)
	err = c.exchange(ctx, func() []byte {
		c.seq++
		return c.seal(payloadIPMI, c.id, c.seq, message)
	}, func(p packet) bool {
		if p.kind != payloadIPMI || p.id != c.ours {
			return false
		}
		plain, err := c.open(p)
		if err != nil || !c.fresh(p.seq) {
			return false
		}
		var ok bool
		code, reply, ok = parseResponse(plain, c.rq, fn, cmd)
		return ok
	})
	return code, reply, err
}

// fresh tells whether a packet's number is new, within the window of 6.12.13.
func (c *session) fresh(seq uint32) bool {
	switch back := c.seen - seq; {
	case seq == 0:
		return false
	case seq > c.seen:
		if ahead := seq - c.seen; ahead < 32 {
			c.window = c.window<<ahead | 1
		} else {
			c.window = 1
		}
		c.seen = seq
		return true
	case back >= 32 || c.window>>back&1 == 1:
		return false
	default:
		c.window |= 1 << back
		return true
	}
}

// sends is how often a packet is sent: the waits are 1, 2, 4 and 4 times session.wait. In a session that nobody used
// for idleTime it is idleSends: the BMC may have forgotten it.
const (
	sends     = 4
	idleSends = 2
	idleTime  = 5 * time.Second
)

// exchange sends what make gives until take finds its answer. Packets that are not it are passed over.
func (c *session) exchange(ctx context.Context, make func() []byte, take func(packet) bool) error {
	buf := [maxPacket]byte{}
	wait := c.wait
	for range max(1, c.sends) {
		if err := ctx.Err(); err != nil {
			return err
		}
		until := time.Now().Add(wait)
		if _, err := c.conn.Write(make()); err != nil {
			return fmt.Errorf("%w: %w", errSilent, err)
		}
		ok, err := c.await(ctx, buf[:], until, take)
		if ok || err != nil {
			return err
		}
		wait = min(2*wait, 4*c.wait)
	}
	return errSilent
}

func (c *session) await(ctx context.Context, buf []byte, until time.Time, take func(packet) bool) (bool, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if err := c.conn.SetReadDeadline(until); err != nil {
			return false, err
		}
		if err := ctx.Err(); err != nil { // it may have ended before the deadline above was set
			return false, err
		}
		n, err := c.conn.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				return false, nil
			}
			// "Connection refused": nobody listens there, perhaps only while the BMC restarts. Wait out the time, as
			// for silence.
			select {
			case <-ctx.Done():
				return false, ctx.Err()
			case <-time.After(time.Until(until)):
				return false, nil
			}
		}
		if p, err := parsePacket(buf[:n]); err == nil && take(p) {
			return true, nil
		}
	}
}

// close ends the session (22.19). A BMC that does not answer will end it by itself.
func (c *session) close(ctx context.Context) {
	if c.aes == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	c.call(ctx, fnApp, cmdCloseSession, le32(c.id))
}

// kind sorts what login says.
func kind(err error) error {
	var status statusError
	switch {
	case errors.Is(err, errProof):
		return power.ErrDenied
	case errors.As(err, &status):
		switch status {
		case 0x01, 0x0b:
			return power.ErrBusy
		case 0x04, 0x05, 0x10, 0x11:
			return power.ErrSuite
		case 0x09, 0x0a, 0x0c, 0x0d, 0x0e, 0x0f:
			return power.ErrDenied
		}
	}
	return power.ErrUnreachable
}
