package httpstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/store/storetest"
)

// line is a network between a Client and a Handler, without sockets, so that it works under testing/synctest.
type line struct {
	h http.Handler
	// fault looks at each request, of which it is the n-th from 1, and may answer it in its own way.
	fault func(n int, r *http.Request, pass func() (*http.Response, error)) (*http.Response, error)

	mu sync.Mutex
	n  int
}

var errLine = errors.New("connection reset by peer")

func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	l.n++
	n := l.n
	l.mu.Unlock()
	pass := func() (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		rec := httptest.NewRecorder()
		l.h.ServeHTTP(rec, r)
		return rec.Result(), nil
	}
	if l.fault == nil {
		return pass()
	}
	return l.fault(n, r, pass)
}

func dial(t *testing.T, s store.Writer, o Options, fault func(n int, r *http.Request, pass func() (*http.Response, error)) (*http.Response, error)) (*Client, *line) {
	t.Helper()
	l := &line{h: Handler(s, Limits{}), fault: fault}
	o.Base, o.HTTP, o.Token = "https://store.test", &http.Client{Transport: l}, "secret"
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, l
}

// bubble runs test with a clock of its own. What is shared with other tests and holds channels is made before.
func bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	c, _ := storetest.Chunk(1, 5000)
	if _, err := chunk.Decode(c, nil); err != nil || c.Codec != chunk.Zstd {
		t.Fatal(c.Codec, err)
	}
	synctest.Test(t, test)
}

// TestLostAnswers loses the answer to every second request after the server has done it; the suite must not notice.
func TestLostAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := mem.New()
		c, _ := dial(t, s, Options{}, func(n int, r *http.Request, pass func() (*http.Response, error)) (*http.Response, error) {
			resp, err := pass()
			if n%2 == 1 {
				return nil, errLine
			}
			return resp, err
		})
		ctx := t.Context()
		a, _ := storetest.Chunk(1, 5000)
		b, _ := storetest.Chunk(2, 5000)
		res, err := c.Put(ctx, []chunk.Encoded{a, b})
		if err != nil || res.New != 2 || res.NewRaw != 10_000 {
			t.Errorf("put: %+v, %v", res, err)
		}
		m, err := storetest.Image(ctx, c, 7, func(piece int) uint64 { return uint64(piece) })
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.Stage(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Publish(ctx, "one", id); err != nil {
			t.Fatal(err)
		}
		if v, err := store.Verify(ctx, c, m, nil); err != nil || !v.OK() {
			t.Errorf("verify: %+v, %v", v, err)
		}
		if names, err := c.Images(ctx); err != nil || len(names) != 1 {
			t.Errorf("images: %v, %v", names, err)
		}
	})
}

// TestCutAnswers cuts each stream of chunks off somewhere; each chunk must come once all the same.
func TestCutAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := mem.New()
		var batch []chunk.Encoded
		var ids []chunk.ID
		for i := range uint64(20) {
			c, _ := storetest.Chunk(i, 1000)
			batch, ids = append(batch, c), append(ids, c.ID)
		}
		if _, err := s.Put(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		c, l := dial(t, s, Options{}, func(n int, r *http.Request, pass func() (*http.Response, error)) (*http.Response, error) {
			resp, err := pass()
			if err == nil && n < 8 {
				resp.Body = io.NopCloser(io.LimitReader(resp.Body, int64(700*n)))
			}
			return resp, err
		})
		seen := make(map[chunk.ID]int)
		if err := c.Get(t.Context(), append(ids, ids[0]), func(e chunk.Encoded) error {
			seen[e.ID]++
			_, err := chunk.Decode(e, nil)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for i, id := range ids {
			if want := map[bool]int{true: 2, false: 1}[i == 0]; seen[id] != want {
				t.Errorf("chunk %d came %d times", i, seen[id])
			}
		}
		if l.n < 4 {
			t.Errorf("only %d requests", l.n)
		}
	})
}

// TestNetworkCut takes the network away for some time.
func TestNetworkCut(t *testing.T) {
	for _, tc := range []struct {
		cut  time.Duration
		hang bool // requests hang instead of failing
		want bool
	}{{30 * time.Second, false, true}, {30 * time.Second, true, true}, {4 * time.Minute, false, true}, {10 * time.Minute, false, false}, {10 * time.Minute, true, false}} {
		bubble(t, func(t *testing.T) {
			begin := time.Now()
			c, l := dial(t, mem.New(), Options{}, func(n int, r *http.Request, pass func() (*http.Response, error)) (*http.Response, error) {
				if time.Since(begin) < tc.cut {
					if tc.hang {
						<-r.Context().Done()
						return nil, r.Context().Err()
					}
					return nil, errLine
				}
				return pass()
			})
			a, _ := storetest.Chunk(1, 5000)
			_, err := c.Put(t.Context(), []chunk.Encoded{a})
			if (err == nil) != tc.want {
				t.Errorf("%+v: after %v: %v", tc, time.Since(begin), err)
			}
			if took := time.Since(begin); took > 7*time.Minute {
				t.Errorf("%+v: took %v", tc, took)
			}
			if !tc.want && !tc.hang && !errors.Is(err, errLine) {
				t.Errorf("%+v: the cause is lost: %v", tc, err)
			}
			if l.n > 200 {
				t.Errorf("%+v: %d requests", tc, l.n)
			}
		})
	}
}

