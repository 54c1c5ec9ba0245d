package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/manage/hook"
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
	var promised *dir.PromisedError
	if errors.As(err, &promised) {
		return &api.Error{Code: "conflict", Message: err.Error(), Hint: "try again when it has ended (mimeo job list shows it)"}
	}
	var unread *dir.UnreadableError
	if errors.As(err, &unread) {
		return &api.Error{Code: "damaged", Message: "nothing was removed: " + err.Error(), Hint: `"mimeo store check" tells what is damaged; capture it again, or remove the revision ("mimeo image rm NAME@REV")`}
	}
	return toAPIError(err)
}

// collectGarbage removes what nobody needs, or says what it would remove.
func (s *Server) collectGarbage(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
	o := dir.GCOptions{DryRun: r.Method == http.MethodGet, Grace: -1, InUse: s.jobs.Needs, Progress: progress}
	if text := r.FormValue("grace_ms"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > maxGrace.Milliseconds() {
			return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("grace_ms: want 0 to %d", maxGrace.Milliseconds())}
		}
		o.Grace = time.Duration(n) * time.Millisecond
	}
	return s.store.GC(ctx, o)
}

// maxGrace is longer than anybody waits to go on with a capture that was cut off.
const maxGrace = 10 * 365 * 24 * time.Hour

func (s *Server) checkStore(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
	report, err := s.store.Check(ctx, r.FormValue("read_data") != "", progress)
	if err == nil && !report.OK() {
		s.tell(context.WithoutCancel(ctx), hook.Message{Event: "store.damaged", Text: damageText(report)})
	}
	return report, err
}

// damageText says in a line what a check has found.
func damageText(r *dir.Report) string {
	bad := 0
	for _, v := range r.Revisions {
		if !v.OK() {
			bad++
		}
	}
	text := fmt.Sprintf("%d revisions are not whole, %d problems", bad, len(r.Problems))
	if len(r.Problems) > 0 {
		text += ": " + r.Problems[0]
	}
	return text
}

func (s *Server) repairStore(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
	return s.store.Repair(ctx, r.Method == http.MethodGet, progress)
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
