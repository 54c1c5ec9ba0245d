package s3

import (
	"net/http"
	"strings"
	"testing"

	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/storetest"
)

// publish makes a revision of 40 pieces, of which those from the first on that differs are its own, with a flush after each
// few, so that there are many short packs.
func publish(t *testing.T, s *dir.Store, image string, differs int) store.Revision {
	t.Helper()
	ctx := t.Context()
	m, err := storetest.Image(ctx, s, 40, func(i int) uint64 {
		if i%3 == 0 {
			if err := s.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if i >= differs {
			return uint64(i + 1000*differs)
		}
		return uint64(i)
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Stage(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Publish(ctx, image, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// isWhole checks a store with all its data.
func isWhole(t *testing.T, s *dir.Store, revisions int) *dir.Report {
	t.Helper()
	r, err := s.Check(t.Context(), true, nil)
	if err != nil || !r.OK() || len(r.Revisions) != revisions {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

// TestCleanUp gathers short packs and removes garbage, while a third of all requests fail or lose their answers.
func TestCleanUp(t *testing.T) {
	s := newService(t)
	c := s.config(t)
	st := open(t, c, dir.Options{Create: true, PackSize: 1 << 20})
	for i := 5; i > 0; i-- {
		publish(t, st, "a", 6*i)
	}
	reader := open(t, Config{Bucket: c.Bucket, Prefix: c.Prefix, Endpoint: c.Endpoint, AccessKey: "k", SecretKey: "s", State: t.TempDir(), wait: c.wait}, dir.Options{ReadOnly: true})
	before := isWhole(t, st, 5)
	isWhole(t, reader, 5)
	for rev := 1; rev <= 3; rev++ {
		if err := st.Remove(t.Context(), "a", rev); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	s.set(func(r *http.Request) storetest.Fault {
		if n++; n%3 != 1 {
			return storetest.None
		}
		return []storetest.Fault{storetest.Refuse, storetest.Cut, storetest.Lose, storetest.Shorten}[n/3%4]
	})
	r, err := st.GC(t.Context(), dir.GCOptions{})
	if err != nil || r.Freed == 0 || r.Manifests != 3 || len(r.Problems) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	after := isWhole(t, st, 2)
	if after.Packs >= before.Packs/4 {
		t.Errorf("%d packs, then %d", before.Packs, after.Packs)
	}
	isWhole(t, reader, 2) // it knew packs that are gone
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	isWhole(t, open(t, c, dir.Options{}), 2)
}

// overwrite writes other bytes over an object, as somebody might who has the key.
func overwrite(t *testing.T, s *service, name string, fn func([]byte) []byte) {
	t.Helper()
	c := s.config(t)
	f, err := c.files()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, _, err := f.get(name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/images/"+f.key(name), strings.NewReader(string(fn(b))))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
}

// TestRepair damages a pack and an index file, finds both, repairs, and heals by another capture.
func TestRepair(t *testing.T) {
	s := newService(t)
	c := s.config(t)
	st := open(t, c, dir.Options{Create: true, PackSize: 20_000})
	publish(t, st, "a", 40)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	overwrite(t, s, "packs/00000002.pack", func(b []byte) []byte { b[len(b)/2] ^= 0xff; return b })
	overwrite(t, s, "index/00000003.idx", func(b []byte) []byte { return b[:len(b)-1] })
	overwrite(t, s, "packs/00000004.pack", func(b []byte) []byte { return append(b, make([]byte, 500)...) }) // a torn end
	c.State = t.TempDir()
	st = open(t, c, dir.Options{PackSize: 20_000})
	if r, err := st.Check(t.Context(), true, nil); err != nil || r.OK() {
		t.Fatalf("%+v, %v", r, err)
	}
	rep, err := st.Repair(t.Context(), false, nil)
	if err != nil || rep.Lost != 1 || len(rep.Packs) != 1 || len(rep.Revisions) != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	publish(t, st, "b", 40)
	isWhole(t, st, 2)
}

// TestAway has a service that goes away: nothing counts as damaged because of it.
func TestAway(t *testing.T) {
	s := newService(t)
	st := open(t, s.config(t), dir.Options{Create: true, PackSize: 20_000})
	publish(t, st, "a", 40)
	s.set(func(r *http.Request) storetest.Fault {
		if strings.Contains(r.URL.Path, "/packs/") {
			return storetest.Refuse
		}
		return storetest.None
	})
	if r, err := st.Repair(t.Context(), false, nil); err == nil {
		t.Errorf("repaired, while nothing could be read: %+v", r)
	}
	if r, err := st.Check(t.Context(), true, nil); err == nil {
		t.Errorf("checked, while nothing could be read: %+v", r)
	}
	s.set(nil)
	isWhole(t, st, 1)
}
