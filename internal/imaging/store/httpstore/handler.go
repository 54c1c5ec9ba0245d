package httpstore

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Limits bound what a Handler takes. Zero values mean the defaults.
type Limits struct {
	MaxBody  int64         // bytes of a request; 0 means 16 MiB. Not less than the longest chunk with its frame.
	InFlight int64         // bytes of memory for the bodies of all requests at once; 0 means 256 MiB
	Each     int64         // bytes of that for one client; 0 means 64 MiB
	Working  int           // batches that are decoded and stored at once; 0 means one a processor, and one that waits for the disk
	Wait     time.Duration // how long a request waits for its share of that before it is told to come again; 0 means 20 s
	Stall    time.Duration // how long a node may send or take nothing before its request ends; 0 means 60 s
	Pace     int64         // bytes a second that it must send or take on the whole, beyond Stall; 0 means 32 KiB
}

func (l *Limits) applyDefaults() {
	if l.MaxBody <= 0 {
		l.MaxBody = 16 << 20
	}
	l.MaxBody = max(l.MaxBody, chunk.MaxLen+4*frameHead)
	if l.InFlight <= 0 {
		l.InFlight = 256 << 20
	}
	l.InFlight = max(l.InFlight, l.MaxBody, getCost, manifestCost*manifest.MaxSize)
	if l.Each <= 0 {
		l.Each = 64 << 20
	}
	if l.Working <= 0 {
		l.Working = runtime.GOMAXPROCS(0) + 1
	}
	if l.Wait <= 0 {
		l.Wait = 20 * time.Second
	}
	if l.Stall <= 0 {
		l.Stall = 60 * time.Second
	}
	if l.Pace <= 0 {
		l.Pace = 32 << 10
	}
}

// patience is how long the next step of a request may take that has moved n bytes, that step's among them, in spent. Who
// moves a byte now and then would keep the memory of its request for days.
func (l *Limits) patience(n int64, spent time.Duration) time.Duration {
	return min(l.Stall, l.Stall+time.Duration(n/l.Pace)*time.Second-spent)
}

// manifestCost is how many times its length in memory a manifest needs while it is read: bytes, value, bytes again.
const manifestCost = 4

// getCost is the memory of a request for chunks: a stretch of a pack, and the buffers of the connection.
const getCost = chunk.MaxLen + 1<<20

type handler struct {
	s      store.Writer
	limits Limits
	memory *fair // bytes
	work   *fair // batches
	counts counts
}

type clientKey struct{}

// From says who sends a request, so that Handler can share out among clients. Without it each address is a client.
func From(r *http.Request, client string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), clientKey{}, client))
}

func client(r *http.Request) string {
	if name, ok := r.Context().Value(clientKey{}).(string); ok {
		return name
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// Service is a store that is served.
type Service struct {
	http.Handler
	h *handler
}

// Load is how busy a Service is.
type Load struct {
	Bytes   int64 // of memory that requests have
	Waiting int   // requests that wait for memory or a processor
}

// Load says how busy the service is now.
func (s *Service) Load() (l Load) {
	for _, f := range []*fair{s.h.memory, s.h.work} {
		f.mu.Lock()
		if f == s.h.memory {
			l.Bytes = f.used
		}
		for _, c := range f.clients {
			l.Waiting += len(c.waiting)
		}
		f.mu.Unlock()
	}
	return l
}

// Handler serves s under Prefix. It does not ask who the caller is: wrap it in what does, and says so with From.
func Handler(s store.Writer, l Limits) *Service {
	l.applyDefaults()
	h := &handler{s: s, limits: l, memory: newFair(l.InFlight, l.Each, true), work: newFair(int64(l.Working), 0, false)}
	mux := http.NewServeMux()
	route := func(pattern string, fn func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := fn(w, r); err != nil {
				h.fail(w, err)
			}
		})
	}
	route("POST "+Prefix+"missing", h.missing)
	route("POST "+Prefix+"chunks", h.chunks)
	route("POST "+Prefix+"flush", h.flush)
	route("POST "+Prefix+"get", h.get)
	route("POST "+Prefix+"manifests", h.stage)
	route("GET "+Prefix+"manifests/{id}", h.manifest)
	route("GET "+Prefix+"images", h.images)
	route("GET "+Prefix+"images/{image}/revisions", h.revisions)
	return &Service{mux, h}
}

