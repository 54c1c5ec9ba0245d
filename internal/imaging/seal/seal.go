// Package seal writes and checks seals: what a disk file outside of a store must hold, and who signed that.
// docs/formats/seal.md is their format.
package seal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Version is the format that this package writes.
const Version = 1

const (
	format  = "mimeo-seal"
	maxHead = 1 << 16 // bytes of the first line
)

// head is the first line.
type head struct {
	Format     string            `json:"format"`
	Version    int               `json:"version"`
	Image      string            `json:"image"`
	Rev        int               `json:"rev"`
	ID         manifest.ID       `json:"id"`
	Manifest   int64             `json:"manifest"` // bytes
	Signatures []store.Signature `json:"signatures"`
}

// Write writes the seal of a revision, whose manifest and segments it reads from a store.
func Write(ctx context.Context, w io.Writer, from store.Reader, r store.Revision, m *manifest.Manifest) error {
	text, err := manifest.Encode(m)
	if err != nil {
		return err
	}
	if got := manifest.Sum(text); got != r.ID {
		return fmt.Errorf("the manifest of %s is %s, not %s", r, got, r.ID)
	}
	line, err := json.Marshal(head{format, Version, r.Image, r.Rev, r.ID, int64(len(text)), r.Signatures})
	if err != nil {
		return err
	}
	if len(line) >= maxHead {
		return fmt.Errorf("the seal of %s would have a first line of %d bytes, at most %d", r, len(line)+1, maxHead)
	}
	out := bufio.NewWriterSize(w, 1<<20)
	out.Write(append(line, '\n'))
	out.Write(text)
	var raw []byte
	for i, s := range m.Content.Segments {
		if raw, err = manifest.ReadSegment(ctx, from, s, raw); err != nil {
			return fmt.Errorf("segment %d of the manifest: %w", i, err)
		}
		out.Write(raw)
	}
	return out.Flush()
}

// Seal is a seal that was read.
type Seal struct {
	Revision store.Revision // with its signatures, which nobody has checked
	Manifest *manifest.Manifest

	r        io.ReaderAt
	segments map[chunk.ID]stretch
}

// stretch is where a segment lies.
type stretch struct {
	off int64
	n   int
}

// Open reads a seal of n bytes as far as its manifest. Who signed it is for the caller to check, and what a file holds
// for Check.
func Open(r io.ReaderAt, n int64) (*Seal, error) {
	first := make([]byte, min(n, maxHead))
	if _, err := r.ReadAt(first, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	end := bytes.IndexByte(first, '\n')
	var h head
	if end < 0 || json.Unmarshal(first[:end], &h) != nil || h.Format != format {
		return nil, errors.New("this is no seal")
	}
	off := int64(end) + 1
	switch err := manifest.ValidName(h.Image); {
	case h.Version != Version:
		return nil, fmt.Errorf("the seal has format %d, this program reads format %d", h.Version, Version)
	case err != nil:
		return nil, fmt.Errorf("the seal is damaged: %w", err)
	case h.Rev < 1 || h.Manifest < 1 || h.Manifest > manifest.MaxSize || h.Manifest > n-off:
		return nil, fmt.Errorf("the seal is damaged: revision %d, a manifest of %d bytes", h.Rev, h.Manifest)
	}
	text := make([]byte, h.Manifest)
	if _, err := r.ReadAt(text, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if got := manifest.Sum(text); got != h.ID {
		return nil, fmt.Errorf("the seal is damaged: it is for manifest %s, and has %s", h.ID, got)
	}
	m, err := manifest.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("the seal is damaged: %w", err)
	}
	s := &Seal{Revision: store.NewRevision(h.Image, h.Rev, h.ID, m), Manifest: m, r: r, segments: make(map[chunk.ID]stretch, len(m.Content.Segments))}
	s.Revision.Signatures = h.Signatures
	off += h.Manifest
	for _, g := range m.Content.Segments {
		s.segments[g.ID] = stretch{off, g.Len}
		off += int64(g.Len)
	}
	if off != n {
		return nil, fmt.Errorf("the seal is damaged: it has %d bytes, and should have %d", n, off)
	}
	return s, nil
}

// Get implements manifest.Getter for the segments. The reader of the entries checks them against their names.
func (s *Seal) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	for _, id := range ids {
		at, ok := s.segments[id]
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if !ok {
			return &store.MissingError{ID: id}
		}
		b := make([]byte, at.n)
		if _, err := s.r.ReadAt(b, at.off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := fn(chunk.Encoded{ID: id, RawLen: uint32(at.n), Codec: chunk.Raw, Data: b}); err != nil {
			return err
		}
	}
	return nil
}

// OtherError says where a disk holds something else than what was sealed.
type OtherError struct {
	Off, Len int64 // bytes from the start of the disk
	Why      string
}

// Error says where, and what.
func (e *OtherError) Error() string {
	return fmt.Sprintf("%d bytes at offset %d of the disk are not what was sealed: %s", e.Len, e.Off, e.Why)
}

// Check reads a disk of size bytes and holds it against the seal; the first difference is an *OtherError. With rest,
// what the image does not use must be zero. progress, if not nil, is told how many bytes of the disk were looked at.
func (s *Seal) Check(ctx context.Context, disk io.ReaderAt, size int64, rest bool, progress func(done, total int64)) error {
	if want := s.Manifest.Disk.Size; size < want {
		return &OtherError{size, want - size, fmt.Sprintf("the disk has %d bytes, the sealed one %d", size, want)}
	}
	buf := make([]byte, chunk.MaxLen)
	read := func(off, n int64) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if _, err := disk.ReadAt(buf[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read %d bytes at offset %d of the disk: %w", n, off, err)
		}
		return buf[:n], nil
	}
	zero := func(off, n int64, why string) error {
		for end := off + n; off < end; {
			b, err := read(off, min(end-off, chunk.MaxLen))
			if err != nil {
				return err
			}
			if !chunk.IsZero(b) {
				return &OtherError{off, int64(len(b)), why}
			}
			off += int64(len(b))
		}
		return nil
	}
	var end int64
	for e, err := range manifest.Entries(ctx, s, s.Manifest) {
		if err != nil {
			return fmt.Errorf("the seal is damaged: %w", err)
		}
		if rest {
			if err := zero(end, e.Off-end, "the image does not use them, and they are not zero"); err != nil {
				return err
			}
		}
		if e.Zero {
			err = zero(e.Off, e.Len, "they are not zero")
		} else {
			var b []byte
			if b, err = read(e.Off, e.Len); err == nil && chunk.Sum(b) != e.ID {
				err = &OtherError{e.Off, e.Len, "their hash is another"}
			}
		}
		if err != nil {
			return err
		}
		if end = e.Off + e.Len; progress != nil {
			progress(end, s.Manifest.Disk.Size)
		}
	}
	if rest {
		return zero(end, size-end, "the image does not use them, and they are not zero")
	}
	return nil
}
