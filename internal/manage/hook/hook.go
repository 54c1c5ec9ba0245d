// Package hook tells others what becomes of jobs, nodes and images: by HTTP, and by programs of the site.
//
// docs/hooks.md describes what they get. What is to be told is kept in the transaction in which it happens, at most so much of it, and is
// tried for an hour; it outlives mimeod.
package hook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Version is that of the message.
const Version = 1

const (
	most    = 1000             // messages that wait for one receiver
	patient = time.Hour        // how long a message is tried
	answer  = 15 * time.Second // for one HTTP request
	runtime = time.Minute      // for one program
)

// Message is what is told. Of Job, Node and Image it has what Event is about, and of a store none.
type Message struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // the same in every try
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`          // one of config.HookEvents
	Text    string    `json:"text,omitempty"` // what happened, in words; of jobs nothing
	Job     *api.Job  `json:"job,omitempty"`
	Node    *Node     `json:"node,omitempty"`
	Image   *Image    `json:"image,omitempty"`
}

// Node is a node that something happened to. One that was discovered has no name yet.
type Node struct {
	Name node.Name `json:"name,omitempty"`
	Addr string    `json:"addr,omitempty"` // where it asked from
	MAC  string    `json:"mac,omitempty"`
}

// Image is a revision that is new, or was removed.
type Image struct {
	Name string `json:"name"`
	Rev  int    `json:"rev"`
}

// Job makes a message of a job.
func Job(event string, j api.Job) Message {
	j.Outputs = nil // long; "mimeo job show" has them
	return Message{Event: event, Job: &j}
}

// about are the parts of a message, empty where it does not have one.
func (m Message) about() (j api.Job, n Node, im Image) {
	if m.Job != nil {
		j = *m.Job
		n.Name, im.Name, im.Rev = j.Node, j.Image, j.Rev
	}
	if m.Node != nil {
		n = *m.Node
	}
	if m.Image != nil {
		im = *m.Image
	}
	return j, n, im
}

// Web is a receiver by HTTP.
type Web struct {
	URL    string
	Secret []byte   // signs messages; empty means that they are not signed
	Events []string // which, as path.Match has patterns
}

// Box keeps messages until they are told. *inventory.DB is one.
type Box interface {
	NextHook(ctx context.Context, receiver string) (seq int64, message []byte, ok bool, err error) // the oldest
	DeleteHook(ctx context.Context, seq int64) error
	KeepHooks(ctx context.Context, receivers []string) (forgotten int64, err error) // those of others are forgotten
}

// Slot puts messages into a Box. *inventory.Tx is one.
type Slot interface {
	PutHook(receiver string, message []byte, most int) (kept bool, err error)
}

// Options of Hooks.
type Options struct {
	Box    Box
	Web    []Web    // no URL twice
	Folder string   // of programs; it may be missing
	Events []string // which are told to programs, likewise
	Log    *slog.Logger
	Client *http.Client                // nil means a plain one
	Pause  func(try int) time.Duration // between tries; nil means from a second on, doubled, at most five minutes
}

// receiver is one of those who are told.
type receiver struct {
	to   string                              // its URL or folder
	tell func(context.Context, Message) bool // false where ctx was done before it was told or given up
	wake chan struct{}                       // that there may be something to tell

	events   []string
	programs bool // it is the folder
}

// Hooks tells. Make it with New, and call Run.
type Hooks struct {
	o    Options
	list []receiver
}

// New makes hooks.
func New(o Options) *Hooks {
	if o.Client == nil {
		o.Client = &http.Client{Timeout: answer, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if o.Pause == nil {
		o.Pause = func(try int) time.Duration { return min(time.Second<<min(try, 20), 5*time.Minute) }
	}
	h := &Hooks{o: o}
	for _, w := range o.Web {
		h.list = append(h.list, receiver{w.URL, func(ctx context.Context, m Message) bool { return h.post(ctx, w, m) }, make(chan struct{}, 1), w.Events, false})
	}
	if o.Folder != "" {
		h.list = append(h.list, receiver{o.Folder, h.run, make(chan struct{}, 1), o.Events, true})
	}
	return h
}

// Keep keeps what is to be told, in the transaction in which it happens. Call Wake after that.
func (h *Hooks) Keep(slot Slot, m Message) error {
	var id [12]byte
	rand.Read(id[:])
	m.Version, m.ID, m.Time = Version, hex.EncodeToString(id[:]), time.Now().UTC()
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	j, n, _ := m.about()
	for _, r := range h.list {
		if !slices.ContainsFunc(r.events, func(pattern string) bool { ok, _ := path.Match(pattern, m.Event); return ok }) || r.programs && !hasPrograms(r.to) {
			continue
		}
		kept, err := slot.PutHook(r.to, b, most)
		if err != nil {
			return err
		}
		if !kept {
			h.o.Log.Error("a hook is not called: too many wait for it", "to", r.to, "event", m.Event, "job", j.ID, "node", n.Name)
		}
	}
	return nil
}

// hasPrograms tells whether there is a folder with anything in it.
func hasPrograms(folder string) bool {
	list, err := os.ReadDir(folder)
	return len(list) > 0 || err != nil && !errors.Is(err, os.ErrNotExist)
}

// Wake says that there may be something to tell. It never waits.
func (h *Hooks) Wake() {
	for _, r := range h.list {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// Run tells until ctx is done. What was not told by then is told by the next Run.
func (h *Hooks) Run(ctx context.Context) error {
	names := []string{}
	for _, r := range h.list {
		names = append(names, r.to)
	}
	if n, err := h.o.Box.KeepHooks(ctx, names); err != nil && ctx.Err() == nil {
		h.o.Log.Error("messages for hooks cannot be looked through", "err", err)
	} else if n > 0 {
		h.o.Log.Warn("messages for hooks are forgotten: the configuration names their receivers no more", "messages", n)
	}
	var g errgroup.Group
	for _, r := range h.list {
		g.Go(func() error { h.each(ctx, r); return nil })
	}
	return g.Wait()
}

// each tells a receiver all that waits for it, in order.
func (h *Hooks) each(ctx context.Context, r receiver) {
	for ctx.Err() == nil {
		seq, b, ok, err := h.o.Box.NextHook(ctx, r.to)
		if err == nil && ok {
			var m Message
			if err := json.Unmarshal(b, &m); err != nil {
				h.o.Log.Error("a hook is not called: its message cannot be read", "to", r.to, "err", err)
			} else if !r.tell(ctx, m) {
				return
			}
			// Also when mimeod is about to end: what was told is not to be told twice.
			err = h.o.Box.DeleteHook(context.WithoutCancel(ctx), seq)
		}
		if err == nil && ok {
			continue
		}
		pause := time.Hour
		if err != nil && ctx.Err() == nil {
			h.o.Log.Error("messages for a hook cannot be read", "to", r.to, "err", err)
			pause = time.Minute
		}
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-time.After(pause):
		}
	}
}

// post sends a message until it is taken, or an hour is over. It returns false where ctx was done before.
func (h *Hooks) post(ctx context.Context, w Web, m Message) bool {
	body, err := json.Marshal(m)
	if err != nil {
		h.o.Log.Error("a hook is not called", "to", w.URL, "err", err)
		return true
	}
	j, n, _ := m.about()
	end := time.Now().Add(patient)
	for try := 0; ; try++ {
		again, err := h.postOnce(ctx, w, m, body)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		pause := h.o.Pause(try)
		if !again || time.Now().Add(pause).After(end) {
			h.o.Log.Error("a hook was not taken", "to", w.URL, "event", m.Event, "job", j.ID, "node", n.Name, "tries", try+1, "err", err)
			return true
		}
		h.o.Log.Warn("a hook was not taken; it is tried again", "to", w.URL, "event", m.Event, "job", j.ID, "node", n.Name, "in", pause, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// postOnce sends a message. again says whether it is worth another try.
func (h *Hooks) postOnce(ctx context.Context, w Web, m Message, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "mimeod")
	req.Header.Set("Mimeo-Event", m.Event)
	req.Header.Set("Mimeo-Delivery", m.ID)
	if len(w.Secret) > 0 {
		req.Header.Set("Mimeo-Signature", Sign(w.Secret, time.Now(), body))
	}
	resp, err := h.o.Client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	return resp.StatusCode/100 == 5 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout, fmt.Errorf("it answered %s", resp.Status)
}

// Sign makes the signature of a message: "t=UNIX,v1=HEX", HEX being the HMAC-SHA-256 of "UNIX.BODY".
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	io.WriteString(mac, t+".")
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// run runs the programs of the folder, one after the other, in the order of their names. It returns false where ctx was done before the
// last had ended: all are run again then.
func (h *Hooks) run(ctx context.Context, m Message) bool {
	list, err := os.ReadDir(h.o.Folder)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			h.o.Log.Error("the folder of hooks cannot be read", "err", err)
		}
		return true
	}
	body, err := json.Marshal(m)
	if err != nil {
		return true
	}
	for _, d := range list {
		path := filepath.Join(h.o.Folder, d.Name())
		st, err := os.Stat(path)
		switch {
		case err != nil || strings.HasPrefix(d.Name(), ".") || !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
			continue
		case st.Mode()&0o002 != 0:
			h.o.Log.Error("a hook is not run: everybody may write to it", "program", path)
			continue
		}
		err = program(ctx, path, m, body)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			h.o.Log.Error("a hook failed", "program", path, "event", m.Event, "err", err)
		}
	}
	return true
}

// program runs a program with the message on its standard input, and what matters most of it in the environment.
func program(ctx context.Context, path string, m Message, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, runtime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	j, n, im := m.about()
	text := m.Text
	if j.Error != nil {
		text = j.Error.Message
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "MIMEO_EVENT=" + m.Event, "MIMEO_ID=" + m.ID,
		"MIMEO_JOB=" + j.ID, "MIMEO_KIND=" + string(j.Kind), "MIMEO_NODE=" + string(n.Name), "MIMEO_IMAGE=" + im.Name, "MIMEO_REV=" + strconv.Itoa(im.Rev),
		"MIMEO_ADDR=" + n.Addr, "MIMEO_MAC=" + n.MAC, "MIMEO_TEXT=" + strings.ReplaceAll(text, "\x00", " ")}
	if j.Error != nil {
		cmd.Env = append(cmd.Env, "MIMEO_ERROR="+strings.ReplaceAll(j.Error.Message, "\x00", " "))
	}
	cmd.Stdin = bytes.NewReader(body)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	both := &limited{&out}
	cmd.Stdout, cmd.Stderr = both, both
	err := cmd.Run()
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("it took longer than %v", runtime)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// limited keeps the first 4 KiB of what a program says.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, 4096-l.b.Len()))])
	return len(p), nil
}
