package vbmc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net"
	"time"
)

// suite is a cipher suite (22.15.2, table 22-20): authentication, integrity and confidentiality algorithms.
type suite struct {
	number                   int
	auth, integrity, secrecy byte
	hash                     func() hash.Hash
	mac                      int // bytes of the integrity check
}

// suites are 3 and 17.
var suites = []suite{
	{number: 3, auth: 1, integrity: 1, secrecy: 1, hash: sha1.New, mac: 12},
	{number: 17, auth: 3, integrity: 4, secrecy: 1, hash: sha256.New, mac: 16},
}

// session is an RMCP+ session (13.17 to 13.24).
type session struct {
	suite
	console uint32 // the other side's ID
	id      uint32 // ours
	rm, rc  [16]byte
	role    byte
	name    []byte
	sik, k1 []byte
	k2      []byte
	seq     uint32
	active  bool
	closed  bool
	used    time.Time

	seen      uint32 // highest sequence number that came
	window    uint32 // bit n: seen-n has come (6.12.13)
	privilege byte
	addr      net.Addr // of the other side
	last      []byte   // the last request, and its answer: nil while it is carried out
	reply     []byte
}

// fresh tells whether a packet's number is new: packets that come twice are dropped (6.12.13).
func (c *session) fresh(seq uint32) bool {
	switch back := c.seen - seq; {
	case seq == 0:
		return false
	case seq > c.seen:
		c.window = c.window<<min(seq-c.seen, 32) | 1
		c.seen = seq
		return true
	case back >= 32 || c.window>>back&1 == 1:
		return false
	default:
		c.window |= 1 << back
		return true
	}
}

// Status codes of the session's set-up (13.24).
const (
	statusOK        = 0x00
	statusResources = 0x01
	statusNoSession = 0x02
	statusAuth      = 0x04
	statusName      = 0x0d
	statusCheck     = 0x0f
	statusSuite     = 0x11
)

