package httpstore

import (
	"net/http/httptest"
	"testing"

	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/store/storetest"
)

// serve starts a server around s and returns a client of it.
func serve(t *testing.T, s store.Writer, l Limits, o Options) *Client {
	t.Helper()
	srv := httptest.NewServer(Handler(s, l))
	t.Cleanup(srv.Close)
	o.Base, o.HTTP = srv.URL, srv.Client()
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Pair {
		s := mem.New()
		return storetest.Pair{Writer: serve(t, s, Limits{}, Options{}), Publisher: s}
	})
}
