package trial

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// monitor speaks QMP to QEMU (its manual, "QEMU Machine Protocol Specification"). One question at a time.
type monitor struct {
	conn   net.Conn
	lines  *bufio.Scanner
	resets int
	ended  string // why the guest ended, where it did by itself
}

// maxReply bounds a line that QEMU says.
const maxReply = 4 << 20

// dial waits for QEMU to listen.
func dial(ctx context.Context, path string) (*monitor, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			m := &monitor{conn: conn, lines: bufio.NewScanner(conn)}
			m.lines.Buffer(nil, maxReply)
			if _, err = m.ask("qmp_capabilities", nil); err != nil {
				conn.Close()
			}
			return m, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// reply is a line of QEMU: a greeting, an answer, or an event.
type reply struct {
	Return json.RawMessage            `json:"return"`
	Error  *struct{ Desc string }     `json:"error"`
	Event  string                     `json:"event"`
	Data   map[string]json.RawMessage `json:"data"`
}

// ask sends a command and returns its answer.
func (m *monitor) ask(command string, args map[string]any) (json.RawMessage, error) {
	q := map[string]any{"execute": command}
	if args != nil {
		q["arguments"] = args
	}
	b, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	if err := m.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("ask QEMU: %w", err)
	}
	for m.lines.Scan() {
		var r reply
		if err := json.Unmarshal(m.lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("QEMU's answer: %w", err)
		}
		switch {
		case r.Error != nil:
			return nil, fmt.Errorf("QEMU refused %s: %s", command, r.Error.Desc)
		case r.Return != nil:
			return r.Return, nil
		case r.Event == "RESET" && string(r.Data["guest"]) == "true":
			m.resets++
		case r.Event == "SHUTDOWN" && string(r.Data["guest"]) == "true":
			m.ended = "it switched itself off"
		case r.Event == "GUEST_PANICKED":
			m.ended = "its kernel panicked"
		}
	}
	return nil, errors.Join(errors.New("QEMU has ended"), m.lines.Err(), io.EOF)
}

// read returns how many bytes the guest has read from its disk.
func (m *monitor) read() (int64, error) {
	b, err := m.ask("query-blockstats", nil)
	if err != nil {
		return 0, err
	}
	var list []struct {
		Device string
		Stats  struct {
			Bytes int64 `json:"rd_bytes"`
		}
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return 0, fmt.Errorf("QEMU's answer: %w", err)
	}
	var n int64
	for _, d := range list {
		if d.Device == "disk" {
			n += d.Stats.Bytes
		}
	}
	return n, nil
}
