package s3

import (
	"encoding/json"
	"fmt"
	"io"
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
	fault func(r *http.Request) fault // nil: none
	log   []string                    // method and path of each request
	inner http.Handler
	lists map[string]*httptest.ResponseRecorder // answers to lists that are repeated for ever; nil: none is
}

// fault is what happens to a request.
type fault int

const (
	none    fault = iota
	refuse        // 503, nothing is done
	cut           // the connection ends, nothing is done
	lose          // it is done, and the connection ends before the answer
	shorten       // it is done, and the answer ends in the middle
)

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
		f := none
		if s.fault != nil {
			f = s.fault(r)
		}
		s.mu.Unlock()
		switch f {
		case none:
			s.serve(w, r)
			return
		case refuse:
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>later</Message></Error>`)
			return
		case cut:
			panic(http.ErrAbortHandler)
		}
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		if f == lose {
			panic(http.ErrAbortHandler)
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		b := rec.Body.Bytes()
		_, _ = w.Write(b[:len(b)/2])
		if len(b) > 0 {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// serve answers, to lists as it did first after freeze.
func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lists == nil || !r.URL.Query().Has("list-type") {
		s.inner.ServeHTTP(w, r)
		return
	}
	key := r.URL.Query().Get("prefix")
	if s.lists[key] == nil {
		s.lists[key] = httptest.NewRecorder()
		s.inner.ServeHTTP(s.lists[key], r)
	}
	_, _ = w.Write(s.lists[key].Body.Bytes())
}

// freeze makes lists show what they show now, from now on.
func (s *service) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists = make(map[string]*httptest.ResponseRecorder)
	for _, folder := range []string{"", "packs/", "index/", "manifests/", "images/", "images/a/"} {
		key := "site/a/" + folder
		s.lists[key] = httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/images/?delimiter=%2F&list-type=2&prefix="+url.QueryEscape(key), nil)
		s.inner.ServeHTTP(s.lists[key], r)
	}
}

// direct returns the URL of a way to the service without faults.
func (s *service) direct(t *testing.T) string {
	d := httptest.NewServer(s.inner)
	t.Cleanup(d.Close)
	return d.URL
}

// set makes fn decide what happens to requests from now on.
func (s *service) set(fn func(r *http.Request) fault) {
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
	for name, size := range map[string]int64{"OnePack": 0, "ManyPacks": 10_000} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Pair {
				s := open(t, newService(t).config(t), dir.Options{Create: true, PackSize: size})
				return storetest.Pair{Writer: s, Publisher: s}
			})
		})
	}
}

// TestFaults runs the suite while requests fail in every way: each third or so, but never the same twice running.
func TestFaults(t *testing.T) {
	for name, kind := range map[string]fault{"Refused": refuse, "Cut": cut, "LostAnswer": lose, "ShortRead": shorten} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Pair {
				s := newService(t)
				n := 0
				s.set(func(*http.Request) fault {
					if n++; n%3 == 1 {
						return kind
					}
					return none
				})
				st := open(t, s.config(t), dir.Options{Create: true, PackSize: 10_000})
				return storetest.Pair{Writer: st, Publisher: st}
			})
		})
	}
}

// printed returns the ways in which a Config may be shown.
func printed(c Config) []string {
	b, err := json.Marshal(c)
	return []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), string(b), fmt.Sprint(err)}
}
