package ipmi

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
)

// Commands of chapter 31.
const (
	cmdSELInfo    = 0x40
	cmdReserveSEL = 0x42
	cmdGetSEL     = 0x43
	cmdClearSEL   = 0x47
)

const selLen = 16 // bytes of an entry (32.1)

// Log reads the system event log.
func (c *Client) Log(ctx context.Context) (out []api.LogEntry, err error) {
	err = c.alone(ctx, switchTime, func(ctx context.Context) error {
		info, err := c.command(ctx, "get event log info", fnStorage, cmdSELInfo, nil)
		if err != nil {
			return err
		}
		if len(info) >= 3 && info[1] == 0 && info[2] == 0 {
			return nil
		}
		for id, n := uint16(0), 0; n < 1<<16; n++ {
			// With the reservation 0 an entry is read whole.
			in := append(binary.LittleEndian.AppendUint16([]byte{0, 0}, id), 0, 0xff)
			got, err := c.command(ctx, "get event log entry", fnStorage, cmdGetSEL, in)
			switch {
			case is(err, codeNotThere):
				return nil // somebody has emptied it
			case err != nil:
				return err
			case len(got) < 2+selLen:
				return c.errorf(power.ErrRefused, "answers nonsense to get event log entry", "", nil)
			}
			out = append(out, c.entry(got[2:2+selLen]))
			next := binary.LittleEndian.Uint16(got)
			if next == lastRecord || next == id || next == 0 {
				return nil
			}
			id = next
		}
		return nil
	})
	return out, err
}

// ClearLog empties the system event log, and waits until it is.
func (c *Client) ClearLog(ctx context.Context) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error {
		reservation, err := c.reserve(ctx, cmdReserveSEL)
		if err != nil && !optional(err) {
			return err
		}
		in := append(binary.LittleEndian.AppendUint16(nil, reservation), 'C', 'L', 'R', 0xaa)
		for pause := c.o.Wait / 10; ; pause = min(2*pause, time.Second) {
			got, err := c.command(ctx, "clear event log", fnStorage, cmdClearSEL, in)
			if err != nil {
				return err
			}
			if len(got) == 0 || got[0]&0xf == 1 {
				return nil
			}
			in[5] = 0 // how far is it?
			select {
			case <-ctx.Done():
				return c.errorf(power.ErrState, "does not end emptying its event log", "look at the BMC's own page", ctx.Err())
			case <-time.After(pause):
			}
		}
	})
}

// entry puts an entry into words.
func (c *Client) entry(r []byte) api.LogEntry {
	e := api.LogEntry{ID: fmt.Sprintf("%d", binary.LittleEndian.Uint16(r))}
	stamp := binary.LittleEndian.Uint32(r[3:])
	// Below are seconds since the BMC started (37).
	if r[2] < 0xe0 && stamp > 0x20000000 && stamp != 0xffffffff {
		t := time.Unix(int64(stamp), 0).UTC()
		e.Time = &t
	}
	switch {
	case r[2] >= 0xe0:
		e.Text = fmt.Sprintf("vendor's entry %02x: % x", r[2], r[3:])
	case r[2] >= 0xc0:
		e.Text = fmt.Sprintf("vendor's entry %02x: % x", r[2], r[7:])
	default:
		kind, number, gone, event := r[10], r[11], r[12]&0x80 != 0, r[12]&0x7f
		what, severity := happened(kind, event, r[13]&0xf)
		name := c.sensors[number]
		if name == "" {
			name = fmt.Sprintf("#%#02x", number)
		}
		e.Text = fmt.Sprintf("%s %s: %s", sensorType(kind), name, what)
		if e.Severity = severity; gone {
			e.Text, e.Severity = e.Text+" (over)", "ok"
		}
	}
	return e
}

func sensorType(kind byte) string {
	if int(kind) < len(sensorTypes) {
		return sensorTypes[kind]
	}
	return fmt.Sprintf("sensor type %#02x", kind)
}

// happened puts an event into words (tables 42-2 and 42-3), with how bad it is.
func happened(kind, event, offset byte) (text, severity string) {
	var list []string
	switch {
	case event == 0x01:
		list = thresholds
	case event == 0x6f:
		list = specific[kind]
	default:
		list = generic[event]
	}
	if int(offset) >= len(list) || list[offset] == "" {
		return fmt.Sprintf("event %#02x, %d", event, offset), ""
	}
	text = list[offset]
	if rest, ok := strings.CutPrefix(text, "!"); ok {
		return rest, "critical"
	}
	if rest, ok := strings.CutPrefix(text, "?"); ok {
		return rest, "warning"
	}
	return text, "ok"
}
