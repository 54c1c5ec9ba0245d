package vbmc

import (
	"encoding/binary"
	"math"
)

const (
	fnSensor  = 0x04
	fnStorage = 0x0a

	codeReservation = 0xc5
	codeTooMuch     = 0xca
	codeNotThere    = 0xcb

	lastRecord = 0xffff
)

// storage carries out commands of chapters 31 (event log) and 33 (sensor records). The caller does not hold the lock.
func (s *ipmiServer) storage(cmd byte, data []byte) (code byte, reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bmc
	switch cmd {
	case 0x20: // Get SDR Repository Info (33.9)
		out := binary.LittleEndian.AppendUint16([]byte{0x51}, uint16(len(b.sensors())))
		return codeOK, append(out, 0xff, 0xff, 1, 0, 0, 0, 1, 0, 0, 0, 0x22)
	case 0x22, 0x42: // Reserve SDR Repository (33.11), Reserve SEL (31.4)
		s.reserved++
		return codeOK, binary.LittleEndian.AppendUint16(nil, s.reserved)
	case 0x23: // Get SDR (33.12)
		if len(data) < 6 {
			return codeLength, nil
		}
		id, offset := int(binary.LittleEndian.Uint16(data[2:])), int(data[4])
		if offset > 0 && binary.LittleEndian.Uint16(data) != s.reserved {
			return codeReservation, nil
		}
		list := b.sensors()
		if id >= len(list) {
			return codeNotThere, nil
		}
		return s.piece(record(id, list[id]), id, len(list), offset, int(data[5]))
	case 0x40: // Get SEL Info (31.2)
		out := binary.LittleEndian.AppendUint16([]byte{0x51}, uint16(len(b.Events())))
		return codeOK, append(out, 0x00, 0x10, 1, 0, 0, 0, 1, 0, 0, 0, 0x02)
	case 0x43: // Get SEL Entry (31.5)
		if len(data) < 6 {
			return codeLength, nil
		}
		list := b.Events()
		id := int(binary.LittleEndian.Uint16(data[2:])) // their IDs begin with 1; 0 is the first, too
		switch {
		case id == lastRecord:
			id = len(list)
		case id == 0:
			id = 1
		}
		if id > len(list) || id < 1 {
			return codeNotThere, nil
		}
		next := id + 1
		if next > len(list) {
			next = lastRecord
		}
		return codeOK, append(binary.LittleEndian.AppendUint16(nil, uint16(next)), entry(id, list[id-1])...)
	case 0x47: // Clear SEL (31.9)
		if len(data) < 6 || string(data[2:5]) != "CLR" {
			return codeLength, nil
		}
		if binary.LittleEndian.Uint16(data) != s.reserved {
			return codeReservation, nil
		}
		if data[5] == 0xaa {
			b.clearEvents()
			return codeOK, []byte{0} // erasure goes on
		}
		return codeOK, []byte{1}
	case 0x48: // Get SEL Time (31.10)
		return codeOK, []byte{0, 0, 0, 0x60}
	}
	return codeInvalid, nil
}

// piece cuts a piece out of a record. A BMC with ShortRecords gives 24 bytes at once at most.
func (s *ipmiServer) piece(r []byte, id, of, offset, n int) (byte, []byte) {
	next := id + 1
	if next == of {
		next = lastRecord
	}
	if offset > len(r) {
		return codeParameter, nil
	}
	if s.bmc.Faults.ShortRecords && (n == 0xff || n > 24) {
		return codeTooMuch, nil
	}
	if n == 0xff || offset+n > len(r) {
		n = len(r) - offset
	}
	return codeOK, append(binary.LittleEndian.AppendUint16(nil, uint16(next)), r[offset:offset+n]...)
}

// record is a full sensor record (43.1).
func record(id int, s Sensor) []byte {
	r := make([]byte, 48)
	binary.LittleEndian.PutUint16(r, uint16(id))
	r[2], r[3] = 0x51, 0x01
	r[5], r[7] = 0x20, byte(id+1) // owner: the BMC; number
	r[8], r[9] = 0x07, 1          // system board
	r[10], r[11] = 0x7f, 0x68
	r[12], r[13] = s.Kind, 0x01 // thresholds
	r[18] = 0x10                // upper critical is readable
	r[21] = s.Unit
	m, exp := 1, 0
	switch s.Step {
	case 10:
		m = 10
	case 0.1:
		exp = -1
	}
	r[24] = byte(m)
	r[29] = byte(exp&0xf) << 4
	r[31] = 0x01 // nominal reading is given
	r[30], r[39] = byte(s.Value/s.Step), byte(s.High/s.Step)
	r[47] = 0xc0 | byte(len(s.Name))
	r = append(r, s.Name...)
	r[4] = byte(len(r) - 5)
	return r
}

// sensor carries out commands of chapter 35.
func (s *ipmiServer) sensor(cmd byte, data []byte) (code byte, reply []byte) {
	if len(data) < 1 {
		return codeLength, nil
	}
	list := s.bmc.sensors()
	n := int(data[0]) - 1
	if n < 0 || n >= len(list) {
		return codeNotThere, nil
	}
	switch x := list[n]; cmd {
	case 0x2d: // Get Sensor Reading (35.14)
		if x.Dead {
			return codeOK, []byte{0, 0xe0, 0xc0}
		}
		state := byte(0xc0)
		if x.Value >= x.High {
			state |= 0x18
		}
		return codeOK, []byte{byte(math.Round(x.Value / x.Step)), 0xc0, state}
	case 0x27: // Get Sensor Thresholds (35.9): upper critical
		return codeOK, []byte{0x10, 0, 0, 0, 0, byte(x.High / x.Step), 0}
	}
	return codeInvalid, nil
}

// entry is an entry of the event log (32.1).
func entry(id int, e Event) []byte {
	r := make([]byte, 16)
	binary.LittleEndian.PutUint16(r, uint16(id))
	r[2] = 0x02
	if !e.Time.IsZero() {
		binary.LittleEndian.PutUint32(r[3:], uint32(e.Time.Unix()))
	}
	r[7], r[9] = 0x20, 0x04
	r[10], r[11], r[12], r[13], r[14], r[15] = e.Kind, e.Number, e.Event, e.Offset, 0xff, 0xff
	return r
}
