package dir

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store/storetest"
)

// TestUsage compares with counts made in the plainest way.
func TestUsage(t *testing.T) {
	s := open(t, t.TempDir()+"/store", Options{Create: true, PackSize: smallPack})
	r := rand.New(rand.NewPCG(1, 2))
	chunks := make(map[string]map[chunk.ID]int64) // by revision
	for i := range 9 {
		m, err := storetest.Image(t.Context(), s, 8, func(int) uint64 { return r.Uint64N(60) })
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Stage(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		rev, err := s.Publish(t.Context(), fmt.Sprint("im", i%3), id)
		if err != nil {
			t.Fatal(err)
		}
		set := make(map[chunk.ID]int64)
		_, es := entries(t, s, rev)
		for _, e := range es {
			set[e.ID] = 0
		}
		for _, seg := range m.Content.Segments {
			set[seg.ID] = 0
		}
		for id := range set {
			l, _ := s.index.get(id)
			set[id] = recordHead + int64(l.stored)
		}
		chunks[rev.String()] = set
	}
	raw := []byte("nobody names this")
	if _, err := s.Put(t.Context(), []chunk.Encoded{{ID: chunk.Sum(raw), RawLen: uint32(len(raw)), Data: raw}}); err != nil {
		t.Fatal(err)
	}
	// sum adds up what is in one of mine; unique, what is in none of the others besides.
	sum := func(mine func(rev string) bool) (stored, unique int64) {
		all := make(map[chunk.ID]int64)
		for rev, set := range chunks {
			for id, n := range set {
				if mine(rev) {
					all[id] = n
				}
			}
		}
		for id, n := range all {
			stored += n
			other := false
			for rev, set := range chunks {
				_, has := set[id]
				other = other || has && !mine(rev)
			}
			if !other {
				unique += n
			}
		}
		return stored, unique
	}
	u, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Images) != 3 || u.Revisions != 9 || u.DiskSize != 9*17*4096 || u.Unnamed != recordHead+int64(len(raw))+int64(s.form.more()) {
		t.Errorf("%+v", u)
	}
	for _, im := range u.Images {
		stored, unique := sum(func(rev string) bool { return rev[:3] == im.Image })
		if im.Stored != stored || im.Unique != unique || im.Shared != stored-unique {
			t.Errorf("%+v, want %d, %d", im, stored, unique)
		}
		for _, r := range im.Revisions {
			stored, unique := sum(func(rev string) bool { return rev == r.String() })
			if r.Stored != stored || r.Unique != unique || r.Shared != stored-unique || r.Chunks != int64(len(chunks[r.String()])) || r.Error != "" {
				t.Errorf("%+v, want %d, %d", r, stored, unique)
			}
		}
	}
	if all, _ := sum(func(string) bool { return true }); u.Named != all {
		t.Errorf("named %d, want %d", u.Named, all)
	}
	if _, ok := u.Of("im1"); !ok {
		t.Error("im1 is not there")
	}
}

// TestUsageUnreadable names the revision whose chunk list is lost, and counts the others.
func TestUsageUnreadable(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{})
	m, err := s.Manifest(t.Context(), revs[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	s.index.remove(m.Content.Segments[0].ID)
	u, err := s.Usage(t.Context())
	if err != nil || u.Images[0].Revisions[0].Error == "" || u.Images[1].Revisions[0].Error != "" || u.Images[1].Unique == 0 {
		t.Errorf("%+v, %v", u, err)
	}
}
