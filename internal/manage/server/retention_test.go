package server

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/store/storetest"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/job"
)

// What ended long ago is forgotten at the start, what runs is not.
func TestHistory(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	db, err := inventory.Open(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	err = db.Update(t.Context(), func(tx *inventory.Tx) error {
		for id, days := range map[string]int{"j1": 89, "j2": 91, "j3": -1} {
			j := job.Record{Job: api.Job{ID: id, Kind: api.TaskCapture, Node: node.Name("x" + id), Phase: api.PhaseDone}}
			if ended := now.AddDate(0, 0, -days); days > 0 {
				j.Ended = &ended
			} else {
				j.Active, j.Phase, j.Created, j.PhaseSince = true, api.PhasePowering, now.AddDate(-1, 0, 0), now
			}
			if err := tx.AddJob(id, "", j.Node, j.Active, j); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	r := startIn(t, state)
	there := func(id string) bool {
		code, _ := r.call(r.token, "GET", "/v1/jobs/"+id, nil, nil)
		return code == 200
	}
	r.until("the old job is forgotten", func() bool { return !there("j2") })
	if !there("j1") || !there("j3") {
		t.Error("a young job, or one that runs, is forgotten")
	}
}

func TestRetention(t *testing.T) {
	r := start(t)
	salt := func(i int) func(int) uint64 {
		return func(piece int) uint64 { return uint64(1000*i + 3*piece) }
	}
	for i := range 5 {
		r.published("web", salt(i))
	}
	revs := func() (out []int) {
		t.Helper()
		var im api.Image
		r.must("GET", "/v1/images/web", nil, &im)
		for _, v := range im.Revisions {
			n := v.Rev
			if v.Pinned {
				n = -n
			}
			out = append(out, n)
		}
		return out
	}
	var jobs []api.Job
	r.must("POST", "/v1/jobs", api.JobNew{Key: "d", Kind: api.TaskDeploy, Range: "n1", Image: "web@1"}, &jobs)
	r.must("PUT", "/v1/images/web/2/pin", nil, nil)
	r.must("PUT", "/v1/images/web/2/pin", nil, nil)
	r.fails("PUT", "/v1/images/web/9/pin", nil, "not_found", "web@9")
	r.fails("DELETE", "/v1/images/web/2", nil, "conflict", "pinned")

	var got api.Retention
	r.must("POST", "/v1/images/web/retention", api.RetentionRule{Last: 2}, &got)
	var stay []string
	for _, v := range got.Revisions {
		if v.Keep {
			stay = append(stay, fmt.Sprint(v.Rev, v.Why[0]))
		}
	}
	if fmt.Sprint(stay) != "[1in use 2pinned 4last 2 5newest]" || len(got.Removed) != 0 || len(revs()) != 5 {
		t.Errorf("%v, %+v, %v", stay, got, revs())
	}
	r.fails("PUT", "/v1/images/web/retention", api.RetentionRule{Last: -1}, "bad_request", "last")
	r.fails("PUT", "/v1/images/we%20b/retention", api.RetentionRule{Last: 1}, "not_found", "we b")
	if code, e := r.call(r.viewer("operator"), "PUT", "/v1/images/web/retention", api.RetentionRule{Last: 1}, nil); code != 403 {
		t.Errorf("an operator: %d %v", code, e)
	}
	r.must("PUT", "/v1/images/web/retention", api.RetentionRule{Last: 2}, &got)
	if !slices.Equal(got.Removed, []int{3}) || !slices.Equal(revs(), []int{1, -2, 4, 5}) {
		t.Errorf("%+v, %v", got, revs())
	}
	r.must("GET", "/v1/images/web/retention", nil, &got)
	if got.Rule.Last != 2 {
		t.Errorf("%+v", got)
	}

	// A capture that is published lets the rule work, and the daily clean-up does the rest.
	r.must("POST", "/v1/jobs/"+jobs[0].ID+"/cancel", nil, nil)
	r.until("the job has ended", func() bool { return !r.job(jobs[0].ID).Active })
	m, err := storetest.Image(t.Context(), r.store, 12, salt(9))
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.store.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if rev, err := (jobStore{r.store, r.Server.published}).Publish(t.Context(), "web", id); err != nil || rev.Rev != 6 {
		t.Fatal(rev, err)
	}
	r.until("the rule was applied", func() bool { return slices.Equal(revs(), []int{-2, 5, 6}) })
	before, err := r.store.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cleanUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, err := r.store.Stats(t.Context()); err != nil || after.Chunks >= before.Chunks {
		t.Errorf("%d chunks of %d are left, %v", after.Chunks, before.Chunks, err)
	}
	r.must("DELETE", "/v1/images/web/2/pin", nil, nil)
	r.must("DELETE", "/v1/images/web/2", nil, nil)
	r.must("PUT", "/v1/images/web/retention", api.RetentionRule{}, &got)
	if len(got.Removed) != 0 || !slices.Equal(revs(), []int{5, 6}) {
		t.Errorf("%+v, %v", got, revs())
	}
	if names, err := r.db.Retained(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}
