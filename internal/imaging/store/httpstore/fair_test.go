package httpstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/store/storetest"
)

// TestShares has clients ask without a pause, one with ten times as many requests at once as the others, one with large
// ones, one that comes late: what each is given differs by no more than a few requests.
func TestShares(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFair(100, 40, false)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		given := map[string]*atomic.Int64{}
		var most atomic.Int64
		run := func(name string, parallel int, n int64) {
			if given[name] == nil {
				given[name] = new(atomic.Int64)
			}
			count := given[name]
			for range parallel {
				wg.Go(func() {
					for {
						release, err := f.acquire(ctx, name, n, n)
						if err != nil {
							return
						}
						f.mu.Lock()
						most.Store(max(most.Load(), f.clients[name].held))
						if f.used > f.size {
							t.Error("more is given than there is")
						}
						f.mu.Unlock()
						count.Add(n)
						time.Sleep(time.Duration(n) * time.Millisecond) // large ones take longer
						release()
					}
				})
			}
		}
		for i := range 6 {
			run(fmt.Sprint("polite", i), 4, 5)
		}
		run("greedy", 40, 5)
		run("large", 4, 20)
		before := map[string]int64{}
		check := func(what string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			var all []int64
			for name, n := range given {
				all = append(all, n.Load()-before[name])
			}
			if lo, hi := slices.Min(all), slices.Max(all); hi-lo > 100 || lo == 0 {
				t.Errorf("%s: from %d to %d", what, lo, hi)
			}
			for name, n := range given {
				before[name] = n.Load()
			}
		}
		check("from the start")
		check("later")
		run("late", 4, 5)
		check("one that came late")
		stop()
		wg.Wait()
		if most.Load() > 40 {
			t.Errorf("one client held %d of at most 40", most.Load())
		}
		if f.used != 0 || len(f.clients) != 0 {
			t.Errorf("%d in use, %d clients left", f.used, len(f.clients))
		}
	})
}

// Nodes behind a slow line keep what they have for long. They do not keep a fast one from its share.
func TestSlowClients(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFair(100, 40, true)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var given [6]atomic.Int64
		for i := range given {
			for range 8 {
				wg.Go(func() {
					for {
						release, err := f.acquire(ctx, fmt.Sprint("n", i), 5, 5)
						if err != nil {
							return
						}
						given[i].Add(1)
						if i == len(given)-1 {
							time.Sleep(time.Millisecond)
						} else {
							time.Sleep(time.Second)
						}
						release()
					}
				})
			}
			time.Sleep(10 * time.Second) // the slow ones have all of it before the fast one comes
		}
		fast := &given[len(given)-1]
		from := fast.Load()
		time.Sleep(20 * time.Second)
		// A sixth of 100 in requests of 5, each of a millisecond, is 3,000 a second.
		if got := fast.Load() - from; got < 20*2000 {
			t.Errorf("the fast one was given to %d times in 20 s", got)
		}
		for i := range given[1:] {
			if n := given[i].Load(); n < 100 {
				t.Errorf("slow one %d was given to %d times", i, n)
			}
		}
		stop()
		wg.Wait()
	})
}

