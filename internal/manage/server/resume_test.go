package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/httpstore"
)

// wire counts the bytes that a node sends, and breaks when there were so many.
type wire struct {
	sent  atomic.Int64
	limit int64
	cut   context.CancelFunc
}

type wireConn struct {
	net.Conn
	w *wire
}

func (c wireConn) Write(b []byte) (int, error) {
	if c.w.limit > 0 && c.w.sent.Load() >= c.w.limit {
		c.w.cut()
		c.Close()
		return 0, errors.New("the line is cut")
	}
	n, err := c.Conn.Write(b)
	c.w.sent.Add(int64(n))
	return n, err
}

// TestResume cuts a capture off when half of it is sent. The second try, of the same server or of one that was started
// anew, moves no more than the other half and what was on the line.
func TestResume(t *testing.T) {
	data := make([]byte, 320<<20) // much more than what is under way at once, some 16 MiB
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	for what, restart := range map[string]bool{"the same server": false, "a server that was started anew": true} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			state := t.TempDir()
			r := startIn(t, state)
			r.image()
			r.must("POST", "/v1/nodes", api.NodeAdd{Range: "n1", Set: map[string]string{"arch": "amd64", "firmware": "bios", "mac": "52:54:00:00:00:01", "ip": "127.0.0.11"}}, nil)
			id := r.capture("n1")
			token := r.boot(1)
			r.hello(token, "b1")
			try := func(limit int64) (*capture.Result, *wire, error) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := &wire{limit: limit, cut: cancel}
				tr := r.from("127.0.0.11").Transport.(*http.Transport)
				tr.DisableKeepAlives = false
				defer tr.CloseIdleConnections()
				dial := tr.DialContext
				tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := dial(ctx, network, addr)
					return wireConn{c, w}, err
				}
				tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
				cl, err := httpstore.NewClient(httpstore.Options{Base: "https://" + r.https.Addr().String(), Token: token, HTTP: &http.Client{Transport: tr}})
				if err != nil {
					t.Fatal(err)
				}
				res, err := capture.Run(ctx, capture.Source{ReaderAt: bytes.NewReader(data), Disk: manifest.Disk{Size: int64(len(data)), SectorSize: 512}},
					capture.Plan{Table: manifest.Table{Kind: "none"}, Used: extent.List{{Off: 0, Len: int64(len(data))}}, Volumes: []manifest.Volume{{Len: int64(len(data)), Type: "unknown", Method: manifest.MethodWhole}}},
					cl, capture.Options{Source: manifest.Source{Agent: "test"}})
				return res, w, err
			}
			half := int64(len(data)) / 2
			if _, w, err := try(half); err == nil || w.sent.Load() < half {
				t.Fatalf("the first try sent %d bytes: %v", w.sent.Load(), err)
			}
			if restart {
				if err := r.stop(); err != nil {
					t.Fatal(err)
				}
				r = startIn(t, state)
			}
			res, w, err := try(0)
			if err != nil {
				t.Fatal(err)
			}
			share := float64(w.sent.Load()) / float64(len(data))
			t.Logf("the second try sent %.1f %%", share*100)
			if share > 0.55 {
				t.Errorf("the second try sent %.1f %% of the disk", share*100)
			}
			r.until("the capture is done", func() bool {
				var d api.DoneReply
				if _, e := r.call(token, "POST", api.PathDone, api.Done{Job: id, BootID: "b1", OK: true, Manifest: res.ID.String()}, &d); e != nil {
					t.Fatal(e)
				}
				return d.Action == "reboot"
			})
			var last api.VerifyProgress
			if err := r.admin.Stream(t.Context(), "POST", "/v1/images/web/1/verify", nil, func(b []byte) error { return json.Unmarshal(b, &last) }); err != nil || last.Error != nil || last.Done != int64(len(data)) {
				t.Errorf("%+v, %v", last, err)
			}
		})
	}
}
