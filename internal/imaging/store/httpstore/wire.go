// Package httpstore reaches a store over HTTP: Client is the store on the agent's side, Handler serves one on the
// server's. docs/formats/api-store.md describes what goes over the wire.
package httpstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Prefix is where Handler wants to be mounted.
const Prefix = "/v1/store/"

const (
	framesType = "application/vnd.mimeo.frames"
	idsType    = "application/vnd.mimeo.ids"
	bitsType   = "application/vnd.mimeo.bits"

	// putHeader carries a number, new for each batch and the same when it is sent again, under which the server adds
	// up what was new in it. So the counts are right when an answer is lost.
	putHeader = "Mimeo-Put"
)

// Most that one request may ask for. They bound the server's memory and the length of one answer.
const (
	MaxMissing = 8192 // chunk IDs in a request to missing
	MaxGet     = 1024 // chunk IDs in a request to get
)

// Kinds of frame.
const (
	frameChunk = 1
	frameEnd   = 2 // the last; its raw length is the number of chunk frames before it
	frameError = 3 // the last; its data is a JSON problem
)

const (
	frameHead  = 48
	maxProblem = 64 << 10 // bytes of a JSON problem
)

// appendFrameHead appends the head of a frame of n bytes of data.
func appendFrameHead(b []byte, kind byte, codec chunk.Codec, raw, n uint32, id chunk.ID) []byte {
	b = append(b, kind, byte(codec), 0, 0)
	b = binary.LittleEndian.AppendUint32(b, raw)
	b = binary.LittleEndian.AppendUint32(b, n)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return append(b, id[:]...)
}

func appendChunk(b []byte, c chunk.Encoded) []byte {
	b = appendFrameHead(b, frameChunk, c.Codec, c.RawLen, uint32(len(c.Data)), c.ID)
	return append(b, c.Data...)
}

func appendEnd(b []byte, count int) []byte {
	return appendFrameHead(b, frameEnd, 0, uint32(count), 0, chunk.ID{})
}

// frame is the head of a frame.
type frame struct {
	kind  byte
	codec chunk.Codec
	raw   uint32
	n     uint32
	id    chunk.ID
}

// parseFrame reads frameHead bytes, and checks them so that n bytes may follow in memory.
func parseFrame(b []byte) (frame, error) {
	f := frame{kind: b[0], codec: chunk.Codec(b[1]), raw: binary.LittleEndian.Uint32(b[4:]), n: binary.LittleEndian.Uint32(b[8:]), id: chunk.ID(b[16:frameHead])}
	reserved := binary.LittleEndian.Uint16(b[2:]) != 0 || binary.LittleEndian.Uint32(b[12:]) != 0
	switch {
	case reserved:
		return f, errors.New("frame: reserved bytes are not zero")
	case f.kind == frameChunk:
		if f.raw == 0 || f.raw > chunk.MaxLen || f.n == 0 || f.n > f.raw || f.codec > chunk.S2 || f.codec == chunk.Raw && f.n != f.raw {
			return f, fmt.Errorf("frame of chunk %s: raw length %d, length %d, codec %d", f.id, f.raw, f.n, f.codec)
		}
	case f.kind == frameEnd:
		if f.n != 0 || f.codec != 0 || f.id != (chunk.ID{}) {
			return f, errors.New("frame: an end with data")
		}
	case f.kind == frameError:
		if f.n == 0 || f.n > maxProblem || f.raw != 0 || f.codec != 0 || f.id != (chunk.ID{}) {
			return f, fmt.Errorf("frame: a problem of %d bytes", f.n)
		}
	default:
		return f, fmt.Errorf("frame of kind %d is unknown", f.kind)
	}
	return f, nil
}

// readFrames reads frames until the end and calls fn with each chunk. Data is good until fn returns. It uses and
// returns buf. A stream that stops before its end is io.ErrUnexpectedEOF.
func readFrames(r io.Reader, buf []byte, fn func(chunk.Encoded) error) ([]byte, error) {
	var head [frameHead]byte
	for count := 0; ; count++ {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return buf, fmt.Errorf("read frame %d: %w", count, cutOff(err))
		}
		f, err := parseFrame(head[:])
		if err != nil {
			return buf, err
		}
		buf = slices.Grow(buf[:0], int(f.n))[:f.n]
		if _, err := io.ReadFull(r, buf); err != nil {
			return buf, fmt.Errorf("read frame %d: %w", count, cutOff(err))
		}
		switch f.kind {
		case frameEnd:
			if int(f.raw) != count {
				return buf, fmt.Errorf("%d frames, the end says %d", count, f.raw)
			}
			return buf, nil
		case frameError:
			var p problem
			if err := json.Unmarshal(buf, &p); err != nil {
				return buf, fmt.Errorf("read problem: %w", err)
			}
			return buf, p.err(http.StatusOK)
		}
		if err := fn(chunk.Encoded{ID: f.id, RawLen: f.raw, Codec: f.codec, Data: buf}); err != nil {
			return buf, err
		}
	}
}