// A body, or an answer, that moves a byte now and then is ended.
func TestPace(t *testing.T) {
	var l Limits
	l.applyDefaults()
	for _, tc := range []struct {
		n     int64
		spent time.Duration
		want  time.Duration
	}{
		{0, 0, 60 * time.Second},
		{0, 50 * time.Second, 10 * time.Second},
		{4 << 20, 60 * time.Second, 60 * time.Second},
		{4 << 20, 180 * time.Second, 8 * time.Second},
		{4 << 20, 200 * time.Second, -12 * time.Second},
		{1 << 40, 0, 60 * time.Second},
	} {
		if got := l.patience(tc.n, tc.spent); got != tc.want {
			t.Errorf("%d bytes in %v: %v, want %v", tc.n, tc.spent, got, tc.want)
		}
	}
	srv := httptest.NewServer(Handler(mem.New(), Limits{Stall: 100 * time.Millisecond, Pace: 1 << 20}))
	defer srv.Close()
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+Prefix+"missing", pr)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 32 * 1000
	var wg sync.WaitGroup
	defer wg.Wait()
	defer pw.Close()
	wg.Go(func() {
		for { // never silent for long
			if _, err := pw.Write([]byte{1}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	begun := time.Now()
	resp, err := http.DefaultClient.Do(req)
	pr.CloseWithError(io.ErrClosedPipe)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it went on for %v", took)
	}
}

// What is large has its turn, what nobody waits for any more is forgotten, and a queue has its end.
func TestTurns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFair(100, 30, true)
		take := func(name string, n int64) func() {
			release, err := f.acquire(t.Context(), name, n, n)
			if err != nil {
				t.Fatal(err)
			}
			return release
		}
		a, b := take("a", 30), take("b", 30)
		huge := take("e", 40) // more than its share, and nothing else
		var got []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		wait := func(ctx context.Context, name string, n int64) {
			wg.Go(func() {
				release, err := f.acquire(ctx, name, n, n)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					got = append(got, name+": "+err.Error())
					return
				}
				got = append(got, name)
				release()
			})
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		wait(t.Context(), "c", 90) // first, and does not fit
		wait(t.Context(), "d", 10)
		wait(ctx, "a", 10)
		cancel()
		synctest.Wait()
		a()
		synctest.Wait()
		mu.Lock()
		if !slices.Equal(got, []string{"a: context canceled"}) && !slices.Equal(got, []string{"a: context canceled", "d"}) {
			t.Errorf("%q", got)
		}
		mu.Unlock()
		b()
		huge()
		wg.Wait()
		if len(got) != 3 || f.used != 0 || len(f.clients) != 0 {
			t.Errorf("%q, %d in use, %v", got, f.used, f.clients)
		}
		all := take("a", 100)
		ctx, cancel = context.WithCancel(t.Context())
		for range maxWaiting {
			wait(ctx, "g", 1)
		}
		var r *refusal
		if _, err := f.acquire(t.Context(), "g", 1, 1); !errors.As(err, &r) || r.code != "busy" {
			t.Errorf("%v", err)
		}
		cancel()
		wg.Wait()
		all()
		if f.used != 0 || len(f.clients) != 0 {
			t.Errorf("%d in use, %v", f.used, f.clients)
		}
	})
}

// slow is a store on a disk that takes so long for a batch.
type slow struct {
	store.Writer
	each time.Duration
}

func (s slow) Put(ctx context.Context, chunks []chunk.Encoded) (store.PutResult, error) {
	time.Sleep(s.each)
	return s.Writer.Put(ctx, chunks)
}

// TestSixteenAgents sends chunks from sixteen nodes at once over real sockets, one of which makes sixty requests at a
// time where the others make four. It gets no more than they do, and the server's memory stays within its bounds.
func TestSixteenAgents(t *testing.T) {
	const agents, batch, each = 16, 2 << 20, 6 << 20
	h := Handler(slow{mem.New(), 40 * time.Millisecond}, Limits{Each: each, Working: 2, Wait: time.Minute})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, From(r, r.Header.Get("Client")))
	}))
	defer srv.Close()
	raw := storetest.Bytes(1, batch)
	body := appendEnd(appendChunk(nil, chunk.Encoded{ID: chunk.Sum(raw), RawLen: batch, Codec: chunk.Raw, Data: raw}), 1)
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
	defer web.CloseIdleConnections()
	var m runtime.MemStats
	live := func() int64 {
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var sent [agents]atomic.Int64
	send := func(i int) {
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+Prefix+"chunks", bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Client", fmt.Sprint("n", i))
			resp, err := web.Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = errors.New(resp.Status)
				}
			}
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			sent[i].Add(1)
		}
	}
	for i := range agents {
		parallel := 4
		if i == 0 {
			parallel = 60
		}
		for range parallel {
			wg.Go(func() { send(i) })
		}
	}
	time.Sleep(time.Second) // all have begun
	var got []int64
	for i := range sent {
		got = append(got, -sent[i].Load())
	}
	var heap int64
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		heap = max(heap, live()-before)
	}
	for i := range sent {
		got[i] += sent[i].Load()
	}
	stop()
	wg.Wait()
	others := slices.Sorted(slices.Values(got[1:]))
	t.Logf("batches of the greedy one: %d; of the others: %d; the heap grew by at most %d MiB", got[0], others, heap>>20)
	if median := others[len(others)/2]; median < 2 || got[0] > median*3/2+3 || others[0] < median/2-2 {
		t.Errorf("the greedy one sent %d batches, the others %d", got[0], others)
	}
	// All requests at once would be 240 MiB. Besides, each of 120 connections has its buffers, at both ends.
	if most := int64(agents*each + 24<<20); heap > most {
		t.Errorf("the heap grew by %d MiB, for at most %d MiB a node", heap>>20, each>>20)
	}
}
