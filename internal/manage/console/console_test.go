package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/transcript"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a machine with one serial line.
type fake struct {
	mu     sync.Mutex
	line   *fakeLine // that is open
	fail   error     // of Dial without force
	dials  int
	opened int // lines that are open at once, at most one
	most   int
}

type fakeLine struct {
	f    *fake
	out  chan []byte
	end  chan error
	once sync.Once
	mu   sync.Mutex
	in   []byte
	brk  int
}

func (f *fake) String() string { return "a fake" }

func (f *fake) Dial(ctx context.Context, force bool) (Line, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials++
	if f.fail != nil && !force {
		return nil, f.fail
	}
	f.opened++
	f.most = max(f.most, f.opened)
	f.line = &fakeLine{f: f, out: make(chan []byte), end: make(chan error, 1)}
	return f.line, nil
}

func (l *fakeLine) Receive(ctx context.Context) ([]byte, string, error) {
	select {
	case b := <-l.out:
		return b, "", nil
	case err := <-l.end:
		return nil, "", err
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

func (l *fakeLine) Send(_ context.Context, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in = append(l.in, b...)
	return nil
}

func (l *fakeLine) Break(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.brk++
	return nil
}

func (l *fakeLine) Close() error {
	l.once.Do(func() {
		l.f.mu.Lock()
		l.f.opened--
		l.f.mu.Unlock()
	})
	return nil
}

// current waits for an open line.
func (f *fake) current(t *testing.T) (l *fakeLine) {
	t.Helper()
	until(t, "a line", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		l = f.line
		return f.opened == 1
	})
	return l
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: ", what)
		}
	}
}

// kept is a keeper with a node n1, and what happened.
type kept struct {
	*Keeper
	t *testing.T
	f *fake

	mu     sync.Mutex
	nodes  []node.Node
	events []string
	stop   func()
}

