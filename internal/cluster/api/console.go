package api

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Paths of the serial consoles:
//
//	GET  /v1/nodes/{name}/console          → 101 with ConsoleProtocol, to watch
//	POST /v1/nodes/{name}/console?share=1&force=1  → likewise, to type too
//	GET  /v1/nodes/{name}/console/log?since=TIME   → what was logged, as docs/formats/console.md has it

// ConsoleProtocol is what the connection is upgraded to: frames both ways.
const ConsoleProtocol = "mimeo-console/1"

// FrameKind is the first byte of a frame.
type FrameKind byte

// The kinds of frames. Both sides pass over others.
const (
	FrameHello FrameKind = 'h' // server: ConsoleHello, the first
	FramePast  FrameKind = 'p' // server: what the node sent before, up to a bound
	FrameOut   FrameKind = 'o' // server: what the node sends
	FrameNote  FrameKind = 'n' // server: ConsoleNote
	FrameEnd   FrameKind = 'e' // server: Error, the last
	FrameAlive FrameKind = 'k' // server: nothing, so that a dead connection shows
	FrameIn    FrameKind = 'i' // client: what is typed, at most MaxConsoleInput
	FrameBreak FrameKind = 'b' // client: send a break
)

// Bounds of frames' bytes.
const (
	MaxFrame        = 64 << 10
	MaxConsoleInput = 4 << 10
)

// ConsoleHello says what was attached to.
type ConsoleHello struct {
	Node   string   `json:"node"`
	Way    string   `json:"way"`              // how the console is reached, for people
	Write  bool     `json:"write"`            // what is typed counts
	Others []string `json:"others,omitempty"` // who else is attached
}

// ConsoleNote is something that happened beside what the node sends.
type ConsoleNote struct {
	Time    time.Time `json:"time"`
	Text    string    `json:"text,omitempty"`
	Skipped int64     `json:"skipped,omitempty"` // bytes that came while the client did not read; the log has them
}

// WriteFrame sends a frame: kind, length in three bytes, the higher first, then b.
func WriteFrame(w io.Writer, kind FrameKind, b []byte) error {
	if len(b) > MaxFrame {
		return fmt.Errorf("a frame of %d bytes is too large", len(b))
	}
	_, err := w.Write(append([]byte{byte(kind), byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...))
	return err
}

// WriteFrameJSON sends a frame with v in it.
func WriteFrameJSON(w io.Writer, kind FrameKind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return WriteFrame(w, kind, b)
}

// ReadFrame reads a frame of at most max bytes.
func ReadFrame(r io.Reader, max int) (FrameKind, []byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1])<<16 | int(head[2])<<8 | int(head[3])
	if n > max {
		return 0, nil, fmt.Errorf("a frame of %d bytes, which is more than %d", n, max)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return FrameKind(head[0]), b, nil
}
