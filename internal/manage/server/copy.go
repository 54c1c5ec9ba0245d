package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/mirror"
	"mimeo/internal/imaging/store/s3"
)

// How often is looked whether there is something to copy, and after how long a copy that failed is tried again.
const (
	copyEvery = 5 * time.Second
	copyAgain = 5 * time.Minute
)

// copies is how the copying to the second store stands.
type copies struct {
	mu    sync.Mutex
	state api.StoreCopy
}

func (c *copies) set(fn func(*api.StoreCopy)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.state)
}

// copyState is nil where there is no second store.
func (s *Server) copyState() *api.StoreCopy {
	if s.cfg.Copy.To == "" {
		return nil
	}
	s.copies.mu.Lock()
	defer s.copies.mu.Unlock()
	c := s.copies.state
	c.Problems = slices.Clone(c.Problems)
	return &c
}

// copyStore copies to the second store what it lacks, when there is a revision that it was not given yet, until ctx is
// done.
func (s *Server) copyStore(ctx context.Context) error {
	if s.cfg.Copy.To == "" {
		return nil
	}
	s.copies.set(func(c *api.StoreCopy) { *c = api.StoreCopy{To: s.cfg.Copy.To, State: "waiting", Since: time.Now()} })
	var had []string // the last time that all went well
	wait := time.Duration(0)
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = copyEvery
		have, err := s.allRevisions(ctx)
		if err == nil && had != nil && slices.Equal(have, had) {
			continue
		}
		if err == nil {
			s.copying.Lock()
			err = s.copyNow(ctx)
			s.copying.Unlock()
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			wait = copyAgain
			e := copyError(err)
			s.log.Warn("copy to the second store", "to", s.cfg.Copy.To, "err", err)
			s.copies.set(func(c *api.StoreCopy) { c.State, c.Revision, c.Since, c.Error = "failed", "", time.Now(), e })
			continue
		}
		had = have
	}
}

// allRevisions lists what is published: an image that has one more, or one less, makes it another list.
func (s *Server) allRevisions(ctx context.Context) ([]string, error) {
	all := []string{}
	names, err := s.store.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		revs, err := s.store.Revisions(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, r := range revs {
			all = append(all, r.String())
		}
	}
	return all, nil
}

// copyNow copies once, and tells the status of it.
func (s *Server) copyNow(ctx context.Context) error {
	s.copies.set(func(c *api.StoreCopy) { c.State, c.Since, c.Error = "copying", time.Now(), nil })
	r, err := s.copyOnce(ctx, false, func(r store.Revision, done, total int64) {
		s.copies.set(func(c *api.StoreCopy) { c.Revision, c.Done, c.Total = r.String(), done, total })
	})
	if err != nil {
		return err
	}
	if len(r.Copied) > 0 || len(r.Problems) > 0 {
		s.log.Info("copied to the second store", "to", s.cfg.Copy.To, "revisions", len(r.Copied), "stored", r.Stored, "problems", len(r.Problems))
	}
	s.copies.set(func(c *api.StoreCopy) {
		*c = api.StoreCopy{To: c.To, State: "done", Since: time.Now(), There: r.There + len(r.Copied), Problems: r.Problems}
	})
	return nil
}

// copyOnce copies once. The second store is open, and locked, only meanwhile.
func (s *Server) copyOnce(ctx context.Context, dry bool, progress func(r store.Revision, done, total int64)) (_ *mirror.Report, err error) {
	key, err := storeKey(s.cfg.Copy.Key)
	if err != nil {
		return nil, fmt.Errorf("copy.key: %w", err)
	}
	bucket, inS3, err := s.cfg.CopyBucket(os.Getenv)
	if err != nil {
		return nil, err
	}
	var to *dir.Store
	if o := (dir.Options{Create: !dry, ReadOnly: dry, Key: key}); inS3 {
		to, err = s3.Open(ctx, bucket, o)
	} else {
		to, err = dir.Open(strings.TrimPrefix(s.cfg.Copy.To, "dir:"), o)
	}
	if err != nil {
		return nil, err
	}
	r, err := mirror.Run(ctx, s.store, to, mirror.Options{DryRun: dry, Progress: progress})
	return r, errors.Join(err, to.Close())
}

// copyOnDemand copies when an admin says so, or says what would be copied.
func (s *Server) copyOnDemand(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
	if s.cfg.Copy.To == "" {
		return nil, &api.Error{Code: "bad_request", Message: "there is no second store", Hint: "name one in the configuration of mimeod, as copy.to"}
	}
	dry := r.Method == http.MethodGet
	if !dry {
		if !s.copying.TryLock() {
			return nil, &api.Error{Code: "busy", Message: "the second store is being copied to already", Hint: "mimeo status shows how far it is"}
		}
		defer s.copying.Unlock()
	}
	report, err := s.copyOnce(ctx, dry, func(_ store.Revision, done, total int64) { progress(done, total) })
	if err != nil {
		return nil, copyError(err)
	}
	return api.StoreCopied{To: s.cfg.Copy.To, Copied: report.Copied, There: report.There, Chunks: report.Chunks, Stored: report.Stored, Problems: report.Problems}, nil
}

// copyError says what to do about an error of the second store.
func copyError(err error) *api.Error {
	e := &api.Error{Code: "failed", Message: "second store: " + err.Error(), Hint: cmp.Or(dir.KeyHint(err), s3.Hint(err))}
	switch {
	case errors.Is(err, store.ErrNotFound):
		e.Code, e.Hint = "not_found", "it is made by the first copy"
	case errors.Is(err, store.ErrLocked):
		e.Code, e.Hint = "busy", cmp.Or(e.Hint, "end the other program that writes to it")
	}
	return e
}