// splitFrames is readFrames for a stream that is in memory; the chunks share it.
func splitFrames(b []byte) ([]chunk.Encoded, error) {
	var chunks []chunk.Encoded
	for {
		if len(b) < frameHead {
			return nil, fmt.Errorf("read frame %d: %w", len(chunks), io.ErrUnexpectedEOF)
		}
		f, err := parseFrame(b)
		if err != nil {
			return nil, err
		}
		b = b[frameHead:]
		if f.kind == frameEnd {
			if int(f.raw) != len(chunks) || len(b) > 0 {
				return nil, fmt.Errorf("%d frames, the end says %d; %d bytes after it", len(chunks), f.raw, len(b))
			}
			return chunks, nil
		}
		if f.kind != frameChunk {
			return nil, fmt.Errorf("frame of kind %d in a batch of chunks", f.kind)
		}
		if int64(f.n) > int64(len(b)) {
			return nil, fmt.Errorf("read frame %d: %w", len(chunks), io.ErrUnexpectedEOF)
		}
		chunks = append(chunks, chunk.Encoded{ID: f.id, RawLen: f.raw, Codec: f.codec, Data: b[:f.n:f.n]})
		b = b[f.n:]
	}
}

func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// problem is an error as it crosses the wire.
type problem struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	ID      *chunk.ID `json:"id,omitempty"`    // of the chunk that it is about
	Where   string    `json:"where,omitempty"` // in the store, of a damaged chunk
}

// Codes of problem and the status each comes with.
var statuses = map[string]int{
	"bad_request": http.StatusBadRequest,
	"bad_chunk":   http.StatusUnprocessableEntity,
	"not_found":   http.StatusNotFound,
	"missing":     http.StatusConflict,
	"damaged":     http.StatusConflict,
	"too_large":   http.StatusRequestEntityTooLarge,
	"no_length":   http.StatusLengthRequired,
	"stopped":     http.StatusRequestTimeout,
	"busy":        http.StatusTooManyRequests,
	"full":        http.StatusInsufficientStorage,
	"internal":    http.StatusInternalServerError,
}

// problemOf says how err crosses the wire.
func problemOf(err error) problem {
	var p problem
	var missing *store.MissingError
	var damaged *store.DamagedError
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		p = problem{Code: refused.code}
	case errors.As(err, &missing):
		p = problem{Code: "missing", ID: &missing.ID}
	case errors.As(err, &damaged):
		p = problem{Code: "damaged", ID: &damaged.ID, Where: damaged.Where}
		if damaged.Err != nil {
			err = damaged.Err
		}
	case errors.Is(err, manifest.ErrContent):
		p = problem{Code: "bad_request"}
	case errors.Is(err, store.ErrNotFound):
		p = problem{Code: "not_found"}
	case errors.Is(err, store.ErrFull):
		p = problem{Code: "full"}
	default:
		p = problem{Code: "internal"}
	}
	p.Message = err.Error()
	if len(p.Message) > maxProblem/16 { // quoting makes it at most six times as long
		p.Message = p.Message[:maxProblem/16]
	}
	return p
}

// refusal is a request that the server does not take.
type refusal struct {
	code string
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(code, format string, args ...any) error {
	return &refusal{code, fmt.Errorf(format, args...)}
}

// err turns a problem back into the error that it was.
func (p problem) err(status int) error {
	switch p.Code {
	case "missing":
		if p.ID != nil {
			return &store.MissingError{ID: *p.ID}
		}
	case "damaged":
		if p.ID != nil {
			return &store.DamagedError{ID: *p.ID, Where: "server: " + p.Where, Err: errors.New(p.Message)}
		}
	case "not_found":
		return &remote{status, p, store.ErrNotFound}
	case "full":
		return &remote{status, p, store.ErrFull}
	}
	return &remote{status, p, nil}
}

// remote is an error that the server told.
type remote struct {
	status int
	problem
	kind error // store.ErrFull or store.ErrNotFound, where it is that
}

func (r *remote) Error() string {
	if r.Message == "" {
		return fmt.Sprintf("server answered %d %s", r.status, http.StatusText(r.status))
	}
	return "server: " + r.Message
}
func (r *remote) Unwrap() error { return r.kind }

// temporary tells whether the same request may do better later.
func (r *remote) temporary() bool {
	if r.kind != nil {
		return false
	}
	switch r.status {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusOK: // OK: a problem in the middle of a stream
		return true
	}
	return r.status >= 500
}

// staged is the answer to a manifest.
type staged struct {
	ID manifest.ID `json:"id"`
}
