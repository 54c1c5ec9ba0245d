package hook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is somebody else's server. It answers with the statuses in turn, the last for ever.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	status []int
	got    []http.Header
	bodies []string
}

func newSink(t *testing.T, status ...int) *sink {
	r := &sink{status: status}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got, r.bodies = append(r.got, req.Header), append(r.bodies, string(b))
		s := r.status[0]
		if len(r.status) > 1 {
			r.status = r.status[1:]
		}
		w.WriteHeader(s)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *sink) tries() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

func open(t *testing.T) *inventory.DB {
	t.Helper()
	db, err := inventory.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// with tells hooks of jobs, and runs them until check is content, or five seconds are over.
func with(t *testing.T, o Options, told []Message, check func() bool) string {
	t.Helper()
	var log strings.Builder
	var mu sync.Mutex
	o.Log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), nil))
	o.Pause = func(int) time.Duration { return time.Millisecond }
	o.Client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	db, _ := o.Box.(*inventory.DB)
	if db == nil {
		db = open(t)
	}
	o.Box = db
	h := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	if err := db.Update(ctx, func(tx *inventory.Tx) error {
		for _, m := range told {
			if err := h.Keep(tx, m); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	h.Wake()
	for end := time.Now().Add(5 * time.Second); !check() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(30 * time.Millisecond) // whatever comes too much
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return log.String()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var (
	good = Job("job.done", api.Job{ID: "j1", Kind: api.TaskDeploy, Node: "n07", Image: "rocky9", Rev: 3, Phase: api.PhaseDone, Outputs: []api.Output{{Name: "long"}}})
	bad  = Job("job.failed", api.Job{ID: "j2", Kind: api.TaskCapture, Node: "n08", Image: "win11", Phase: api.PhaseFailed, Error: &api.Error{Code: "x", Message: "no disk"}})

	jobs = []string{"job.*"}
)

func TestWeb(t *testing.T) {
	all, failed, tired, gone := newSink(t, 200), newSink(t, 204), newSink(t, 503, 429, 200), newSink(t, 404)
	secret := []byte("a secret of some length")
	log := with(t, Options{Web: []Web{{URL: all.URL, Secret: secret, Events: jobs}, {URL: failed.URL, Events: []string{"job.failed"}}, {URL: tired.URL, Events: []string{"job.done"}}, {URL: gone.URL, Events: jobs}}},
		[]Message{good, bad}, func() bool { return all.tries() >= 2 && failed.tries() >= 1 && tired.tries() >= 3 && gone.tries() >= 2 })
	if all.tries() != 2 || failed.tries() != 1 || tired.tries() != 3 || gone.tries() != 2 {
		t.Errorf("%d, %d, %d and %d requests, want 2, 1, 3 and 2", all.tries(), failed.tries(), tired.tries(), gone.tries())
	}
	var m Message
	if err := json.Unmarshal([]byte(all.bodies[0]), &m); err != nil || m.Event != "job.done" || m.Job.ID != "j1" || m.Job.Node != "n07" || m.Version != 1 || m.Job.Outputs != nil {
		t.Errorf("%s: %v", all.bodies[0], err)
	}
	head := all.got[0]
	stamp, sum, _ := strings.Cut(strings.TrimPrefix(head.Get("Mimeo-Signature"), "t="), ",v1=")
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s", stamp, all.bodies[0])
	if sum != hex.EncodeToString(mac.Sum(nil)) || head.Get("Mimeo-Event") != "job.done" || head.Get("Mimeo-Delivery") != m.ID {
		t.Errorf("headers %v", head)
	}
	if failed.got[0].Get("Mimeo-Signature") != "" || !strings.Contains(failed.bodies[0], "no disk") {
		t.Errorf("%v %s", failed.got[0], failed.bodies[0])
	}
	if tired.got[0].Get("Mimeo-Delivery") != tired.got[2].Get("Mimeo-Delivery") {
		t.Error("a second try looks like another message")
	}
	if !strings.Contains(log, "404") || !strings.Contains(log, "tried again") {
		t.Errorf("the log has:\n%s", log)
	}
}

// TestDead has a receiver that is not there: the others do not wait for it, and the end does not either.
func TestDead(t *testing.T) {
	dead := newSink(t, 200)
	dead.Close()
	alive := newSink(t, 200)
	var many []Message
	for range most + 50 {
		many = append(many, good)
	}
	log := with(t, Options{Web: []Web{{URL: dead.URL, Events: jobs}, {URL: alive.URL, Events: jobs}}}, many, func() bool { return alive.tries() >= 100 })
	if alive.tries() < 100 || !strings.Contains(log, "too many wait") {
		t.Errorf("%d requests; the log has:\n%.2000s", alive.tries(), log)
	}
}

// TestRestart ends mimeod while a receiver is down and a program runs: both are told by the next one, in order and once.
func TestRestart(t *testing.T) {
	db := open(t)
	down := newSink(t, 503)
	folder := t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	script := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "10-hook"), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("echo started >>" + out + "; exec sleep 60")
	read := func() string { b, _ := os.ReadFile(out); return string(b) }
	o := Options{Box: db, Folder: folder, Events: jobs, Web: []Web{{URL: down.URL, Events: jobs}, {URL: "http://127.0.0.1:1/gone", Events: jobs}}}
	with(t, o, []Message{good, bad}, func() bool { return down.tries() > 0 && read() != "" })
	for n := -1; n != down.tries(); time.Sleep(200 * time.Millisecond) { // a request that was cut off may still come in
		n = down.tries()
	}
	first := down.got[0].Get("Mimeo-Delivery")

	script("echo $MIMEO_JOB >>" + out)
	up := newSink(t, 200)
	up.Config.Handler, down.Config.Handler = down.Config.Handler, up.Config.Handler // it is back, at the same address
	o.Web = o.Web[:1]
	log := with(t, o, nil, func() bool { return up.tries() >= 2 && strings.Contains(read(), "j2") })
	if read() != "started\nj1\nj2\n" {
		t.Errorf("the program said\n%s", read())
	}
	if up.tries() != 2 || up.got[0].Get("Mimeo-Delivery") != first || !strings.Contains(up.bodies[0], `"j1"`) || !strings.Contains(up.bodies[1], `"j2"`) {
		t.Errorf("after the restart: %q", up.bodies)
	}
	if !strings.Contains(log, "forgotten") || !strings.Contains(log, "messages=2") {
		t.Errorf("nothing is said of the receiver that is gone:\n%s", log)
	}
	with(t, o, nil, func() bool { return true })
	if up.tries() != 2 || read() != "started\nj1\nj2\n" {
		t.Error("they are told once more")
	}
}

func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("10-first", `echo "first $MIMEO_EVENT $MIMEO_JOB $MIMEO_KIND $MIMEO_NODE $MIMEO_IMAGE $MIMEO_REV $MIMEO_ERROR" >>`+out+"\ngrep -o '\"event\":\"[a-z.]*\"' >>"+out, 0o755)
	put("20-fails", "echo oh no >&2; exit 3", 0o755)
	put("30-last", "echo last >>"+out, 0o755)
	put("40-not-run", "echo wrong >>"+out, 0o644)
	put("50-anybody", "echo wrong >>"+out, 0o757)
	put(".hidden", "echo wrong >>"+out, 0o755)
	read := func() string { b, _ := os.ReadFile(out); return string(b) }
	log := with(t, Options{Folder: dir, Events: jobs}, []Message{good, bad}, func() bool { return strings.Count(read(), "last") == 2 })
	want := "first job.done j1 deploy n07 rocky9 3 \n\"event\":\"job.done\"\nlast\nfirst job.failed j2 capture n08 win11 0 no disk\n\"event\":\"job.failed\"\nlast\n"
	if read() != want {
		t.Errorf("got\n%swant\n%s", read(), want)
	}
	if !strings.Contains(log, "exit status 3: oh no") || !strings.Contains(log, "everybody may write") {
		t.Errorf("the log has:\n%s", log)
	}
	if log := with(t, Options{Folder: filepath.Join(dir, "none"), Events: jobs}, []Message{good}, func() bool { return true }); log != "" {
		t.Errorf("a folder that is not there: %s", log)
	}
}

// TestNode tells of nodes and images: signed, to those who want it, and after a restart.
func TestNode(t *testing.T) {
	db := open(t)
	down, some := newSink(t, 503), newSink(t, 200)
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	script := "#!/bin/sh\necho \"$MIMEO_EVENT,$MIMEO_JOB,$MIMEO_NODE,$MIMEO_IMAGE,$MIMEO_REV,$MIMEO_ADDR,$MIMEO_MAC,$MIMEO_TEXT,${MIMEO_ERROR-none}\" >>" + out + "\n"
	if err := os.WriteFile(filepath.Join(dir, "10-hook"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	read := func() string { b, _ := os.ReadFile(out); return string(b) }
	secret := []byte("a secret of some length")
	told := []Message{
		{Event: "node.discovered", Text: "a machine", Node: &Node{Addr: "10.0.0.9", MAC: "52:54:00:00:00:09"}},
		good,
		{Event: "node.power-failed", Text: "on: no answer", Node: &Node{Name: "n07"}},
		{Event: "image.removed", Text: "removed", Image: &Image{Name: "web", Rev: 2}},
	}
	o := Options{Box: db, Folder: dir, Events: []string{"node.*", "image.*"}, Web: []Web{{URL: down.URL, Secret: secret, Events: []string{"*"}}, {URL: some.URL, Events: []string{"job.failed", "node.power-*"}}}}
	with(t, o, told, func() bool {
		return down.tries() > 0 && some.tries() == 1 && strings.Count(read(), "\n") == 3
	})
	want := "node.discovered,,,,0,10.0.0.9,52:54:00:00:00:09,a machine,none\nnode.power-failed,,n07,,0,,,on: no answer,none\nimage.removed,,,web,2,,,removed,none\n"
	if read() != want {
		t.Errorf("the program was told\n%swant\n%s", read(), want)
	}
	if some.tries() != 1 || !strings.Contains(some.bodies[0], `"event":"node.power-failed","text":"on: no answer","node":{"name":"n07"}}`) {
		t.Errorf("%q", some.bodies)
	}
	up := newSink(t, 200)
	up.Config.Handler, down.Config.Handler = down.Config.Handler, up.Config.Handler // it is back, at the same address
	with(t, o, nil, func() bool { return up.tries() >= 4 })
	if up.tries() != 4 {
		t.Fatalf("%d messages after the restart: %q", up.tries(), up.bodies)
	}
	for i, body := range up.bodies {
		var m Message
		if err := json.Unmarshal([]byte(body), &m); err != nil || m.Event != told[i].Event || m.ID == "" || m.Version != 1 {
			t.Errorf("%s: %v", body, err)
		}
		stamp, sum, _ := strings.Cut(strings.TrimPrefix(up.got[i].Get("Mimeo-Signature"), "t="), ",v1=")
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%s", stamp, body)
		if sum != hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("%s: signature %q", m.Event, up.got[i].Get("Mimeo-Signature"))
		}
	}
}