// TestGiveUpCountsFromSuccess keeps a client going that was idle for longer than it would wait.
func TestGiveUpCountsFromSuccess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var down time.Time
		c, _ := dial(t, mem.New(), Options{}, func(n int, r *http.Request, pass func() (*http.Response, error)) (*http.Response, error) {
			if time.Now().Before(down) {
				return nil, errLine
			}
			return pass()
		})
		for range 3 {
			if err := c.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Minute)
			down = time.Now().Add(time.Minute)
		}
	})
}

// statuses that a proxy or a server in trouble sends.
func TestStatuses(t *testing.T) {
	for status, tries := range map[int]int{502: 4, 503: 4, 500: 4, 429: 4, 401: 1, 403: 1, 404: 1, 400: 1, 507: 4} {
		bubble(t, func(t *testing.T) {
			c, l := dial(t, mem.New(), Options{}, func(n int, r *http.Request, pass func() (*http.Response, error)) (*http.Response, error) {
				if n < 4 {
					return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader("<html>no</html>")), Request: r}, nil
				}
				return pass()
			})
			err := c.Flush(t.Context())
			if l.n != tries || (err == nil) != (tries == 4) {
				t.Errorf("%d: %d tries, %v", status, l.n, err)
			}
		})
	}
}

func TestCancelWhileWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, _ := dial(t, mem.New(), Options{}, func(int, *http.Request, func() (*http.Response, error)) (*http.Response, error) {
			return nil, errLine
		})
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		begin := time.Now()
		if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 7*time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

// TestFull must come back at once, as the store's own error.
func TestFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, l := dial(t, &mem.Store{Room: 6000}, Options{}, nil)
		a, _ := storetest.Chunk(0, 5000)
		b, _ := storetest.Chunk(3, 5000)
		begin := time.Now()
		_, err := c.Put(t.Context(), []chunk.Encoded{a, b})
		if !errors.Is(err, store.ErrFull) || l.n != 1 || time.Since(begin) != 0 {
			t.Errorf("%d requests, %v: %v", l.n, time.Since(begin), err)
		}
	})
}

// broken is a store whose chunks are damaged.
type broken struct{ *mem.Store }

func (b broken) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	return &store.DamagedError{ID: ids[len(ids)-1], Where: "pack 7, offset 9", Err: errors.New("checksum does not match")}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, l := dial(t, broken{mem.New()}, Options{}, nil)
		id := chunk.Sum([]byte("x"))
		var damaged *store.DamagedError
		err := c.Get(t.Context(), []chunk.ID{chunk.Sum(nil), id}, nil)
		if !errors.As(err, &damaged) || damaged.ID != id || !strings.Contains(err.Error(), "pack 7, offset 9") || l.n != 1 {
			t.Errorf("%d requests: %v", l.n, err)
		}
	})
}

// TestBadChunk sends a chunk whose bytes are not those of its name: it must not reach the store.
func TestBadChunk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := mem.New()
		c, l := dial(t, s, Options{}, nil)
		good, _ := storetest.Chunk(1, 5000)
		bad := good
		bad.ID[0] ^= 1
		_, err := c.Put(t.Context(), []chunk.Encoded{good, bad})
		if err == nil || !strings.Contains(err.Error(), bad.ID.String()) || l.n != 1 {
			t.Errorf("%d requests: %v", l.n, err)
		}
		if st, err := s.Stats(t.Context()); err != nil || st.Chunks != 0 {
			t.Errorf("the store took %+v, %v", st, err)
		}
	})
}

func TestRefusedRequests(t *testing.T) {
	s := mem.New()
	h := Handler(s, Limits{})
	a, _ := storetest.Chunk(1, 5000)
	frames := appendEnd(appendChunk(nil, a), 1)
	for name, tc := range map[string]struct {
		method, path string
		body         []byte
		length       int64 // 0: that of body
		want         int
	}{
		"ids of odd length":  {"POST", "missing", make([]byte, 33), 0, 400},
		"too many ids":       {"POST", "missing", make([]byte, 32*(MaxMissing+1)), 0, 413},
		"too many to get":    {"POST", "get", make([]byte, 32*(MaxGet+1)), 0, 413},
		"no length":          {"POST", "chunks", frames, -1, 411},
		"too long":           {"POST", "chunks", nil, 1 << 40, 413},
		"cut off":            {"POST", "chunks", frames[:len(frames)-1], 0, 400},
		"shorter than said":  {"POST", "chunks", frames, int64(len(frames)) + 1, 408},
		"no end":             {"POST", "chunks", appendChunk(nil, a), 0, 400},
		"more after the end": {"POST", "chunks", append(bytes.Clone(frames), frames...), 0, 400},
		"wrong count":        {"POST", "chunks", appendEnd(appendChunk(nil, a), 2), 0, 400},
		"no manifest":        {"POST", "manifests", []byte("{}"), 0, 400},
		"bad id":             {"GET", "manifests/xyz", nil, 0, 400},
		"unknown id":         {"GET", "manifests/" + a.ID.String(), nil, 0, 404},
		"bad image":          {"GET", "images/-x/revisions", nil, 0, 400},
		"unknown path":       {"GET", "secrets", nil, 0, 404},
		"wrong method":       {"GET", "chunks", nil, 0, 405},
	} {
		r := httptest.NewRequestWithContext(t.Context(), tc.method, Prefix+tc.path, bytes.NewReader(tc.body))
		if tc.length != 0 {
			r.ContentLength = tc.length
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s: status %d, want %d: %s", name, w.Code, tc.want, w.Body)
		}
	}
	if st, err := s.Stats(t.Context()); err != nil || st.Chunks != 0 {
		t.Errorf("the store took %+v, %v", st, err)
	}
}

