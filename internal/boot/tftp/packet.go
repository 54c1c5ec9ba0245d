package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Opcodes (RFC 1350 section 5, RFC 2347).
const (
	opRRQ   = 1
	opWRQ   = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOAck  = 6
)

// Error codes (RFC 1350 appendix, RFC 2347).
const (
	codeUndefined  = 0
	codeNotFound   = 1
	codeAccess     = 2
	codeIllegal    = 4
	codeUnknownTID = 5
	codeOptions    = 8
)

// Bounds of the options. A block of 65464 bytes is RFC 2348's; a larger window than 64 blocks only fills the queues
// of switches, and RFC 7440 lets us answer with less than was asked for.
const (
	minBlock      = 8
	maxBlock      = 65464
	defaultBlock  = 512
	maxWindow     = 64
	maxRequestLen = 2048 // RFC 2347 says 512, but long paths with options were seen above it
)

var errNotRequest = errors.New("not a request")

// readRequest is a parsed RRQ. Options that were not sent are 0 or false.
type readRequest struct {
	name, mode string
	block      int
	window     int
	timeout    time.Duration
	tsize      bool
	order      []string // names of the options that we accept, as they came, for the answer
}

// parseRRQ reads a read request. An option with a value that its RFC does not allow is left out of the answer, which
// refuses it; an unknown option likewise (RFC 2347).
func parseRRQ(b []byte) (readRequest, error) {
	var r readRequest
	if len(b) < 2 || binary.BigEndian.Uint16(b) != opRRQ {
		return r, errNotRequest
	}
	if len(b) > maxRequestLen {
		return r, fmt.Errorf("request of %d bytes is too long", len(b))
	}
	if b[len(b)-1] != 0 {
		return r, errors.New("request does not end with a zero byte")
	}
	fields := strings.Split(string(b[2:len(b)-1]), "\x00")
	if len(fields) < 2 || fields[0] == "" {
		return r, errors.New("request has no file name or no mode")
	}
	r.name, r.mode = fields[0], strings.ToLower(fields[1])
	opts := fields[2:]
	seen := map[string]bool{}
	for len(opts) >= 2 {
		key, value := strings.ToLower(opts[0]), opts[1]
		opts = opts[2:]
		if seen[key] {
			continue
		}
		seen[key] = true
		if r.option(key, value) {
			r.order = append(r.order, key)
		}
	}
	return r, nil
}

// option takes one option and says whether it is accepted.
func (r *readRequest) option(key, value string) bool {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return false
	}
	switch key {
	case "blksize":
		if n < minBlock || n > 65535 {
			return false
		}
		r.block = int(min(n, maxBlock))
	case "windowsize":
		if n < 1 || n > 65535 {
			return false
		}
		r.window = int(min(n, maxWindow))
	case "timeout":
		if n < 1 || n > 255 {
			return false
		}
		r.timeout = time.Duration(n) * time.Second
	case "tsize":
		r.tsize = true
	default:
		return false
	}
	return true
}

// oack is the answer to the accepted options.
func (r *readRequest) oack(size int64) []byte {
	b := []byte{0, opOAck}
	for _, key := range r.order {
		var v int64
		switch key {
		case "blksize":
			v = int64(r.block)
		case "windowsize":
			v = int64(r.window)
		case "timeout":
			v = int64(r.timeout / time.Second)
		case "tsize":
			v = size
		}
		b = append(b, key...)
		b = append(b, 0)
		b = strconv.AppendInt(b, v, 10)
		b = append(b, 0)
	}
	return b
}

// errorPacket is an ERROR with a text for the one who reads the node's screen.
func errorPacket(code uint16, text string) []byte {
	if len(text) > 200 {
		text = text[:200]
	}
	b := binary.BigEndian.AppendUint16([]byte{0, opError}, code)
	b = append(b, strings.ReplaceAll(text, "\x00", " ")...)
	return append(b, 0)
}

// remoteError is an ERROR that the other side sent.
type remoteError struct {
	code uint16
	text string
}

func (e *remoteError) Error() string {
	return fmt.Sprintf("receiver gave up with error %d %q", e.code, e.text)
}

// parseError reads an ERROR packet.
func parseError(b []byte) *remoteError {
	e := &remoteError{}
	if len(b) >= 4 {
		e.code = binary.BigEndian.Uint16(b[2:])
		text, _, _ := strings.Cut(string(b[4:]), "\x00")
		if len(text) > 200 {
			text = text[:200]
		}
		e.text = text
	}
	return e
}
