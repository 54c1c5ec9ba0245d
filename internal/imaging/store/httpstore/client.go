package httpstore

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Options say which store a Client reaches, and how patient it is.
type Options struct {
	Base  string       // URL of the server without a path: https://ADDRESS:PORT
	Token string       // bearer token; none is sent where it is empty
	HTTP  *http.Client // with the TLS settings; its Timeout must be 0, as streams may be long. nil means http.DefaultClient

	GiveUp time.Duration // how long to go on trying since the last success; 0 means 5 minutes
	Stall  time.Duration // how long a request may move no byte before it is sent again; 0 means 60 s. Flush and Stage have five times that
	Batch  int           // bytes of chunks in one request; 0 means 4 MiB
}

// Client is a store.Writer behind a Handler. What fails for a reason that may pass, it tries again: every request may
// be sent twice. Its methods may be called from several goroutines; each holds a batch of chunks at most.
type Client struct {
	o    Options
	base string

	mu   sync.Mutex
	last time.Time // of the last success
}

var _ store.Writer = (*Client)(nil)

// NewClient returns a Client. It does not speak to the server yet.
func NewClient(o Options) (*Client, error) {
	u, err := url.Parse(o.Base)
	if err != nil {
		return nil, fmt.Errorf("store's URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("store's URL %q: want https://ADDRESS:PORT", o.Base)
	}
	if o.HTTP == nil {
		o.HTTP = http.DefaultClient
	}
	if o.GiveUp <= 0 {
		o.GiveUp = 5 * time.Minute
	}
	if o.Stall <= 0 {
		o.Stall = 60 * time.Second
	}
	if o.Batch <= 0 {
		o.Batch = 4 << 20
	}
	return &Client{o: o, base: strings.TrimSuffix(o.Base, "/") + Prefix}, nil
}

// Waits between tries: doubled each time, with a random part so that nodes which lost the server together do not come
// back together.
const (
	firstWait = 200 * time.Millisecond
	maxWait   = 5 * time.Second
	busyWait  = 2 * time.Second // where the server has too much to do; it says Retry-After: 1
)

// ours marks an error that is the caller's own, and no reason to try again.
type ours struct{ error }

func (o ours) Unwrap() error { return o.error }

// again tells whether a failed try may do better the next time.
func again(err error) bool {
	var own ours
	var missing *store.MissingError
	var damaged *store.DamagedError
	var r *remote
	switch {
	case errors.As(err, &own), errors.As(err, &missing), errors.As(err, &damaged):
		return false
	case errors.As(err, &r):
		return r.temporary()
	}
	return true
}

// retry calls try until it succeeds, or fails for good.
func (c *Client) retry(ctx context.Context, what string, try func() error) error {
	begin := time.Now()
	wait := firstWait
	for {
		err := try()
		if err == nil {
			c.success()
			return nil
		}
		var own ours
		if errors.As(err, &own) {
			return own.error
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !again(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		c.mu.Lock()
		since := time.Since(later(begin, c.last))
		c.mu.Unlock()
		if since >= c.o.GiveUp {
			return fmt.Errorf("%s: gave up after %v without success: %w", what, since.Round(time.Second), err)
		}
		var r *remote
		if errors.As(err, &r) && r.status == http.StatusTooManyRequests {
			wait = max(wait, busyWait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, maxWait)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (c *Client) success() {
	c.mu.Lock()
	c.last = time.Now()
	c.mu.Unlock()
}

// errStalled says why a request was given up.
var errStalled = errors.New("nothing was sent or received for too long")

// do sends one request and calls read with the answer, whose status is 200 or 204. stall is for each pause.
func (c *Client) do(ctx context.Context, method, path, ctype string, body []byte, header http.Header, stall time.Duration, read func(io.Reader, *time.Timer) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return ours{err}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if method == http.MethodPost {
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) {
			return io.NopCloser(&watched{bytes.NewReader(body), timer, stall}), nil
		}
		if req.Body, err = req.GetBody(); err != nil {
			return ours{err}
		}
		if len(body) == 0 {
			req.Body = http.NoBody
		}
		req.Header.Set("Content-Type", ctype)
	}
	if c.o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.o.Token)
	}
	resp, err := c.o.HTTP.Do(req)
	if err != nil {
		if context.Cause(ctx) == errStalled {
			return errStalled
		}
		return err
	}
	defer resp.Body.Close()
	in := &watched{resp.Body, timer, stall}
	timer.Reset(stall)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return readProblem(resp.StatusCode, in)
	}
	if err := read(in, timer); err != nil {
		if context.Cause(ctx) == errStalled {
			return errStalled
		}
		return err
	}
	return nil
}

func readProblem(status int, r io.Reader) error {
	var p problem
	if b, err := io.ReadAll(io.LimitReader(r, maxProblem)); err == nil {
		if json.Unmarshal(b, &p) != nil {
			p = problem{} // some proxy's own page
		}
	}
	return p.err(status)
}

// watched restarts a timer with every byte that moves.
type watched struct {
	io.Reader
	timer *time.Timer
	stall time.Duration
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	return n, err
}

// whole returns a read for do that takes an answer of at most limit bytes.
func whole(limit int64, to *[]byte) func(io.Reader, *time.Timer) error {
	return func(r io.Reader, _ *time.Timer) (err error) {
		*to, err = io.ReadAll(io.LimitReader(r, limit+1))
		if err == nil && int64(len(*to)) > limit {
			return ours{fmt.Errorf("answer of more than %d bytes", limit)}
		}
		return err
	}
}

func joinIDs(ids []chunk.ID) []byte {
	b := make([]byte, 0, len(ids)*len(chunk.ID{}))
	for i := range ids {
		b = append(b, ids[i][:]...)
	}
	return b
}

// Missing implements store.Writer.
func (c *Client) Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	var missing []chunk.ID
	for len(ids) > 0 {
		part := ids[:min(len(ids), MaxMissing)]
		ids = ids[len(part):]
		var bits []byte
		err := c.retry(ctx, "ask which chunks are missing", func() error {
			err := c.do(ctx, http.MethodPost, "missing", idsType, joinIDs(part), nil, c.o.Stall, whole(MaxMissing/8, &bits))
			if err == nil && len(bits) != (len(part)+7)/8 {
				return ours{fmt.Errorf("ask which chunks are missing: %d bytes for %d chunks", len(bits), len(part))}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for i, id := range part {
			if bits[i/8]>>(i%8)&1 != 0 {
				missing = append(missing, id)
			}
		}
	}
	return missing, nil
}

// Put implements store.Writer. An error that wraps store.ErrFull comes at once.
func (c *Client) Put(ctx context.Context, chunks []chunk.Encoded) (store.PutResult, error) {
	var all store.PutResult
	for _, e := range chunks {
		if err := e.Check(); err != nil {
			return all, fmt.Errorf("put: %w", err)
		}
	}
	var body []byte
	for len(chunks) > 0 {
		body = body[:0]
		n := 0
		for ; n < len(chunks); n++ {
			if n > 0 && len(body)+len(chunks[n].Data) > c.o.Batch {
				break
			}
			body = appendChunk(body, chunks[n])
		}
		body = appendEnd(body, n)
		var res store.PutResult
		// A new number for each batch and the same for each try; see putHeader.
		header := http.Header{putHeader: {crand.Text()}}
		err := c.retry(ctx, "send chunks", func() error {
			var b []byte
			if err := c.do(ctx, http.MethodPost, "chunks", framesType, body, header, c.o.Stall, whole(maxProblem, &b)); err != nil {
				return err
			}
			return json.Unmarshal(b, &res)
		})
		if err != nil {
			return all, err
		}
		all.Add(res)
		chunks = chunks[n:]
	}
	return all, nil
}

// Flush implements store.Writer.
func (c *Client) Flush(ctx context.Context) error {
	return c.retry(ctx, "flush the store", func() error {
		var b []byte
		return c.do(ctx, http.MethodPost, "flush", framesType, nil, nil, 5*c.o.Stall, whole(maxProblem, &b))
	})
}

// Stage implements store.Writer.
func (c *Client) Stage(ctx context.Context, m *manifest.Manifest) (manifest.ID, error) {
	b, err := manifest.Encode(m)
	if err != nil {
		return manifest.ID{}, err
	}
	var got staged
	err = c.retry(ctx, "stage manifest", func() error {
		var answer []byte
		if err := c.do(ctx, http.MethodPost, "manifests", "application/json", b, nil, 5*c.o.Stall, whole(maxProblem, &answer)); err != nil {
			return err
		}
		return json.Unmarshal(answer, &got)
	})
	if err == nil && got.ID != manifest.Sum(b) {
		err = fmt.Errorf("stage manifest: the server named it %s, it is %s", got.ID, manifest.Sum(b))
	}
	return got.ID, err
}
