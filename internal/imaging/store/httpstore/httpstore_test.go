package httpstore

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/iotest"
	"time"

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

// TestFaultsInTurn lets each request of a store's life fail, on the way or at the server.
func TestFaultsInTurn(t *testing.T) {
	place := func(t *testing.T, p *storetest.Plan) storetest.Place {
		s := mem.New()
		c, _ := dial(t, s, Options{GiveUp: 10 * time.Second}, nil)
		c.o.HTTP.Transport = &faulty{Handler(s, Limits{}), p}
		return storetest.Place{
			Open:  func() (storetest.Pair, error) { return storetest.Pair{Writer: c, Publisher: s}, nil },
			Close: func() error { return nil },
		}
	}
	for _, fault := range []storetest.Fault{storetest.Refuse, storetest.Cut, storetest.Lose, storetest.Shorten, storetest.Twice} {
		for _, count := range []int{1, 20} {
			t.Run(fmt.Sprint(fault, count), func(t *testing.T) {
				bubble(t, func(t *testing.T) { storetest.InTurn(t, place, fault, count, 1, nil) })
			})
		}
	}
}

// faulty is a line on which faults happen.
type faulty struct {
	h    http.Handler
	plan *storetest.Plan
}

func (f *faulty) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	rec := httptest.NewRecorder()
	defer func() {
		if p := recover(); p == http.ErrAbortHandler && rec.Body.Len() == 0 {
			resp, err = nil, errLine
		} else if p == http.ErrAbortHandler {
			resp = rec.Result()
			resp.Body = io.NopCloser(io.MultiReader(resp.Body, iotest.ErrReader(errLine)))
		} else if p != nil {
			panic(p)
		}
	}()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	f.plan.Next().Serve(rec, r, f.h)
	return rec.Result(), nil
}
