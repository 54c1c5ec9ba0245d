package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
)

// Who sends a message byte by byte is cut off; who only listens to a stream is not.
func TestSlowMessages(t *testing.T) {
	r := start(t)
	id := r.capture("n1")
	token := r.boot(1)
	r.hello(token, "b1")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), r.cfg, "test", r.log, r.out)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.bodyLimit = 50 * time.Millisecond
	web := httptest.NewServer(s.apiHandler())
	defer web.Close()
	for path, tok := range map[string]string{"/v1/boot": r.token, api.PathProgress: token} {
		c, err := net.Dial("tcp", web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+tok+"\r\nContent-Length: 100\r\n\r\n{")
		began := time.Now()
		c.SetReadDeadline(began.Add(5 * time.Second))
		b, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(string(b), "HTTP/1.1 400") || time.Since(began) > 3*time.Second {
			t.Errorf("%s: after %s, %v: %q", path, time.Since(began), err, b)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", web.URL+"/v1/jobs/"+id+"/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := web.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 1<<16)
	if n, err := resp.Body.Read(buf); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	time.Sleep(4 * s.bodyLimit)
	if _, err := s.jobs.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if n, err := resp.Body.Read(buf); err != nil || !strings.Contains(string(buf[:n]), string(api.PhaseCancelling)) {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// A stateless image that a job needs stays; lists of jobs are those of the nodes that were asked for.
func TestWhatJobsNeed(t *testing.T) {
	r := start(t)
	a := r.capture("n1")
	b := r.capture("n2")
	r.must("POST", "/v1/jobs/"+b+"/cancel", nil, nil)
	e := r.fails("DELETE", "/v1/stateless/imaging", nil, "conflict", "n1 boots it for job "+a)
	if !strings.Contains(e.Hint, a) {
		t.Errorf("hint %q", e.Hint)
	}
	r.fails("DELETE", "/v1/stateless/imaging?arch=arm64", nil, "not_found", "imaging")
	for _, bad := range []string{"/v1/stateless/..%2f..%2fx", "/v1/stateless/%2e%2e", "/v1/stateless/A"} {
		r.fails("DELETE", bad, nil, "bad_request", "profile")
	}
	for q, want := range map[string]string{"": b + a, "?active=1": a, "?range=n2": b, "?range=n2&active=1": "", "?range=n%5B1-2%5D": b + a} {
		var jobs []api.Job
		r.must("GET", "/v1/jobs"+q, nil, &jobs)
		got := ""
		for _, j := range jobs {
			got += j.ID
		}
		if got != want {
			t.Errorf("%q lists %q, want %q", q, got, want)
		}
	}
	r.must("POST", "/v1/jobs/"+a+"/cancel", nil, nil)
	r.must("DELETE", "/v1/stateless/imaging", nil, nil)
	r.fails("POST", "/v1/jobs", api.JobNew{Key: "k", Kind: api.TaskCapture, Range: "n1", Image: "web"}, "no_image", "imaging")
}
