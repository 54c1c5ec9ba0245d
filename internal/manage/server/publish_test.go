package server

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/imaging/store/sign"
	"mimeo/internal/imaging/store/storetest"
)

// TestPublish makes a revision of what an operator stored, as an import does.
func TestPublish(t *testing.T) {
	r := start(t)
	operator := r.viewer("operator")
	cl, err := httpstore.NewClient(httpstore.Options{Base: "https://" + r.https.Addr().String(), Token: operator, HTTP: r.from("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	m, err := storetest.Image(t.Context(), cl, 20, func(i int) uint64 { return uint64(i) })
	if err != nil {
		t.Fatal(err)
	}
	id, err := cl.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is the answer that was lost
		var rev api.Revision
		if _, e := r.call(operator, "POST", "/v1/images/web/revisions", api.RevisionNew{ID: id.String(), New: 77, Stored: 7}, &rev); e != nil {
			t.Fatal(e)
		}
		if rev.Image != "web" || rev.Rev != 1 || rev.ID != id.String() || !rev.Trusted || rev.DiskSize != m.Disk.Size || rev.New != 77 || rev.Stored != 7 {
			t.Errorf("%+v", rev)
		}
	}
	var im api.Image
	r.must("GET", "/v1/images/web", nil, &im)
	if len(im.Revisions) != 1 {
		t.Errorf("%+v", im)
	}
	if code, e := r.call(r.viewer("viewer"), "POST", "/v1/images/web/revisions", api.RevisionNew{ID: id.String()}, nil); code != 403 {
		t.Errorf("%d %v", code, e)
	}
	// As revision 7 of another store, with what somebody there signed, and something that nobody did.
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := sign.Sign(key, store.Revision{Image: "lab", Rev: 7, ID: id})
	q := api.RevisionNew{ID: id.String(), Rev: 7, Published: time.Now().Add(-time.Hour).UTC(), Signatures: []api.RevisionNewSign{{Key: other.Key, Sig: other.Sig}, {Key: other.Key, Sig: "bm8="}, {}}}
	for range 2 {
		var rev api.Revision
		if _, e := r.call(operator, "POST", "/v1/images/lab/revisions", q, &rev); e != nil {
			t.Fatal(e)
		}
		if rev.Rev != 7 || !rev.Trusted || len(rev.Signatures) != 2 || rev.Signatures[0].State != "trusted" || rev.Signatures[1].State != "unknown" || rev.Signatures[1].Key != other.Key {
			t.Errorf("%+v", rev)
		}
	}
	m.Created = m.Created.Add(time.Second)
	second, err := cl.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	r.fails("POST", "/v1/images/lab/revisions", api.RevisionNew{ID: second.String(), Rev: 7}, "conflict", "another capture here")
	var next api.Revision
	r.must("POST", "/v1/images/lab/revisions", api.RevisionNew{ID: second.String()}, &next)
	if next.Rev != 8 {
		t.Errorf("%+v", next)
	}
	r.fails("POST", "/v1/images/web/revisions", api.RevisionNew{ID: "x"}, "bad_request", "id")
	r.fails("POST", "/v1/images/web/revisions", api.RevisionNew{ID: chunk.Sum([]byte("none")).String()}, "not_found", "staged")
	r.fails("POST", "/v1/images/"+strings.Repeat("x", 200)+"/revisions", api.RevisionNew{ID: id.String()}, "bad_request", "")
}
