package s3

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"go.uber.org/goleak"

	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
	"mimeo/internal/imaging/store/storetest"
)

func TestMain(m *testing.M) {
	minio.DefaultRetryUnit = time.Millisecond // it waits once even where it does not try again
	goleak.VerifyTestMain(m)
}

// service is an S3 server, and faults before it.
type service struct {
	*httptest.Server
	mu    sync.Mutex
	fault func(r *http.Request) storetest.Fault // nil: none
	log   []string                              // method and path of each request
	inner http.Handler
	lists map[string]*httptest.ResponseRecorder // answers to lists that are repeated for ever; nil: none is

	lag  func() int // how many changes lists lag behind; nil: none
	past []map[string]*httptest.ResponseRecorder
}

func newService(t *testing.T) *service {
	back := s3mem.New()
	if err := back.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	inner := gofakes3.New(back).Server()
	s := &service{inner: inner}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.log = append(s.log, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/images/"))
		f := storetest.None
		if s.fault != nil {
			f = s.fault(r)
		}
		s.mu.Unlock()
		f.Serve(w, r, http.HandlerFunc(s.serve))
	}))
	t.Cleanup(s.Close)
	return s
}

// serve answers, to lists as it did first after freeze, or some changes ago.
func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lists := s.lists
	if s.lag != nil {
		if r.Method == http.MethodPut || r.Method == http.MethodDelete {
			s.past = append(s.past, s.listed())
		}
		if n := s.lag(); n > 0 && len(s.past) > 0 {
			lists = s.past[max(0, len(s.past)-n)]
		}
	}
	if lists == nil || !r.URL.Query().Has("list-type") {
		s.inner.ServeHTTP(w, r)
		return
	}
	key := r.URL.Query().Get("prefix")
	if lists[key] == nil {
		lists[key] = httptest.NewRecorder()
		s.inner.ServeHTTP(lists[key], r)
	}
	_, _ = w.Write(lists[key].Body.Bytes())
}

// freeze makes lists show what they show now, from now on.
func (s *service) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists = s.listed()
}

// listed returns what lists show.
func (s *service) listed() map[string]*httptest.ResponseRecorder {
	lists := make(map[string]*httptest.ResponseRecorder)
	for _, folder := range []string{"", "packs/", "index/", "manifests/", "images/", "images/a/", "images/one/"} {
		key := "site/a/" + folder
		lists[key] = httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/images/?delimiter=%2F&list-type=2&prefix="+url.QueryEscape(key), nil)
		s.inner.ServeHTTP(lists[key], r)
	}
	return lists
}

// direct returns the URL of a way to the service without faults.
func (s *service) direct(t *testing.T) string {
	d := httptest.NewServer(s.inner)
	t.Cleanup(d.Close)
	return d.URL
}

// set makes fn decide what happens to requests from now on.
func (s *service) set(fn func(r *http.Request) storetest.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fn
}

// requests returns what was asked since the last call.
func (s *service) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

func (s *service) config(t *testing.T) Config {
	return Config{Bucket: "images", Prefix: "site/a", Endpoint: s.URL, AccessKey: "key", SecretKey: "secret-word", State: t.TempDir(), wait: time.Millisecond}
}

func open(t *testing.T, c Config, o dir.Options) *dir.Store {
	t.Helper()
	s, err := Open(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	by, err := keys.Parse("correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]dir.Options{"OnePack": {}, "ManyPacks": {PackSize: 10_000}, "Encrypted": {PackSize: 10_000, Key: by}} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Pair {
				o.Create = true
				s := open(t, newService(t).config(t), o)
				return storetest.Pair{Writer: s, Publisher: s}
			})
		})
	}
}

// TestFaults runs the suite while requests fail in every way: each third or so, but never the same twice running.
func TestFaults(t *testing.T) {
	for name, kind := range map[string]storetest.Fault{"Refused": storetest.Refuse, "Cut": storetest.Cut, "LostAnswer": storetest.Lose, "ShortRead": storetest.Shorten} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Pair {
				s := newService(t)
				n := 0
				s.set(func(*http.Request) storetest.Fault {
					if n++; n%3 == 1 {
						return kind
					}
					return storetest.None
				})
				st := open(t, s.config(t), dir.Options{Create: true, PackSize: 10_000})
				return storetest.Pair{Writer: st, Publisher: st}
			})
		})
	}
}

// TestFaultsInTurn lets each request of a store's life fail: once, which nobody notices, and more often than it is tried.
func TestFaultsInTurn(t *testing.T) {
	faults := []storetest.Fault{storetest.Refuse, storetest.Cut, storetest.Lose, storetest.Shorten, storetest.Twice}
	place := func(t *testing.T, p *storetest.Plan) storetest.Place {
		s := newService(t)
		s.set(func(*http.Request) storetest.Fault { return p.Next(faults...) })
		s.lag = p.Lag
		c := s.config(t)
		var st *dir.Store
		return storetest.Place{
			Open: func() (_ storetest.Pair, err error) {
				if st, err = Open(t.Context(), c, dir.Options{Create: true, PackSize: 10_000}); err != nil {
					return storetest.Pair{}, err
				}
				return storetest.Pair{Writer: st, Publisher: st}, nil
			},
			Close: func() error { return st.Close() },
			Work: func(ctx context.Context, _ string) error {
				_, err := st.GC(ctx, dir.GCOptions{Grace: time.Nanosecond})
				return err
			},
			Check: func(ctx context.Context) error {
				r, err := st.Check(ctx, true, nil)
				if err == nil && !r.OK() {
					err = fmt.Errorf("%+v", r)
				}
				return err
			},
		}
	}
	storetest.Faults(t, place, 1, 5, []string{"gc"}, faults...)
	storetest.Faults(t, place, maxTries+3, 11, []string{"gc"}, faults...)
	storetest.Lagging(t, place, 8, []string{"gc"})
}

// printed returns the ways in which a Config may be shown.
func printed(c Config) []string {
	b, err := json.Marshal(c)
	return []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), string(b), fmt.Sprint(err)}
}
