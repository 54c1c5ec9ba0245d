package ipmi

import "encoding/binary"

// payloadSOL is Serial over LAN's payload type (table 13-16).
const payloadSOL = 0x01

// Bits of a SOL packet's fourth byte (tables 15-2 and 15-3); 0x40 means the same both ways.
const (
	solNACK    = 0x40 // the packet, or the rest of it, was not taken
	solNotNow  = 0x20 // from the BMC: characters cannot be passed on just now
	solEnding  = 0x10 // from the BMC: it ends the console
	solOverrun = 0x08 // from the BMC: it lost characters of the machine
	solBroke   = 0x04 // from the BMC: the machine sent a break
	solBreak   = 0x10 // to the BMC: send the machine a break
)

// solPacket is the payload of a SOL packet (15.9).
type solPacket struct {
	seq    byte // 1 to 15; 0 carries no characters and is not acknowledged
	ack    byte // the packet that is acknowledged; 0 for none
	count  byte // how many of its characters were taken
	status byte
	data   []byte
}

const solHeader = 4

// parseSOL takes a payload apart. Anything that could not be a SOL packet is refused; data is a part of b.
func parseSOL(b []byte) (solPacket, bool) {
	if len(b) < solHeader || b[0]&0xf0 != 0 || b[1]&0xf0 != 0 || len(b) > solHeader+255 {
		return solPacket{}, false
	}
	p := solPacket{seq: b[0], ack: b[1], count: b[2], status: b[3], data: b[solHeader:]}
	if p.seq == 0 && len(p.data) > 0 {
		return solPacket{}, false // nobody could acknowledge it
	}
	return p, true
}

func (p solPacket) bytes() []byte {
	return append([]byte{p.seq, p.ack, p.count, p.status}, p.data...)
}

// fresh gives the characters of a packet that have not come yet. A packet that is sent again has the number of the
// first one, and may hold more characters behind those that it had then (15.11).
type solInput struct {
	seq byte
	n   int
}

func (in *solInput) fresh(p solPacket) []byte {
	from := 0
	if p.seq == in.seq {
		from = min(in.n, len(p.data))
	}
	if p.seq != in.seq {
		in.n = 0
	}
	in.seq, in.n = p.seq, max(in.n, len(p.data))
	return p.data[from:]
}

// solLimit is how many characters a BMC takes in one packet, from its answer to Activate Payload (24.1). Some BMCs say
// nonsense there.
func solLimit(answer []byte) int {
	const usual, most = 16, 128
	if len(answer) < 6 {
		return usual
	}
	switch n := int(binary.LittleEndian.Uint16(answer[4:])) - solHeader; {
	case n < 1 || n > 1024:
		return usual
	default:
		return min(n, most)
	}
}
