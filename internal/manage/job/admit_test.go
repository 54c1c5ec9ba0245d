package job

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
)

func TestAdmit(t *testing.T) {
	now := time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)
	capture, deploy := api.TaskCapture, api.TaskDeploy
	w := func(id string, kind api.TaskKind, batch string, max int) waiter {
		return waiter{id: id, kind: kind, batch: batch, max: max}
	}
	by := func(w waiter, d time.Duration) waiter { w.by = now.Add(d); return w }
	busy := func(what ...string) (l load) {
		for _, s := range what {
			kind, batch, _ := strings.Cut(s, " ")
			l.add(api.TaskKind(kind), batch)
		}
		return l
	}
	four := []waiter{w("j1", deploy, "b1", 2), w("j2", deploy, "b1", 2), w("j3", deploy, "b1", 2), w("j4", deploy, "b1", 2)}
	for _, c := range []struct {
		name        string
		waiting     []waiter
		busy        load
		quota       Quota
		begin, late string
	}{
		{"nobody waits", nil, busy("deploy b1"), Quota{}, "", ""},
		{"no bound", []waiter{w("j1", deploy, "", 0), w("j2", capture, "b1", 0)}, busy("deploy b1"), Quota{}, "j1 j2", ""},
		{"as many as the batch may", four, load{}, Quota{}, "j1 j2", ""},
		{"one of the batch is on", four, busy("deploy b1"), Quota{}, "j1", ""},
		{"the batch is full", four, busy("deploy b1", "deploy b1"), Quota{}, "", ""},
		{"the batch is over full", four, busy("deploy b1", "deploy b1", "deploy b1"), Quota{}, "", ""},
		{"another batch is full", four, busy("deploy b2", "deploy b2", "deploy b2"), Quota{}, "j1 j2", ""},
		{"a full batch keeps nobody else waiting", append(four[:4:4], w("j5", deploy, "b2", 1), w("j6", deploy, "", 0)), busy("deploy b1", "deploy b1"), Quota{}, "j5 j6", ""},
		{"the server is full", []waiter{w("j1", deploy, "", 0)}, busy("capture ", "deploy b1"), Quota{Jobs: 2}, "", ""},
		{"the server has room for one, the first", []waiter{w("j1", deploy, "", 0), w("j2", capture, "", 0)}, busy("capture "), Quota{Jobs: 2}, "j1", ""},
		{"captures are full, deploys are not", []waiter{w("j1", capture, "", 0), w("j2", deploy, "", 0)}, busy("capture "), Quota{Captures: 1}, "j2", ""},
		{"deploys are full, captures are not", []waiter{w("j1", deploy, "", 0), w("j2", capture, "", 0)}, busy("deploy "), Quota{Deploys: 1, Jobs: 5}, "j2", ""},
		{"jobs by themselves are no batch", []waiter{w("j1", deploy, "", 1), w("j2", deploy, "", 1)}, load{}, Quota{}, "j1 j2", ""},
		{"too late, and room for the next", []waiter{by(w("j1", deploy, "b1", 1), -time.Second), w("j2", deploy, "b2", 1)}, load{}, Quota{Jobs: 1}, "j2", "j1"},
		{"just in time", []waiter{by(w("j1", deploy, "b1", 1), 0), by(w("j2", deploy, "b1", 1), time.Hour)}, load{}, Quota{}, "j1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin, late := admit(c.waiting, c.busy, c.quota, now)
			if got := strings.Join(begin, " "); got != c.begin {
				t.Errorf("%q begin, want %q", got, c.begin)
			}
			if got := strings.Join(late, " "); got != c.late {
				t.Errorf("%q are late, want %q", got, c.late)
			}
		})
	}
}

// However jobs come and go, no bound is ever passed, and of those that may begin none waits.
func TestAdmitBounds(t *testing.T) {
	var waiting []waiter
	for i := range 60 {
		waiting = append(waiting, waiter{id: fmt.Sprintf("j%d", i), kind: []api.TaskKind{api.TaskDeploy, api.TaskCapture}[i%7/6], batch: fmt.Sprintf("b%d", i/20), max: 3 + i/20})
	}
	q := Quota{Jobs: 8, Captures: 2}
	on := map[string]waiter{}
	for round := 0; len(waiting)+len(on) > 0; round++ {
		if round > 200 {
			t.Fatal("they never all began")
		}
		var busy load
		for _, w := range on {
			busy.add(w.kind, w.batch)
		}
		begin, _ := admit(waiting, busy, q, time.Time{})
		if len(on) == 0 && len(begin) == 0 {
			t.Fatal("nothing is on, and nothing begins")
		}
		var rest []waiter
		for _, w := range waiting {
			if len(begin) > 0 && begin[0] == w.id {
				begin, on[w.id] = begin[1:], w
			} else {
				rest = append(rest, w)
			}
		}
		if len(begin) > 0 {
			t.Fatal("they did not begin in their order")
		}
		waiting = rest
		var all load
		for _, w := range on {
			all.add(w.kind, w.batch)
			if all.batches[w.batch] > w.max {
				t.Fatalf("%d of %s are on", all.batches[w.batch], w.batch)
			}
		}
		if all.all > 8 || all.kinds[api.TaskCapture] > 2 {
			t.Fatalf("%+v are on", all)
		}
		for id := range on { // some end
			if (number(id)+round)%3 == 0 {
				delete(on, id)
			}
		}
	}
}
