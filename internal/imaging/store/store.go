// Package store says what keeps chunks and manifests, whichever way it keeps them. docs/formats/store.md is the format of the one that most use.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
)

// Reader hands out what is published. Its methods may be called from several goroutines.
type Reader interface {
	// Get calls fn once for each of ids, in any order, from the calling goroutine. Data is good until fn returns.
	// A chunk that is not there is a *MissingError, one that is there but damaged a *DamagedError. The caller still
	// checks the bytes against their name (chunk.Decode does).
	Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error
	// Images lists the names of all images with a published revision.
	Images(ctx context.Context) ([]string, error)
	// Revisions lists the published revisions of an image in ascending order; none is no error.
	Revisions(ctx context.Context, image string) ([]Revision, error)
	// Manifest returns a manifest, published or staged, checked against its ID. ErrNotFound where there is none.
	Manifest(ctx context.Context, id manifest.ID) (*manifest.Manifest, error)
}

// Writer takes chunks and manifests in.
type Writer interface {
	Reader
	// Missing returns those of ids that the store does not hold, in their order.
	Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error)
	// Put takes chunks; one that is there already is no error and costs little. They are durable after the next Flush
	// or Stage that succeeds. The chunks are not changed, and not used after Put returns. An error that wraps ErrFull
	// says that there is no room; the store is as it was, or holds some of the chunks.
	Put(ctx context.Context, chunks []chunk.Encoded) (PutResult, error)
	// Flush makes all that was Put durable. After an error the chunks that were Put since the last Flush may be gone.
	Flush(ctx context.Context) error
	// Stage makes all that was Put durable, and keeps a manifest that is not a revision yet. It fails with a
	// *MissingError where a chunk that it names (a segment, or an entry's) is not there. Staging the same manifest
	// twice gives the same ID.
	Stage(ctx context.Context, m *manifest.Manifest) (manifest.ID, error)
}

// Publisher makes staged manifests revisions, and removes them.
type Publisher interface {
	Writer
	// Publish makes a staged manifest the next revision of an image, atomically and durably. Publishing an ID that
	// is already a revision of the image returns that revision.
	Publish(ctx context.Context, image string, id manifest.ID) (Revision, error)
	// Remove makes a revision disappear; its chunks go when nothing names them any more.
	Remove(ctx context.Context, image string, rev int) error
}

// PutResult counts the chunks of a Put that the store did not hold before.
type PutResult struct {
	New       int   `json:"new"`        // chunks
	NewRaw    int64 `json:"new_raw"`    // their raw bytes
	NewStored int64 `json:"new_stored"` // bytes that the store grew by: encoded, with the heads of the records
}

// Add puts o's counts to r's.
func (r *PutResult) Add(o PutResult) {
	r.New += o.New
	r.NewRaw += o.NewRaw
	r.NewStored += o.NewStored
}

// Stats says how large a store is.
type Stats struct {
	Packs     int   `json:"packs"`
	Chunks    int64 `json:"chunks"`
	Raw       int64 `json:"raw"`        // bytes of all chunks, raw
	PackBytes int64 `json:"pack_bytes"` // bytes of all packs
	Images    int   `json:"images"`
	Revisions int   `json:"revisions"`
}

// Revision names a published manifest.
type Revision struct {
	Image   string      `json:"image"`
	Rev     int         `json:"rev"` // from 1; a removed number is not used again
	ID      manifest.ID `json:"id"`
	Created time.Time   `json:"created"` // as the manifest has it: by the clock of the node
	// Published is when the revision was published, by the clock of the store. Zero where the store does not know.
	Published time.Time `json:"published,omitzero"`
	Used      int64     `json:"used"`      // bytes captured
	DiskSize  int64     `json:"disk_size"` // bytes

	Signatures []Signature `json:"signatures,omitempty"` // package sign makes and checks them
}

// Signature vouches for a revision. It may be wrong, and by anybody.
type Signature struct {
	Key string `json:"key"` // public key, base64
	Sig string `json:"sig"` // base64
}

// NewRevision fills a Revision from its manifest.
func NewRevision(image string, rev int, id manifest.ID, m *manifest.Manifest) Revision {
	return Revision{Image: image, Rev: rev, ID: id, Created: m.Created, Used: m.Content.Used, DiskSize: m.Disk.Size}
}

// Find returns a published revision of an image, the newest where rev is 0. ErrNotFound where there is none.
func Find(ctx context.Context, s Reader, image string, rev int) (Revision, error) {
	revs, err := s.Revisions(ctx, image)
	if err != nil {
		return Revision{}, err
	}
	if rev == 0 && len(revs) > 0 {
		return revs[len(revs)-1], nil
	}
	for _, r := range revs {
		if r.Rev == rev {
			return r, nil
		}
	}
	if rev == 0 {
		return Revision{}, fmt.Errorf("image %s: %w", image, ErrNotFound)
	}
	return Revision{}, fmt.Errorf("%s@%d: %w", image, rev, ErrNotFound)
}

// String returns NAME@REV.
func (r Revision) String() string { return fmt.Sprintf("%s@%d", r.Image, r.Rev) }

// ErrNotFound says that an image, revision or manifest is not in the store.
var ErrNotFound = errors.New("not in the store")

// ErrTaken says that a revision's number belongs to another manifest, or did.
var ErrTaken = errors.New("the number is taken")

// ErrFull says that the disk which holds the store has no room left.
var ErrFull = errors.New("the store's disk is full")

// ErrUnreachable says that what keeps the store does not answer, or not as it should: nothing is known about what it
// holds.
var ErrUnreachable = errors.New("the store does not answer")

// ErrLocked says that another process has the store open for writing.
var ErrLocked = errors.New("another process has the store open for writing")

// MissingError names a chunk that should be in the store and is not.
type MissingError struct{ ID chunk.ID }

// Error says which chunk is missing.
func (e *MissingError) Error() string { return "chunk " + e.ID.String() + " is not in the store" }

// DamagedError names a chunk whose stored bytes are not what its name says.
type DamagedError struct {
	ID    chunk.ID
	Where string // file and offset, where known
	Err   error
}

// Error says which chunk is damaged, where it lies, and in what way.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("chunk %s is damaged (%s): %v", e.ID, e.Where, e.Err)
}

// Unwrap returns what was found to be wrong.
func (e *DamagedError) Unwrap() error { return e.Err }