func (s session) sum(key []byte, parts ...[]byte) []byte {
	h := hmac.New(s.hash, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func le32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// open answers an Open Session Request (13.17, 13.18).
func (s *ipmiServer) open(p []byte) []byte {
	if len(p) < 32 {
		return nil
	}
	tag, console := p[0], binary.LittleEndian.Uint32(p[4:])
	fail := func(status byte) []byte { return append([]byte{tag, status, 0, 0}, le32(console)...) }
	for id, c := range s.sessions {
		if idle := time.Since(c.used); idle > sessionIdle || !c.active && idle > setupIdle {
			delete(s.sessions, id)
		}
	}
	if len(s.sessions) >= maxSessions {
		return fail(statusResources)
	}
	for _, su := range suites {
		if !s.bmc.knows(su.number) || p[12]&0x3f != su.auth || p[20]&0x3f != su.integrity || p[28]&0x3f != su.secrecy {
			continue
		}
		s.nextID++
		c := &session{suite: su, console: console, id: 0x4d490000 | s.nextID&0xffff, used: time.Now(), privilege: privilegeUser}
		rand.Read(c.rc[:])
		s.sessions[c.id] = c
		out := append([]byte{tag, statusOK, 4, 0}, le32(console)...)
		out = append(out, le32(c.id)...)
		for i, alg := range []byte{su.auth, su.integrity, su.secrecy} {
			out = append(out, byte(i), 0, 0, 8, alg, 0, 0, 0)
		}
		return out
	}
	return fail(statusSuite)
}

// rakp2 answers RAKP message 1 (13.20, 13.21).
func (s *ipmiServer) rakp2(p []byte) []byte {
	if len(p) < 28 || len(p) < 28+int(p[27]) {
		return nil
	}
	c := s.sessions[binary.LittleEndian.Uint32(p[4:])]
	if c == nil || c.active {
		return []byte{p[0], statusNoSession, 0, 0, 0, 0, 0, 0}
	}
	copy(c.rm[:], p[8:24])
	c.role, c.name = p[24], append([]byte(nil), p[28:28+int(p[27])]...)
	if string(c.name) != s.bmc.user {
		delete(s.sessions, c.id)
		return append([]byte{p[0], statusName, 0, 0}, le32(c.console)...)
	}
	out := append([]byte{p[0], statusOK, 0, 0}, le32(c.console)...)
	out = append(out, c.rc[:]...)
	out = append(out, s.guid[:]...)
	return append(out, c.sum([]byte(s.bmc.password), le32(c.console), le32(c.id), c.rm[:], c.rc[:], s.guid[:], []byte{c.role, byte(len(c.name))}, c.name)...)
}

// rakp4 answers RAKP message 3 (13.22, 13.23) and makes the session's keys (13.31, 13.32).
func (s *ipmiServer) rakp4(p []byte) []byte {
	if len(p) < 8 {
		return nil
	}
	c := s.sessions[binary.LittleEndian.Uint32(p[4:])]
	if c == nil || c.active {
		return []byte{p[0], statusNoSession, 0, 0, 0, 0, 0, 0}
	}
	who := []byte{c.role, byte(len(c.name))}
	key := []byte(s.bmc.password)
	if p[1] != statusOK || !hmac.Equal(p[8:], c.sum(key, c.rc[:], le32(c.console), who, c.name)) {
		delete(s.sessions, c.id)
		return append([]byte{p[0], statusCheck, 0, 0}, le32(c.console)...)
	}
	c.sik = c.sum(key, c.rm[:], c.rc[:], who, c.name)
	c.k1 = c.sum(c.sik, repeat(1))
	c.k2 = c.sum(c.sik, repeat(2))[:16]
	c.active = true
	out := append([]byte{p[0], statusOK, 0, 0}, le32(c.console)...)
	return append(out, c.sum(c.sik, c.rm[:], le32(c.id), s.guid[:])[:c.mac]...)
}

func repeat(b byte) []byte {
	out := make([]byte, 20)
	for i := range out {
		out[i] = b
	}
	return out
}

// open checks and decrypts a packet's payload (13.28.4, 13.29).
func (c *session) open(packet []byte, kind byte, payload []byte) ([]byte, bool) {
	if kind&0xc0 != 0xc0 || len(packet) < 16+len(payload)+2+c.mac {
		return nil, false // everything must be encrypted and authenticated
	}
	end := len(packet) - c.mac
	if !hmac.Equal(packet[end:], c.sum(c.k1, packet[4:end])[:c.mac]) {
		return nil, false
	}
	if len(payload) < 32 || len(payload)%16 != 0 {
		return nil, false
	}
	block, err := aes.NewCipher(c.k2)
	if err != nil {
		return nil, false
	}
	plain := make([]byte, len(payload)-16)
	cipher.NewCBCDecrypter(block, payload[:16]).CryptBlocks(plain, payload[16:])
	pad := int(plain[len(plain)-1])
	if pad+1 > len(plain) {
		return nil, false
	}
	return plain[:len(plain)-1-pad], true
}

// seal encrypts an answer and frames it.
func (c *session) seal(plain []byte) []byte { return c.sealAs(payloadIPMI, plain) }

func (c *session) sealAs(kind byte, plain []byte) []byte {
	block, err := aes.NewCipher(c.k2)
	if err != nil {
		return nil
	}
	text := append([]byte(nil), plain...)
	pad := (16 - (len(text)+1)%16) % 16
	for i := range pad {
		text = append(text, byte(i+1))
	}
	text = append(text, byte(pad))
	payload := make([]byte, 16+len(text))
	rand.Read(payload[:16])
	cipher.NewCBCEncrypter(block, payload[:16]).CryptBlocks(payload[16:], text)

	c.seq++
	out := []byte{0x06, 0x00, 0xff, rmcpIPMI, authPlus, 0xc0 | kind}
	out = append(out, le32(c.console)...)
	out = append(out, le32(c.seq)...)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(payload)))
	out = append(out, payload...)
	// The trailer brings what is signed to a multiple of four bytes (13.6).
	fill := (4 - (len(out)-4+2)%4) % 4
	for range fill {
		out = append(out, 0xff)
	}
	out = append(out, byte(fill), 0x07)
	return append(out, c.sum(c.k1, out[4:])[:c.mac]...)
}