func (h *handler) fail(w http.ResponseWriter, err error) {
	p := problemOf(err)
	if p.Code == "busy" {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, statuses[p.Code], p)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"code":"internal","message":"encode answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the caller is gone where this fails, and asks again
}

// acquire takes n bytes of the memory that all requests share, and returns what gives them back.
func (h *handler) acquire(r *http.Request, n int64) (func(), error) {
	wait, cancel := context.WithTimeout(r.Context(), h.limits.Wait)
	defer cancel()
	release, err := h.memory.acquire(wait, client(r), n, n)
	if err != nil && wait.Err() != nil && r.Context().Err() == nil {
		err = refuse("busy", "too many requests at once: no room for %d bytes within %v", n, h.limits.Wait)
	}
	return release, err
}

// body reads the request's body of at most limit bytes into memory that acquire gave: cost times its length. Call
// release when it is not used any more.
func (h *handler) body(w http.ResponseWriter, r *http.Request, limit, cost int64) (b []byte, release func(), err error) {
	n := r.ContentLength
	if n < 0 {
		return nil, nil, refuse("no_length", "the request has no Content-Length")
	}
	if n > limit {
		return nil, nil, refuse("too_large", "request of %d bytes, at most %d", n, limit)
	}
	release, err = h.acquire(r, n*cost)
	if err != nil {
		return nil, nil, err
	}
	rc := http.NewResponseController(w)
	b = make([]byte, n)
	begun := time.Now()
	for got := int64(0); got < n; {
		// Where deadlines are not to be had, the server's own timeouts must do.
		_ = rc.SetReadDeadline(time.Now().Add(h.limits.patience(got, time.Since(begun))))
		k, err := r.Body.Read(b[got:min(n, got+1<<20)])
		got += int64(k)
		if err != nil && got < n {
			release()
			// The deadline stays: net/http reads what is left of the body before it sends our answer.
			return nil, nil, refuse("stopped", "the request stopped after %d of %d bytes: %w", got, n, cutOff(err))
		}
	}
	_ = rc.SetReadDeadline(time.Time{})
	return b, release, nil
}

func (h *handler) ids(w http.ResponseWriter, r *http.Request, most int) ([]chunk.ID, error) {
	const size = int64(len(chunk.ID{}))
	b, release, err := h.body(w, r, int64(most)*size, 3)
	if err != nil {
		return nil, err
	}
	defer release()
	if int64(len(b))%size != 0 {
		return nil, refuse("bad_request", "%d bytes are not a list of chunk IDs", len(b))
	}
	ids := make([]chunk.ID, 0, int64(len(b))/size)
	for ; len(b) > 0; b = b[size:] {
		ids = append(ids, chunk.ID(b[:size]))
	}
	return ids, nil
}

func (h *handler) missing(w http.ResponseWriter, r *http.Request) error {
	ids, err := h.ids(w, r, MaxMissing)
	if err != nil {
		return err
	}
	missing, err := h.s.Missing(r.Context(), ids)
	if err != nil {
		return err
	}
	bits := make([]byte, (len(ids)+7)/8)
	for i, id := range ids {
		if len(missing) > 0 && missing[0] == id {
			bits[i/8] |= 1 << (i % 8)
			missing = missing[1:]
		}
	}
	w.Header().Set("Content-Type", bitsType)
	_, _ = w.Write(bits)
	return nil
}

// scratch holds chunks while they are checked, one for each batch at work.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

func (h *handler) chunks(w http.ResponseWriter, r *http.Request) error {
	b, release, err := h.body(w, r, h.limits.MaxBody, 1)
	if err != nil {
		return err
	}
	defer release()
	chunks, err := splitFrames(b)
	if err != nil {
		return &refusal{"bad_request", err}
	}
	done, err := h.work.acquire(r.Context(), client(r), 1, int64(len(b)))
	if err != nil {
		return err
	}
	defer done()
	raw := scratch.Get().(*[]byte)
	defer scratch.Put(raw)
	for _, c := range chunks {
		out, err := chunk.Decode(c, *raw)
		if err != nil {
			return &refusal{"bad_chunk", err}
		}
		*raw = out
	}
	res, err := h.s.Put(r.Context(), chunks)
	res = h.counts.add(r.Header.Get(putHeader), res)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, res)
	return nil
}

