package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/stateless"
)

// A large file arrives whole, in parts, and from any place on; its transfer is an event at both ends.
func TestLargeFile(t *testing.T) {
	r := start(t)
	want := make([]byte, 3*partSize+12345)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(want)
	dir := filepath.Join(r.cfg.State, "stateless", "imaging", "amd64", build)
	if err := os.WriteFile(filepath.Join(dir, "rootimg"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	im, err := stateless.Current(r.cfg.State, "imaging", node.AMD64)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(want)
	im.Files["rootimg"] = api.StatelessFile{Size: int64(len(want)), SHA256: hex.EncodeToString(sum[:])}
	b, err := json.Marshal(im)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "record.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	cl := r.from("127.0.0.11")
	cl.Transport.(*http.Transport).DisableKeepAlives = false // the limit of one transfer must not end the next
	defer cl.CloseIdleConnections()
	fetch := func(rng string) (int, []byte) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.http.Addr().String()+"/boot/stateless/"+build+"/rootimg", nil)
		if err != nil {
			t.Fatal(err)
		}
		if rng != "" {
			req.Header.Set("Range", rng)
		}
		resp, err := cl.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b
	}
	if code, got := fetch(""); code != 200 || !bytes.Equal(got, want) {
		t.Fatalf("%d, %d bytes", code, len(got))
	}
	for _, from := range []int{1, partSize, 2*partSize - 1, len(want) - 1} {
		if code, got := fetch(fmt.Sprintf("bytes=%d-", from)); code != http.StatusPartialContent || !bytes.Equal(got, want[from:]) {
			t.Errorf("from %d: %d, %d bytes", from, code, len(got))
		}
	}
	if code, _ := fetch(fmt.Sprintf("bytes=%d-", len(want))); code != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("from its end: %d", code)
	}
	var texts []string
	r.until("the events", func() bool {
		var evs []api.Event
		r.must("GET", "/v1/nodes/n1/events", nil, &evs)
		texts = nil
		for _, e := range evs {
			if e.Kind == "rootimg" && e.Addr == "127.0.0.11" {
				texts = append(texts, e.Text)
			}
		}
		return len(texts) == 7
	})
	if !strings.Contains(texts[0], "begins") || !strings.Contains(texts[1], fmt.Sprintf("%d of %d bytes", len(want), len(want))) || strings.Contains(strings.Join(texts[2:], " "), "begins") {
		t.Errorf("%q", texts)
	}
}

// Bytes that go through are signs of life, and not more often than is useful.
func TestPatientWriter(t *testing.T) {
	alive := 0
	rec := httptest.NewRecorder()
	p := &patientWriter{ResponseWriter: rec, alive: func() { alive++ }}
	src := bytes.Repeat([]byte("abc"), partSize)
	if n, err := p.ReadFrom(&io.LimitedReader{R: bytes.NewReader(src), N: int64(len(src)) - 5}); err != nil || n != int64(len(src))-5 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := p.ReadFrom(bytes.NewReader([]byte("rest"))); err != nil || n != 4 {
		t.Errorf("%d, %v", n, err)
	}
	if want := append(src[:len(src)-5:len(src)-5], "rest"...); !bytes.Equal(rec.Body.Bytes(), want) || p.n != int64(len(want)) {
		t.Errorf("%d bytes, %d counted", rec.Body.Len(), p.n)
	}
	if alive != 1 {
		t.Errorf("%d signs of life within a moment", alive)
	}
	p.told = time.Now().Add(-time.Minute)
	if _, err := p.Write([]byte("x")); err != nil || alive != 2 {
		t.Errorf("%d signs of life, %v", alive, err)
	}
	if n, err := p.ReadFrom(&io.LimitedReader{R: bytes.NewReader([]byte("ab")), N: 9}); err != nil || n != 2 {
		t.Errorf("a file that became shorter: %d, %v", n, err)
	}
}

// A boot state is set also where a person has to do the rest, and the answer says both.
func TestBootCycleByHand(t *testing.T) {
	r := start(t)
	e := r.fails("POST", "/v1/boot", api.BootSet{Range: "n[1-2]", State: node.BootShell, Cycle: true}, "by_hand", "the boot state is set, but n1: ")
	if !strings.Contains(e.Message, "; n2: ") || e.Hint == "" {
		t.Errorf("%+v", e)
	}
	if r.node("n1").Boot != node.BootShell || r.node("n2").Boot != node.BootShell {
		t.Error("it is not")
	}
}
