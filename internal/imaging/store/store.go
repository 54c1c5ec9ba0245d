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
	// Put takes chunks; one that is there already is no error. They are durable after the next Flush or Stage.
	Put(ctx context.Context, chunks []chunk.Encoded) error
	// Flush makes all that was Put durable.
	Flush(ctx context.Context) error
	// Stage keeps a manifest that is not a revision yet, after a Flush. It fails with a *MissingError where a chunk
	// that it names (a segment, or an entry's) is not there. Staging the same manifest twice gives the same ID.
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

// Revision names a published manifest.
type Revision struct {
	Image    string      `json:"image"`
	Rev      int         `json:"rev"` // from 1; a removed number is not used again
	ID       manifest.ID `json:"id"`
	Created  time.Time   `json:"created"`
	Used     int64       `json:"used"`      // bytes captured
	DiskSize int64       `json:"disk_size"` // bytes
}

// String returns NAME@REV.
func (r Revision) String() string { return fmt.Sprintf("%s@%d", r.Image, r.Rev) }

// ErrNotFound says that an image, revision or manifest is not in the store.
var ErrNotFound = errors.New("not in the store")

// MissingError names a chunk that should be in the store and is not.
type MissingError struct{ ID chunk.ID }

func (e *MissingError) Error() string { return "chunk " + e.ID.String() + " is not in the store" }

// DamagedError names a chunk whose stored bytes are not what its name says.
type DamagedError struct {
	ID    chunk.ID
	Where string // file and offset, where known
	Err   error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("chunk %s is damaged (%s): %v", e.ID, e.Where, e.Err)
}
func (e *DamagedError) Unwrap() error { return e.Err }
