package agent

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/store/sign"
)

// fakeServer is a management node with one node and a store in memory. Its fields are set before it is used; tasks are
// handed out in order, then TaskReboot.
type fakeServer struct {
	*httptest.Server
	store *mem.Store

	mu       sync.Mutex
	tasks    []api.Task
	hellos   []api.Hello
	progress []api.Progress
	done     []api.Done
	cancelAt api.Phase // progress of this phase is answered with cancel,
	letPass  int       // after so many messages of it

	// refuse, if not nil, may answer a request itself; it says whether it did.
	refuse func(w http.ResponseWriter, r *http.Request) bool
	// answer is what Done gets; nil means reboot.
	answer func(n int) (api.DoneReply, int)
	// storeHook sees each request to the store first.
	storeHook func(w http.ResponseWriter, r *http.Request) bool
}

// testKey signs what the fake server publishes.
var testKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func newFakeServer(t *testing.T, tasks ...api.Task) *fakeServer {
	t.Helper()
	s := &fakeServer{store: mem.New(), tasks: tasks}
	s.store.Sign = func(r store.Revision) store.Signature { return sign.Sign(testKey, r) }
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathHello, call(s, func(h api.Hello) (any, int) {
		s.hellos = append(s.hellos, h)
		if len(s.tasks) == 0 {
			return api.Task{Kind: api.TaskReboot}, 200
		}
		t := s.tasks[0]
		s.tasks = s.tasks[1:]
		return t, 200
	}))
	mux.HandleFunc("POST "+api.PathProgress, call(s, func(p api.Progress) (any, int) {
		s.progress = append(s.progress, p)
		cancel := s.cancelAt != "" && p.Phase == s.cancelAt
		if cancel && s.letPass > 0 {
			s.letPass, cancel = s.letPass-1, false
		}
		return api.ProgressReply{Cancel: cancel}, 200
	}))
	mux.HandleFunc("POST "+api.PathDone, call(s, func(d api.Done) (any, int) {
		if id, err := chunk.ParseID(d.Manifest); err == nil && d.OK {
			if _, err := s.store.Publish(t.Context(), "golden", id); err != nil {
				t.Error(err)
			}
		}
		s.done = append(s.done, d)
		if s.answer == nil {
			return api.DoneReply{Action: "reboot"}, 200
		}
		r, status := s.answer(len(s.done))
		return r, status
	}))
	h := httpstore.Handler(s.store, httpstore.Limits{})
	mux.Handle(httpstore.Prefix, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.storeHook != nil && s.storeHook(w, r) {
			return
		}
		h.ServeHTTP(w, r)
	}))
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok" {
			http.Error(w, `{"code":"denied","message":"no such token"}`, http.StatusUnauthorized)
			return
		}
		s.mu.Lock()
		refuse := s.refuse
		s.mu.Unlock()
		if refuse != nil && refuse(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func call[In any](s *fakeServer, f func(In) (any, int)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		out, status := f(in)
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(out)
	}
}

func (s *fakeServer) pin() string {
	sum := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// config is an agent as a guest, for this server.
func (s *fakeServer) config(t *testing.T, images ...string) Config {
	return Config{Server: s.URL, Pin: s.pin(), Token: "tok", Node: "n01", BootID: "boot-1", Build: "b1", Version: "test", Images: images,
		Log: func(format string, args ...any) { t.Log(fmt.Sprintf(format, args...)) }}
}

// last returns the last Done.
func (s *fakeServer) last(t *testing.T) api.Done {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.done) == 0 {
		t.Fatal("the agent never said done")
	}
	return s.done[len(s.done)-1]
}

// phases lists the phases that were told, in order.
func (s *fakeServer) phases() (out []api.Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.progress {
		if len(out) == 0 || out[len(out)-1] != p.Phase {
			out = append(out, p.Phase)
		}
	}
	return out
}

// quick shortens the agent's waits for a test.
func quick(t *testing.T) {
	old := []time.Duration{firstWait, longWait, deniedFor, silentFor, shellEvery, reportMoving, reportStill}
	firstWait, longWait, deniedFor, silentFor, shellEvery = 20*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond, 2*time.Second, 20*time.Millisecond
	reportMoving, reportStill = 20*time.Millisecond, 60*time.Millisecond
	t.Cleanup(func() {
		firstWait, longWait, deniedFor, silentFor, shellEvery, reportMoving, reportStill = old[0], old[1], old[2], old[3], old[4], old[5], old[6]
	})
}

var _ store.Publisher = (*mem.Store)(nil)
