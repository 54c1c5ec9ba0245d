package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/dir"
)

// maintain does work on the whole store and streams how far it is.
func (s *Server) maintain(work func(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		send := sse(w)
		var p api.StoreProgress
		last := time.Now()
		out, err := work(r.Context(), r, func(done, total int64) {
			p.Done, p.Total = done, total
			if time.Since(last) > 300*time.Millisecond {
				last = time.Now()
				send(p)
			}
		})
		p.Finished = true
		if err == nil {
			p.Result, err = json.Marshal(out)
		}
		if err != nil {
			p.Error = storeError(err)
		}
		send(p)
	}
}

// storeError makes an error of work on the store one for an admin.
func storeError(err error) *api.Error {
	if errors.Is(err, dir.ErrBusy) {
		return &api.Error{Code: "busy", Message: err.Error(), Hint: "try again when that is done"}
	}
	return toAPIError(err)
}

func (s *Server) checkStore(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
	return s.store.Check(ctx, r.FormValue("read_data") != "", progress)
}

func (s *Server) storeUsage(r *http.Request) (any, error) {
	u, err := s.store.Usage(r.Context())
	if err != nil {
		return nil, storeError(err)
	}
	if name := r.FormValue("image"); name != "" {
		im, ok := u.Of(name)
		if !ok {
			return nil, noImage(name)
		}
		u.Images = []dir.ImageUsage{im}
	}
	return u, nil
}
