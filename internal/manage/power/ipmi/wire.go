package ipmi

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
)

// Sections and tables are those of the IPMI specification v2.0, revision 1.1.

// Payload types (table 13-16).
const (
	payloadIPMI         = 0x00
	payloadOpenRequest  = 0x10
	payloadOpenResponse = 0x11
	payloadRAKP1        = 0x12
	payloadRAKP2        = 0x13
	payloadRAKP3        = 0x14
	payloadRAKP4        = 0x15
)

const (
	headerLen = 16   // RMCP (13.1.3) and session header (13.6) together
	addrBMC   = 0x20 // the BMC's slave address
	addrUs    = 0x81 // software ID of a remote console (5.5)
	maxPacket = 1024 // answers to what is asked here are below 100 bytes
)

// suite is a cipher suite (table 22-20) with its algorithms' numbers (tables 13-17 to 13-19).
type suite struct {
	id, auth, integrity, secrecy byte

	hash   func() hash.Hash
	digest int // bytes of the key exchange's codes
	check  int // bytes of the integrity code on each packet
}

var (
	suite3  = suite{id: 3, auth: 1, integrity: 1, secrecy: 1, hash: sha1.New, digest: 20, check: 12}
	suite17 = suite{id: 17, auth: 3, integrity: 4, secrecy: 1, hash: sha256.New, digest: 32, check: 16}
)

func (s suite) mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(s.hash, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func le32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// packet is an RMCP+ packet (13.6), split but not yet checked.
type packet struct {
	kind    byte // payload type
	sealed  bool // encrypted and authenticated
	id      uint32
	seq     uint32
	payload []byte
	raw     []byte // all of it
}

var errPacket = errors.New("no packet of this conversation")

func parsePacket(raw []byte) (packet, error) {
	if len(raw) < headerLen || raw[0] != 0x06 || raw[3]&0x9f != 0x07 || raw[4] != 0x06 {
		return packet{}, errPacket
	}
	n := int(binary.LittleEndian.Uint16(raw[14:]))
	if len(raw) < headerLen+n || raw[5]&0xc0 != 0 && raw[5]&0xc0 != 0xc0 {
		return packet{}, errPacket
	}
	return packet{kind: raw[5] & 0x3f, sealed: raw[5]&0xc0 == 0xc0, id: binary.LittleEndian.Uint32(raw[6:]),
		seq: binary.LittleEndian.Uint32(raw[10:]), payload: raw[headerLen : headerLen+n], raw: raw}, nil
}

// header starts a packet: RMCP without acknowledgement, then the session header.
func header(kind byte, id, seq uint32, n int) []byte {
	out := []byte{0x06, 0x00, 0xff, 0x07, 0x06, kind}
	out = append(append(out, le32(id)...), le32(seq)...)
	return binary.LittleEndian.AppendUint16(out, uint16(n))
}

// plainPacket frames a message of the session's set-up.
func plainPacket(kind byte, payload []byte) []byte {
	return append(header(kind, 0, 0, len(payload)), payload...)
}

// keys are a session's (13.31, 13.32).
type keys struct {
	suite
	k1  []byte // integrity
	aes cipher.Block
}

func newKeys(s suite, sik []byte) (keys, error) {
	constant := func(b byte) []byte {
		c := make([]byte, 20)
		for i := range c {
			c[i] = b
		}
		return c
	}
	block, err := aes.NewCipher(s.mac(sik, constant(2))[:16])
	return keys{suite: s, k1: s.mac(sik, constant(1)), aes: block}, err
}

// seal encrypts (13.29, AES-CBC-128) and signs (13.28.4) a payload.
func (k keys) seal(kind byte, id, seq uint32, plain []byte) []byte {
	pad := (aes.BlockSize - (len(plain)+1)%aes.BlockSize) % aes.BlockSize
	text := append(make([]byte, 0, len(plain)+pad+1), plain...)
	for i := range pad {
		text = append(text, byte(i+1))
	}
	text = append(text, byte(pad))
	payload := make([]byte, aes.BlockSize+len(text))
	rand.Read(payload[:aes.BlockSize])
	cipher.NewCBCEncrypter(k.aes, payload[:aes.BlockSize]).CryptBlocks(payload[aes.BlockSize:], text)

	out := append(header(0xc0|kind, id, seq, len(payload)), payload...)
	fill := (4 - (len(out)-4+2)%4) % 4
	for range fill {
		out = append(out, 0xff)
	}
	out = append(out, byte(fill), 0x07)
	return append(out, k.mac(k.k1, out[4:])[:k.check]...)
}

// open checks and decrypts a sealed packet. The check comes first: nothing of a packet with a wrong code is looked at.
func (k keys) open(p packet) ([]byte, error) {
	end := len(p.raw) - k.check
	if !p.sealed || end < headerLen+len(p.payload)+2 || !hmac.Equal(p.raw[end:], k.mac(k.k1, p.raw[4:end])[:k.check]) {
		return nil, errPacket
	}
	if len(p.payload) < 2*aes.BlockSize || len(p.payload)%aes.BlockSize != 0 {
		return nil, errPacket
	}
	plain := make([]byte, len(p.payload)-aes.BlockSize)
	cipher.NewCBCDecrypter(k.aes, p.payload[:aes.BlockSize]).CryptBlocks(plain, p.payload[aes.BlockSize:])
	pad := int(plain[len(plain)-1])
	if pad >= aes.BlockSize || pad+1 > len(plain) {
		return nil, errPacket
	}
	return plain[:len(plain)-1-pad], nil
}

// request is an IPMI message (13.8) to the BMC.
func request(seq, fn, cmd byte, data []byte) []byte {
	head := []byte{addrBMC, fn << 2}
	head = append(head, -sum(head))
	body := append([]byte{addrUs, seq << 2, cmd}, data...)
	return append(append(head, body...), -sum(body))
}

// parseResponse takes the completion code and data out of the answer to a request; ok is false for any other message.
func parseResponse(m []byte, seq, fn, cmd byte) (code byte, data []byte, ok bool) {
	if len(m) < 8 || sum(m[:3]) != 0 || sum(m[3:]) != 0 || m[1]>>2 != fn|1 || m[4]>>2 != seq || m[5] != cmd {
		return 0, nil, false
	}
	return m[6], m[7 : len(m)-1], true
}

func sum(b []byte) (n byte) {
	for _, c := range b {
		n += c
	}
	return n
}
