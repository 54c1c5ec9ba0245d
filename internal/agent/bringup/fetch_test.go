package bringup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// content is a rootimg of some MiB.
func content() []byte {
	b := make([]byte, 3<<20+12345)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// load fetches from a server into a file and returns what is there then.
func load(t *testing.T, h http.HandlerFunc, sum string) ([]byte, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "rootimg"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	get := &fetcher{url: srv.URL + "/rootimg", sum: sum, to: f, log: func(format string, args ...any) { t.Log(fmt.Sprintf(format, args...)) },
		stall: 300 * time.Millisecond, giveUp: 1500 * time.Millisecond, wait: 10 * time.Millisecond}
	ferr := get.fetch(t.Context())
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b, ferr
}

func serve(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "rootimg", time.Unix(1, 0), bytes.NewReader(b))
	}
}

// cutter lets n bytes of an answer through and then cuts the line.
type cutter struct {
	http.ResponseWriter
	n int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.n {
		c.ResponseWriter.Write(b[:c.n])
		panic(http.ErrAbortHandler)
	}
	c.n -= len(b)
	return c.ResponseWriter.Write(b)
}

func TestFetch(t *testing.T) {
	b := content()
	got, err := load(t, serve(b), hexSum(b))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFetchGoesOnWhereItBrokeOff(t *testing.T) {
	b := content()
	var sent, tries atomic.Int64
	got, err := load(t, func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		c := &cutter{w, 700_000}
		defer func() { sent.Add(int64(700_000 - c.n)) }()
		serve(b)(c, r)
	}, hexSum(b))
	if err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if tries.Load() < 4 || sent.Load() > int64(len(b))*3/2 {
		t.Errorf("%d tries, %d bytes sent for %d", tries.Load(), sent.Load(), len(b))
	}
}

// A server that knows no ranges sends all again.
func TestFetchWithoutRanges(t *testing.T) {
	b := content()
	var tries atomic.Int64
	got, err := load(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		if tries.Add(1) == 1 {
			(&cutter{w, 100_000}).Write(b)
		}
		w.Write(b)
	}, hexSum(b))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFetchRefusesOtherBytes(t *testing.T) {
	b := content()
	var tries atomic.Int64
	_, err := load(t, func(w http.ResponseWriter, r *http.Request) { tries.Add(1); serve(b)(w, r) }, hexSum(b[1:]))
	if !errors.Is(err, errSum) || !strings.Contains(err.Error(), hexSum(b)) || tries.Load() != wrongSums {
		t.Errorf("%v after %d tries", err, tries.Load())
	}
}

// The file is replaced while it is loaded: the second try brings the right one.
func TestFetchOfAFileThatIsReplaced(t *testing.T) {
	old, b := content(), content()
	b = append(b[5000:], 1, 2, 3)
	var tries atomic.Int64
	got, err := load(t, func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			serve(old)(&cutter{w, 500_000}, r)
		}
		serve(b)(w, r)
	}, hexSum(b))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFetchOfAFileThatBecameShorter(t *testing.T) {
	old := content()
	b := old[:1000]
	var tries atomic.Int64
	got, err := load(t, func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			serve(old)(&cutter{w, 500_000}, r)
		}
		serve(b)(w, r) // answers 416
	}, hexSum(b))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFetchGivesUp(t *testing.T) {
	for what, h := range map[string]http.HandlerFunc{
		"404 Not Found":    func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"nothing came for": func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); <-r.Context().Done() },
	} {
		began := time.Now()
		_, err := load(t, h, strings.Repeat("0", 64))
		if err == nil || !strings.Contains(err.Error(), what) || time.Since(began) < 1500*time.Millisecond {
			t.Errorf("%s: %v after %v", what, err, time.Since(began))
		}
	}
}

func TestFetchOfTooMuch(t *testing.T) {
	_, err := load(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<50))
		w.(http.Flusher).Flush()
	}, strings.Repeat("0", 64))
	if err == nil || !strings.Contains(err.Error(), "too little memory") {
		t.Error(err)
	}
}

func TestFetchIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := (&fetcher{url: srv.URL, to: f, log: t.Logf}).fetch(ctx); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestContentRange(t *testing.T) {
	for _, c := range []struct {
		in          string
		start, size int64
		ok          bool
	}{
		{"bytes 5-9/10", 5, 10, true}, {"bytes 5-9/*", 5, -1, true}, {"", 0, 0, false}, {"bytes */10", 0, 0, false}, {"bytes 5/10", 0, 0, false}, {"lines 1-2/3", 0, 0, false}, {"bytes x-9/10", 0, 0, false}, {"bytes 5-9/x", 0, 0, false},
	} {
		start, size, ok := contentRange(c.in)
		if ok != c.ok || ok && (start != c.start || size != c.size) {
			t.Errorf("%q: %d, %d, %v", c.in, start, size, ok)
		}
	}
}

func TestParams(t *testing.T) {
	p := ParseParams(`BOOT_IMAGE=vmlinuz quiet mimeo.server=https://10.0.0.1:4443 mimeo.pin=ab mimeo.node=n01 mimeo.token="t o k" mimeo.rootimg=http://10.0.0.1:4480/r mimeo.rootsha256=ABCD mimeo.build=b7 BOOTIF=01-52-54-00-12-34-56 mimeo.time=1790000000 mimeo.node=n02 console=ttyS0,115200` + "\n")
	want := Params{Server: "https://10.0.0.1:4443", Pin: "ab", Token: "t o k", Node: "n02", RootURL: "http://10.0.0.1:4480/r", RootSum: "abcd", Build: "b7", BootIF: "01-52-54-00-12-34-56", Time: time.Unix(1790000000, 0), Line: p.Line}
	if p != want {
		t.Errorf("got %+v", p)
	}
	if err := p.check(); err != nil {
		t.Error(err)
	}
	p.Pin = ""
	if err := p.check(); err == nil || !strings.Contains(err.Error(), "mimeo.pin") {
		t.Error(err)
	}
	if got := ParseParams(`mimeo.time=x a="" "" b`); !got.Time.IsZero() || got.Line != `mimeo.time=x a="" "" b` {
		t.Errorf("got %+v", got)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("MIMEO_TEST_INIT") != "" {
		os.Exit(initForTest())
	}
	os.Exit(m.Run())
}

var _ io.Writer = (*cutter)(nil)
