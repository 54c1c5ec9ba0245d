package ipmi

import (
	"context"
	"encoding/binary"
	"math"
	"strings"
	"unicode"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
)

// Commands of chapters 33 and 35.
const (
	cmdReserveSDR = 0x22
	cmdGetSDR     = 0x23
	cmdReading    = 0x2d
)

const (
	maxRecords = 2000 // of sensors or log entries: a BMC that never ends is left
	pieceLen   = 16   // of a record that does not come whole
	sdrHead    = 5
	lastRecord = 0xffff
)

// Completion codes that say how to go on.
const (
	codeNoReservation = 0xc5
	codeTooMuch       = 0xca
	codeNotThere      = 0xcb
)

// sensor is a sensor record (43.1, 43.2), as far as it matters here.
type sensor struct {
	number, kind byte
	name         string
	numeric      bool // its reading is a number
	threshold    bool // its states are thresholds
	signed       byte // analog format: 0 unsigned, 1 one's, 2 two's complement
	unit         string
	linear       byte
	m, b         int
	bExp, rExp   int
	ours         bool // of the BMC itself: others' answer to other addresses
}

// Sensors reads the sensor records, and each sensor.
func (c *Client) Sensors(ctx context.Context) (out []api.Sensor, err error) {
	err = c.alone(ctx, switchTime, func(ctx context.Context) error {
		list, err := c.records(ctx)
		if err != nil {
			return err
		}
		for _, s := range list {
			r, err := c.reading(ctx, s)
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// records reads the sensor data records of sensors.
func (c *Client) records(ctx context.Context) ([]sensor, error) {
	var out []sensor
	whole := true
	for id, n := uint16(0), 0; n < maxRecords; n++ {
		raw, next, err := c.record(ctx, id, &whole)
		if err != nil {
			if n == 0 && is(err, codeNotThere) {
				return nil, nil // an empty repository
			}
			return nil, err
		}
		if s, ok := parseSensor(raw); ok {
			out = append(out, s)
		}
		if next == lastRecord || next == id {
			break
		}
		id = next
	}
	c.sensors = map[byte]string{}
	for _, s := range out {
		if s.ours && s.name != "" {
			c.sensors[s.number] = s.name
		}
	}
	return out, nil
}

// record reads one record (33.12): whole, or in pieces from when the BMC says that this is too much for it.
func (c *Client) record(ctx context.Context, id uint16, whole *bool) (raw []byte, next uint16, err error) {
	var reservation uint16 // 0 does for a whole one
	get := func(offset, n int) ([]byte, error) {
		for try := 1; ; try++ {
			in := binary.LittleEndian.AppendUint16(nil, reservation)
			in = append(binary.LittleEndian.AppendUint16(in, id), byte(offset), byte(n))
			got, err := c.command(ctx, "get sensor record", fnStorage, cmdGetSDR, in)
			if is(err, codeNoReservation) && try < 4 {
				if reservation, err = c.reserve(ctx, cmdReserveSDR); err != nil {
					return nil, err
				}
				continue
			}
			if err == nil && len(got) < 2 {
				err = c.errorf(power.ErrRefused, "answers nonsense to get sensor record", "", nil)
			}
			if err != nil {
				return nil, err
			}
			next = binary.LittleEndian.Uint16(got)
			return got[2:], nil
		}
	}
	if *whole {
		raw, err = get(0, 0xff)
		if err == nil || is(err, codeNotThere) || !optional(err) {
			return raw, next, err
		}
		*whole = false
	}
	if raw, err = get(0, sdrHead); err != nil || len(raw) < sdrHead {
		return raw, next, err
	}
	if reservation, err = c.reserve(ctx, cmdReserveSDR); err != nil && !optional(err) {
		return nil, 0, err
	}
	for total := sdrHead + int(raw[4]); len(raw) < total; {
		piece, err := get(len(raw), min(pieceLen, total-len(raw)))
		if err != nil {
			return nil, 0, err
		}
		if len(piece) == 0 {
			break
		}
		raw = append(raw, piece...)
	}
	return raw, next, nil
}

// reserve asks for a reservation of the sensor records or the event log.
func (c *Client) reserve(ctx context.Context, cmd byte) (uint16, error) {
	got, err := c.command(ctx, "reserve", fnStorage, cmd, nil)
	if err == nil && len(got) < 2 {
		err = c.errorf(power.ErrRefused, "answers nonsense to reserve", "", nil)
	}
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(got), nil
}

// parseSensor reads a full or compact sensor record.
func parseSensor(r []byte) (s sensor, ok bool) {
	name := 0
	switch {
	case len(r) >= 48 && r[3] == 0x01:
		name = 47
	case len(r) >= 32 && r[3] == 0x02:
		name = 31
	default:
		return s, false
	}
	s = sensor{number: r[7], kind: r[12], ours: r[5] == addrBMC && r[6]&3 == 0, threshold: r[13] == 0x01, signed: r[20] >> 6}
	s.name = text(r[name:])
	if s.unit = units[r[21]]; r[20]&1 == 1 {
		s.unit = "%"
	}
	if r[3] == 0x01 && s.signed != 3 && s.threshold {
		s.numeric, s.linear = true, r[23]&0x7f
		s.m, s.b = twos(int(r[24])|int(r[25]>>6)<<8, 10), twos(int(r[26])|int(r[27]>>6)<<8, 10)
		s.rExp, s.bExp = twos(int(r[29]>>4), 4), twos(int(r[29]&0xf), 4)
	}
	return s, true
}

// text reads a type/length byte and its string (43.15). Only 8-bit text is met; others' bytes are passed over.
func text(b []byte) string {
	n := min(int(b[0]&0x1f), len(b)-1)
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(b[1:1+n])))
}

// twos reads a two's complement of so many bits.
func twos(v, bits int) int {
	if v >= 1<<(bits-1) {
		v -= 1 << bits
	}
	return v
}

// value turns a raw reading into a number (36.3).
func (s sensor) value(raw byte) float64 {
	x := int(raw)
	switch {
	case s.signed == 1 && raw&0x80 != 0:
		x = -int(^raw)
	case s.signed == 2:
		x = int(int8(raw))
	}
	y := (float64(s.m)*float64(x) + float64(s.b)*math.Pow10(s.bExp)) * math.Pow10(s.rExp)
	switch s.linear {
	case 1:
		y = math.Log(y)
	case 2:
		y = math.Log10(y)
	case 3:
		y = math.Log2(y)
	case 4:
		y = math.Exp(y)
	case 5:
		y = math.Pow(10, y)
	case 6:
		y = math.Exp2(y)
	case 7:
		y = 1 / y
	case 8:
		y *= y
	case 9:
		y *= y * y
	case 10:
		y = math.Sqrt(y)
	case 11:
		y = math.Cbrt(y)
	}
	return math.Round(y*1e6) / 1e6
}

// reading asks for a sensor's reading (35.14).
func (c *Client) reading(ctx context.Context, s sensor) (api.Sensor, error) {
	out := api.Sensor{Name: s.name, Kind: kindOf(s.kind, s.unit)}
	if !s.ours {
		return out, nil
	}
	got, err := c.command(ctx, "get sensor reading", fnSensor, cmdReading, []byte{s.number})
	switch {
	case err != nil && optional(err):
		return out, nil // not there just now, as of a machine that is off
	case err != nil:
		return out, err
	case len(got) < 2 || got[1]&0x20 != 0 || got[1]&0x40 == 0:
		return out, nil // no reading, or it is not looked at
	}
	if s.numeric {
		if v := s.value(got[0]); !math.IsNaN(v) && !math.IsInf(v, 0) {
			out.Value, out.Unit = &v, s.unit
		}
	}
	if len(got) < 3 {
		return out, nil
	}
	if s.threshold {
		switch bits := got[2] & 0x3f; {
		case bits&0x36 != 0:
			out.Health = "critical"
		case bits != 0:
			out.Health = "warning"
		default:
			out.Health = "ok"
		}
	}
	return out, nil
}

// units are those that are met, of table 43-15.
var units = map[byte]string{1: "°C", 2: "°F", 3: "K", 4: "V", 5: "A", 6: "W", 7: "J", 9: "VA", 17: "cfm", 18: "rpm", 19: "Hz"}

func kindOf(kind byte, unit string) string {
	switch {
	case kind == 1:
		return "temperature"
	case kind == 2:
		return "voltage"
	case kind == 4:
		return "fan"
	case unit == "W":
		return "power"
	case kind == 3:
		return "current"
	}
	return "other"
}
