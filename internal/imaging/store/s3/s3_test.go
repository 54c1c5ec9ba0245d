package s3

import (
	"io"
	"net/http"
	"net/http/httptest"
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
	s := new(service)
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
			inner.ServeHTTP(w, r)
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
