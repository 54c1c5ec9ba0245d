package inventory

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func TestForget(t *testing.T) {
	d := open(t, t.TempDir())
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	old, young := now.Add(-100*24*time.Hour), now.Add(-10*24*time.Hour)
	type record struct {
		Ended *time.Time `json:"ended,omitempty"`
	}
	last := 0
	job := func(tx *Tx, n node.Name, batch string, ended *time.Time) {
		t.Helper()
		last++
		id := fmt.Sprint("j", last)
		if err := tx.AddJob(id, batch, n, ended == nil, record{ended}); err != nil {
			t.Fatal(err)
		}
		e := api.Event{Node: n, Job: id, Kind: "phase", Text: id, Time: old}
		if err := tx.AddEvent(&e); err != nil {
			t.Fatal(err)
		}
	}
	east := old.In(time.FixedZone("east", 5*3600)) // it is no newer for that
	update(t, d, func(tx *Tx) error {
		if err := tx.PutNode(n("n1")); err != nil {
			return err
		}
		for range 3 {
			job(tx, "n1", "", &old) // j1 to j3: j3 is among the newest two
		}
		job(tx, "n1", "", &young)   // j4
		job(tx, "gone", "", &old)   // j5
		job(tx, "gone", "", &young) // j6
		job(tx, "x1", "b1", &old)   // j7: another of its batch runs
		job(tx, "x2", "b1", nil)    // j8
		job(tx, "x3", "b2", &east)  // j9
		job(tx, "x4", "b3", &young) // j10
		for i := range 3 {
			if err := tx.AddBatch(fmt.Sprint("b", i+1), "", struct{}{}); err != nil {
				return err
			}
		}
		for i := range 30 {
			for _, n := range []node.Name{"n1", "gone"} {
				if err := tx.AddEvent(&api.Event{Node: n, Kind: "seen", Text: fmt.Sprint(i), Time: old}); err != nil {
					return err
				}
			}
		}
		return tx.AddEvent(&api.Event{Node: "gone", Kind: "seen", Text: "young", Time: young})
	})
	f, err := d.Forget(t.Context(), now.Add(-90*24*time.Hour), 2)
	// Of n1, of 34 events (4 of jobs) the newest 20 stay and those of j3 and j4; of gone, one, and that of j6.
	if want := (Forgotten{Jobs: 4, Batches: 1, Events: 10 + 2 + 30 + 1 + 1}); err != nil || f != want {
		t.Errorf("%+v, %v; want %+v", f, err, want)
	}
	have, err := d.strings(t.Context(), `SELECT id FROM jobs ORDER BY seq`)
	if got := strings.Join(have, " "); err != nil || got != "j3 j4 j6 j7 j8 j10" {
		t.Errorf("%s, %v", got, err)
	}
	have, err = d.strings(t.Context(), `SELECT id FROM batches ORDER BY seq`)
	if got := strings.Join(have, " "); err != nil || got != "b1 b3" {
		t.Errorf("%s, %v", got, err)
	}
	evs, err := d.Events(t.Context(), "", "j3", 10)
	if err != nil || len(evs) != 1 {
		t.Errorf("the events of a job that is kept: %v, %v", evs, err)
	}
	if f, err := d.Forget(t.Context(), now.Add(-90*24*time.Hour), 2); err != nil || f != (Forgotten{}) {
		t.Errorf("once more: %+v, %v", f, err)
	}
	update(t, d, func(tx *Tx) error {
		if id, err := tx.NextJobID(); err != nil || id != "j11" {
			t.Errorf("the next job is %s, %v", id, err)
		}
		return nil
	})
}

// TestForgetMuch looks through more than one window.
func TestForgetMuch(t *testing.T) {
	d := open(t, t.TempDir())
	old := time.Now().Add(-time.Hour)
	update(t, d, func(tx *Tx) error {
		for i := range 3*window + 7 {
			at := old
			if i%window == 0 {
				at = time.Now()
			}
			if err := tx.AddEvent(&api.Event{Kind: "seen", Time: at}); err != nil {
				return err
			}
		}
		return nil
	})
	if f, err := d.Forget(t.Context(), time.Now().Add(-time.Minute), 0); err != nil || f.Events != 3*window+3 {
		t.Errorf("%+v, %v", f, err)
	}
}