// TestMemoryIsShared fills the server's memory with a request that goes on for long; others are told to come again.
func TestMemoryIsShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := Handler(mem.New(), Limits{MaxBody: 8 << 20, InFlight: 1, Wait: time.Second}) // raised to the least that works
		room := int64(manifestCost * manifest.MaxSize)
		var wg sync.WaitGroup
		pr, pw := io.Pipe()
		first := httptest.NewRequestWithContext(t.Context(), "POST", Prefix+"manifests", pr)
		first.ContentLength = room / manifestCost
		wg.Go(func() { h.ServeHTTP(httptest.NewRecorder(), first) })
		synctest.Wait()
		second := httptest.NewRequestWithContext(t.Context(), "POST", Prefix+"missing", bytes.NewReader(make([]byte, 32)))
		w := httptest.NewRecorder()
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			if l := h.Load(); l != (Load{Bytes: room, Waiting: 1}) {
				t.Errorf("load: %+v", l)
			}
		})
		h.ServeHTTP(w, second)
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		pw.Close()
		wg.Wait()
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", Prefix+"missing", bytes.NewReader(make([]byte, 32))))
		if w.Code != http.StatusOK {
			t.Errorf("afterwards: status %d: %s", w.Code, w.Body)
		}
		if l := h.Load(); l != (Load{}) {
			t.Errorf("afterwards: %+v", l)
		}
	})
}

func TestToken(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" || r.URL.Path != "/v1/store/flush" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer srv.Close()
	for token, want := range map[string]bool{"secret": true, "": false, "wrong": false} {
		c, err := NewClient(Options{Base: srv.URL + "/", Token: token})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(t.Context()); (err == nil) != want {
			t.Errorf("token %q: %v", token, err)
		}
	}
	for _, bad := range []string{"", "server", "ftp://x", "http://", "://"} {
		if _, err := NewClient(Options{Base: bad}); err == nil {
			t.Errorf("%q is taken for a URL", bad)
		}
	}
}

// TestSilentServer accepts and never answers: over real sockets, the stall ends the request.
func TestSilentServer(t *testing.T) {
	stop := make(chan struct{})
	var once sync.Once
	s := mem.New()
	h := Handler(s, Limits{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		silent := false
		once.Do(func() { silent = true })
		if silent {
			<-stop
			return
		}
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	defer close(stop)
	c, err := NewClient(Options{Base: srv.URL, Stall: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := storetest.Chunk(1, 5000)
	if res, err := c.Put(t.Context(), []chunk.Encoded{a}); err != nil || res.New != 1 {
		t.Errorf("put: %+v, %v", res, err)
	}
}

func FuzzFrames(f *testing.F) {
	a, _ := storetest.Chunk(1, 300)
	b, _ := storetest.Chunk(3, 300)
	f.Add(appendEnd(appendChunk(appendChunk(nil, a), b), 2))
	f.Add(append(appendFrameHead(nil, frameError, 0, 0, 15, chunk.ID{}), `{"code":"full"}`...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var streamed []chunk.Encoded
		_, serr := readFrames(bytes.NewReader(b), nil, func(c chunk.Encoded) error {
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
			c.Data = bytes.Clone(c.Data)
			streamed = append(streamed, c)
			return nil
		})
		chunks, err := splitFrames(b)
		if err != nil {
			return
		}
		if serr != nil || len(streamed) != len(chunks) {
			t.Fatalf("%d chunks in memory, %d streamed, %v", len(chunks), len(streamed), serr)
		}
		var again []byte
		for i, c := range chunks {
			if c.ID != streamed[i].ID || !bytes.Equal(c.Data, streamed[i].Data) {
				t.Fatalf("chunk %d differs", i)
			}
			again = appendChunk(again, c)
		}
		if again = appendEnd(again, len(chunks)); !bytes.Equal(again, b) {
			t.Fatalf("%x was read and written as %x", b, again)
		}
	})
}