func keep(t *testing.T, dir, policy string, labels map[string]string) *kept {
	t.Helper()
	r := &kept{t: t, f: &fake{}, nodes: []node.Node{{Name: "n1", BMC: node.BMC{URL: "ipmi://10.0.9.1"}, Labels: labels}, {Name: "n2"}}}
	r.Keeper = New(Options{Dir: dir, Policy: policy, Size: 4096, Keep: 2, Retry: 5 * time.Millisecond, Poll: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Nodes: func(context.Context) ([]node.Node, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return append([]node.Node(nil), r.nodes...), nil
		},
		Open: func(context.Context, node.Node, Way) (Way, error) { return r.f, nil },
		Event: func(n node.Name, addr, text string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, fmt.Sprintf("%s %s %s", n, addr, text))
		}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *kept) n1() node.Node { r.mu.Lock(); defer r.mu.Unlock(); return r.nodes[0] }

func (r *kept) attach(o Attach) *Viewer {
	r.t.Helper()
	v, err := r.Attach(r.t.Context(), r.n1(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(v.Close)
	return v
}

// reads waits until the viewer has got a text, and returns all that it got.
func reads(t *testing.T, v *Viewer, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var got strings.Builder
	for !strings.Contains(got.String(), text) {
		m, err := v.Next(ctx)
		if err != nil {
			t.Fatalf("waited for %q, got %q: %v", text, got.String(), err)
		}
		got.Write(m.Data)
		if m.Note != "" {
			fmt.Fprintf(&got, "[%s]", m.Note)
		}
		if m.Skipped > 0 {
			fmt.Fprintf(&got, "[skipped %d]", m.Skipped)
		}
	}
	return got.String()
}

// logged is the node's log as text.
func logged(t *testing.T, dir string, since time.Time) string {
	t.Helper()
	var out strings.Builder
	err := ReadLog(t.Context(), filepath.Join(dir, "n1"), since, func(r transcript.Record) error {
		if r.Kind == transcript.Note {
			fmt.Fprintf(&out, "[%s]", r.Data)
		} else {
			out.Write(r.Data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestManyLook(t *testing.T) {
	dir := t.TempDir()
	r := keep(t, dir, LogAttached, nil)
	ann := r.attach(Attach{Who: "ann", Addr: "10.0.0.1", Write: true})
	r.f.current(t).out <- []byte("login: ")
	reads(t, ann, "login: ")
	bob := r.attach(Attach{Who: "bob"})
	if string(bob.Past) != "login: " || len(bob.Others) != 1 || bob.Others[0] != "ann from 10.0.0.1" || bob.Way != "a fake" {
		t.Errorf("bob sees %q, %q, %q", bob.Past, bob.Others, bob.Way)
	}
	if got := reads(t, ann, "bob attached"); !strings.Contains(got, "to watch") {
		t.Errorf("ann is told %q", got)
	}
	var e *api.Error
	if _, err := r.Attach(t.Context(), r.n1(), Attach{Who: "cy", Write: true}); !errors.As(err, &e) || e.Code != "conflict" || !strings.Contains(e.Message, "ann from 10.0.0.1 types") {
		t.Errorf("a second who types: %v", err)
	}
	cy := r.attach(Attach{Who: "cy", Write: true, Share: true})
	if err := errors.Join(ann.Send(t.Context(), []byte("ro")), cy.Send(t.Context(), []byte("ot\r")), cy.Send(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if err := bob.Send(t.Context(), []byte("x")); err == nil {
		t.Error("who watches can type")
	}
	l := r.f.current(t)
	if string(l.in) != "root\r" || l.brk != 1 {
		t.Errorf("typed %q, %d breaks", l.in, l.brk)
	}
	l.out <- []byte("Password: ")
	for _, v := range []*Viewer{ann, bob, cy} {
		reads(t, v, "Password: ")
		v.Close()
	}
	until(t, "the line closes when all have left", func() bool { r.f.mu.Lock(); defer r.f.mu.Unlock(); return r.f.opened == 0 })
	r.stop()
	if r.f.most != 1 || r.f.dials != 1 {
		t.Errorf("%d lines at once, %d in all", r.f.most, r.f.dials)
	}
	if got := logged(t, dir, time.Time{}); got != "[the line is open, by a fake]login: [bob attached, to watch][cy attached]Password: [ann from 10.0.0.1 left][bob left][cy left]" {
		t.Errorf("logged %q", got)
	}
	if all := strings.Join(r.events, "\n"); strings.Count(all, "attached") != 3 || strings.Count(all, "left") != 3 || !strings.Contains(all, "n1 10.0.0.1 serial console: ann attached") {
		t.Errorf("events:\n%s", all)
	}
	// Who comes later is shown what came last, from the log.
	r = keep(t, dir, LogAttached, nil)
	if late := r.attach(Attach{Who: "dee"}); string(late.Past) != "login: Password: " {
		t.Errorf("dee sees %q", late.Past)
	}
}

func TestLineIsLost(t *testing.T) {
	dir := t.TempDir()
	r := keep(t, dir, LogAttached, nil)
	v := r.attach(Attach{Who: "ann", Write: true})
	l := r.f.current(t)
	r.f.mu.Lock()
	r.f.fail = errors.New("the BMC does not answer")
	r.f.mu.Unlock()
	l.end <- errors.New("the BMC restarts")
	reads(t, v, "lost, and will be opened again: the BMC restarts")
	if err := v.Send(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	reads(t, v, "what was typed is lost")
	r.f.mu.Lock()
	r.f.fail = nil
	r.f.mu.Unlock()
	reads(t, v, "the line is open")
	r.f.current(t).out <- []byte("back")
	reads(t, v, "back")
	// Another BMC means another line.
	before := r.f.current(t)
	r.mu.Lock()
	r.nodes[0].BMC.URL = "ipmi://10.0.9.2"
	r.mu.Unlock()
	reads(t, v, "its BMC was changed")
	until(t, "another line", func() bool { return r.f.current(t) != before })
	// A node that is removed has no viewers.
	r.mu.Lock()
	r.nodes = r.nodes[1:]
	r.mu.Unlock()
	for {
		if _, err := v.Next(t.Context()); err != nil {
			var e *api.Error
			if !errors.As(err, &e) || e.Code != "not_found" {
				t.Errorf("a removed node: %v", err)
			}
			break
		}
	}
	if got := logged(t, dir, time.Time{}); !strings.Contains(got, "[the line is lost, and will be opened again: the BMC restarts][the line is open, by a fake]back") {
		t.Errorf("logged %q", got)
	}
}

func TestCannotAttach(t *testing.T) {
	r := keep(t, t.TempDir(), LogAttached, nil)
	r.f.fail = &api.Error{Code: "conflict", Message: "another has it", Hint: "--force"}
	var e *api.Error
	if _, err := r.Attach(t.Context(), r.n1(), Attach{Who: "ann", Write: true}); !errors.As(err, &e) || e.Code != "conflict" || e.Hint != "--force" || !strings.HasPrefix(err.Error(), "n1: ") {
		t.Errorf("a line that another has: %v", err)
	}
	r.attach(Attach{Who: "ann", Write: true, Force: true}).Close()
	for _, n := range []node.Node{{Name: "n2"}, {Name: "n3", BMC: node.BMC{URL: "wol:"}}, {Name: "n4", BMC: node.BMC{URL: "exec:pdu"}}} {
		if _, err := r.Attach(t.Context(), n, Attach{Who: "ann"}); !errors.As(err, &e) || e.Code != "by_hand" || e.Hint == "" {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
	if all := strings.Join(r.events, "\n"); strings.Count(all, "attached") != 1 {
		t.Errorf("events:\n%s", all)
	}
}

func TestSlowReader(t *testing.T) {
	dir := t.TempDir()
	r := keep(t, dir, LogAttached, nil)
	slow := r.attach(Attach{Who: "slow"})
	l := r.f.current(t)
	total := 0
	for i := range 600 {
		b := []byte(fmt.Sprintf("%06d ", i) + strings.Repeat("x", 1000) + "\n")
		l.out <- b
		total += len(b)
	}
	l.out <- []byte("the end")
	until(t, "the end", func() bool { slow.mu.Lock(); defer slow.mu.Unlock(); return slow.size > maxQueue-2000 })
	var got []byte
	var skipped int64
	for !bytes.HasSuffix(got, []byte("the end")) {
		m, err := slow.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, skipped = append(got, m.Data...), skipped+m.Skipped
	}
	if want := int64(total + 7); int64(len(got))+skipped != want || len(got) > maxQueue || len(got) < maxQueue/2 {
		t.Errorf("%d bytes read and %d skipped of %d", len(got), skipped, want)
	}
	slow.Close()
	r.stop()
	// The log was rotated meanwhile: it has the end, unbroken, and as many files as it shall.
	text := logged(t, dir, time.Time{})
	if !strings.Contains(text, "000599 ") || !strings.HasSuffix(strings.Split(text, "[")[0], "the end") {
		t.Errorf("the log ends with %q", text[max(0, len(text)-80):])
	}
	files, _ := oldFiles(filepath.Join(dir, "n1"))
	if len(files) != 2 {
		t.Errorf("old files: %q", files)
	}
	for _, f := range files {
		if !strings.HasSuffix(f, ".gz") {
			t.Errorf("%s is not compressed", f)
		}
	}
}

func TestAlwaysLogged(t *testing.T) {
	dir := t.TempDir()
	r := keep(t, dir, LogNone, map[string]string{node.LabelConsoleLog: LogAll})
	r.f.current(t).out <- []byte("nobody looks")
	until(t, "it is logged", func() bool { return strings.Contains(logged(t, dir, time.Time{}), "nobody looks") })
	// By a viewer's coming and going nothing changes.
	r.attach(Attach{Who: "ann"}).Close()
	r.f.current(t).out <- []byte(" at all")
	until(t, "it is logged", func() bool { return strings.HasSuffix(logged(t, dir, time.Time{}), " at all") })
	mark := time.Now()
	r.f.current(t).out <- []byte("later")
	until(t, "it is logged", func() bool { return logged(t, dir, mark) == "later" })
	r.mu.Lock()
	r.nodes[0].Labels = nil
	r.mu.Unlock()
	until(t, "the line closes", func() bool { r.f.mu.Lock(); defer r.f.mu.Unlock(); return r.f.opened == 0 })
	r.attach(Attach{Who: "ann"})
	r.f.current(t).out <- []byte("SECRET")
	time.Sleep(20 * time.Millisecond)
	if got := logged(t, dir, time.Time{}); strings.Contains(got, "SECRET") || r.f.most != 1 {
		t.Errorf("logged %q, %d lines at once", got, r.f.most)
	}
}

// A log whose last record was cut off, as by a power cut, goes on behind the one before.
func TestLogGoesOn(t *testing.T) {
	dir := t.TempDir()
	write := func(texts ...string) {
		l, err := openLog(dir, 1<<20, 2, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		for _, s := range texts {
			if err := l.add(transcript.Record{Kind: transcript.Output, Time: time.Now(), Data: []byte(s)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func() (out string) {
		ReadLog(t.Context(), dir, time.Time{}, func(r transcript.Record) error { out += string(r.Data); return nil })
		return out
	}
	write("one ", "two ")
	f := filepath.Join(dir, current)
	st, _ := os.Stat(f)
	os.Truncate(f, st.Size()-3)
	write("three ")
	if got := read(); got != "one three " {
		t.Errorf("after a cut: %q", got)
	}
	os.WriteFile(f, bytes.Repeat([]byte("no transcript"), 20), 0o600)
	write("four")
	if got := read(); !strings.Contains(got, "is damaged") || !strings.HasSuffix(got, "four") {
		t.Errorf("after another file: %q", got)
	}
	if st, _ := os.Stat(f); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}