func (h *handler) flush(w http.ResponseWriter, r *http.Request) error {
	if err := h.s.Flush(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *handler) get(w http.ResponseWriter, r *http.Request) error {
	ids, err := h.ids(w, r, MaxGet)
	if err != nil {
		return err
	}
	release, err := h.acquire(r, getCost)
	if err != nil {
		return err
	}
	defer release()
	rc := http.NewResponseController(w)
	defer rc.SetWriteDeadline(time.Time{})
	w.Header().Set("Content-Type", framesType)
	var head []byte
	count := 0
	gone := false
	var sent int64
	var spent time.Duration // on sending alone: the store may be slow, too
	err = h.s.Get(r.Context(), ids, func(c chunk.Encoded) error {
		begun := time.Now()
		defer func() { spent += time.Since(begun) }()
		sent += int64(len(c.Data))
		_ = rc.SetWriteDeadline(begun.Add(h.limits.patience(sent, spent)))
		head = appendFrameHead(head[:0], frameChunk, c.Codec, c.RawLen, uint32(len(c.Data)), c.ID)
		count++
		_, err := w.Write(head)
		if err == nil {
			_, err = w.Write(c.Data)
		}
		gone = err != nil
		return err
	})
	switch {
	case gone || r.Context().Err() != nil:
		return nil // nobody is there to be told
	case err != nil:
		b, jerr := json.Marshal(problemOf(err))
		if jerr != nil {
			return jerr
		}
		head = appendFrameHead(head[:0], frameError, 0, 0, uint32(len(b)), chunk.ID{})
		_, _ = w.Write(append(head, b...))
	default:
		_, _ = w.Write(appendEnd(head[:0], count))
	}
	return nil
}

func (h *handler) stage(w http.ResponseWriter, r *http.Request) error {
	b, release, err := h.body(w, r, manifest.MaxSize, manifestCost)
	if err != nil {
		return err
	}
	defer release()
	m, err := manifest.Decode(b)
	if err != nil {
		return &refusal{"bad_request", err}
	}
	id, err := h.s.Stage(r.Context(), m)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, staged{id})
	return nil
}

func (h *handler) manifest(w http.ResponseWriter, r *http.Request) error {
	id, err := chunk.ParseID(r.PathValue("id"))
	if err != nil {
		return &refusal{"bad_request", err}
	}
	m, err := h.s.Manifest(r.Context(), id)
	if err != nil {
		return err
	}
	b, err := manifest.Encode(m)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
	return nil
}

func (h *handler) images(w http.ResponseWriter, r *http.Request) error {
	names, err := h.s.Images(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, append([]string{}, names...))
	return nil
}

func (h *handler) revisions(w http.ResponseWriter, r *http.Request) error {
	image := r.PathValue("image")
	if err := manifest.ValidName(image); err != nil {
		return &refusal{"bad_request", err}
	}
	revs, err := h.s.Revisions(r.Context(), image)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, append([]store.Revision{}, revs...))
	return nil
}

// counts remembers for a while what was new in a batch, over all times that it was sent.
type counts struct {
	mu   sync.Mutex
	m    map[string]store.PutResult
	keys []string // in the order of their first coming; the oldest are forgotten
}

// maxCounts is enough for some hundred nodes with a few batches under way each.
const maxCounts = 4096

func (c *counts) add(key string, res store.PutResult) store.PutResult {
	if key == "" || len(key) > 64 {
		return res
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[string]store.PutResult)
	}
	old, ok := c.m[key]
	if !ok {
		if len(c.keys) == maxCounts {
			delete(c.m, c.keys[0])
			c.keys = c.keys[1:]
		}
		c.keys = append(c.keys, key)
	}
	res.Add(old)
	c.m[key] = res
	return res
}
