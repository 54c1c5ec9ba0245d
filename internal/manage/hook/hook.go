// Package hook tells others what became of jobs: by HTTP, and by programs of the site.
//
// docs/hooks.md describes what they get. What is to be told waits in memory, at most so much of it, and is tried again for an hour;
// what is left when mimeod ends is lost, as is said in the log.
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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/cluster/api"
)

// Version is that of the message.
const Version = 1

const (
	most    = 1000             // messages that wait for one receiver
	patient = time.Hour        // how long a message is tried
	answer  = 15 * time.Second // for one HTTP request
	runtime = time.Minute      // for one program
)

// Message is what is told.
type Message struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // the same in every try
	Time    time.Time `json:"time"`
	Event   string    `json:"event"` // job.done, job.failed, job.cancelled, job.lost
	Job     api.Job   `json:"job"`
}

// Web is a receiver by HTTP.
type Web struct {
	URL    string
	Secret []byte   // signs messages; empty means that they are not signed
	Events []string // which; empty means all
}

// Options of Hooks.
type Options struct {
	Web    []Web
	Folder string // of programs; it may be missing
	Log    *slog.Logger
	Client *http.Client                // nil means a plain one
	Pause  func(try int) time.Duration // between tries; nil means from a second on, doubled, at most five minutes
}

// Hooks tells. Make it with New, and call Run.
type Hooks struct {
	o      Options
	web    []chan Message
	folder chan Message
}

// New makes hooks.
func New(o Options) *Hooks {
	if o.Client == nil {
		o.Client = &http.Client{Timeout: answer, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if o.Pause == nil {
		o.Pause = func(try int) time.Duration { return min(time.Second<<min(try, 20), 5*time.Minute) }
	}
	h := &Hooks{o: o, folder: make(chan Message, most)}
	for range o.Web {
		h.web = append(h.web, make(chan Message, most))
	}
	return h
}

// Ended tells that a job has ended. It never waits.
func (h *Hooks) Ended(j api.Job) {
	if len(h.web) == 0 && h.o.Folder == "" {
		return
	}
	var id [12]byte
	rand.Read(id[:])
	j.Outputs = nil // long; "mimeo job show" has them
	m := Message{Version: Version, ID: hex.EncodeToString(id[:]), Time: time.Now().UTC(), Event: "job." + string(j.Phase), Job: j}
	for i, w := range h.o.Web {
		if len(w.Events) == 0 || slices.Contains(w.Events, m.Event) {
			h.put(h.web[i], m, w.URL)
		}
	}
	if h.o.Folder != "" {
		h.put(h.folder, m, h.o.Folder)
	}
}

func (h *Hooks) put(ch chan Message, m Message, to string) {
	select {
	case ch <- m:
	default:
		h.o.Log.Error("a hook is not called: too many wait for it", "to", to, "event", m.Event, "job", m.Job.ID)
	}
}

// Run tells until ctx is done.
func (h *Hooks) Run(ctx context.Context) error {
	var g errgroup.Group
	for i, w := range h.o.Web {
		g.Go(func() error {
			h.each(ctx, h.web[i], w.URL, func(m Message) { h.post(ctx, w, m) })
			return nil
		})
	}
	g.Go(func() error {
		h.each(ctx, h.folder, h.o.Folder, func(m Message) { h.run(ctx, m) })
		return nil
	})
	return g.Wait()
}

func (h *Hooks) each(ctx context.Context, ch chan Message, to string, do func(Message)) {
	for {
		select {
		case m := <-ch:
			do(m)
		case <-ctx.Done():
			if n := len(ch); n > 0 {
				h.o.Log.Error("hooks are not called any more", "to", to, "messages", n)
			}
			return
		}
	}
}

// post sends a message until it is taken, or an hour is over.
func (h *Hooks) post(ctx context.Context, w Web, m Message) {
	body, err := json.Marshal(m)
	if err != nil {
		h.o.Log.Error("a hook is not called", "to", w.URL, "err", err)
		return
	}
	end := time.Now().Add(patient)
	for try := 0; ; try++ {
		again, err := h.postOnce(ctx, w, m, body)
		if err == nil {
			return
		}
		pause := h.o.Pause(try)
		if !again || time.Now().Add(pause).After(end) {
			h.o.Log.Error("a hook was not taken", "to", w.URL, "event", m.Event, "job", m.Job.ID, "tries", try+1, "err", err)
			return
		}
		h.o.Log.Warn("a hook was not taken; it is tried again", "to", w.URL, "event", m.Event, "job", m.Job.ID, "in", pause, "err", err)
		select {
		case <-ctx.Done():
			h.o.Log.Error("a hook is not called any more", "to", w.URL, "event", m.Event, "job", m.Job.ID)
			return
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

// run runs the programs of the folder, one after the other, in the order of their names.
func (h *Hooks) run(ctx context.Context, m Message) {
	list, err := os.ReadDir(h.o.Folder)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			h.o.Log.Error("the folder of hooks cannot be read", "err", err)
		}
		return
	}
	body, err := json.Marshal(m)
	if err != nil {
		return
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
		if err := program(ctx, path, m, body); err != nil {
			h.o.Log.Error("a hook failed", "program", path, "event", m.Event, "job", m.Job.ID, "err", err)
		}
	}
}

// program runs a program with the message on its standard input, and what matters most of it in the environment.
func program(ctx context.Context, path string, m Message, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, runtime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "MIMEO_EVENT=" + m.Event, "MIMEO_ID=" + m.ID,
		"MIMEO_JOB=" + m.Job.ID, "MIMEO_KIND=" + string(m.Job.Kind), "MIMEO_NODE=" + string(m.Job.Node), "MIMEO_IMAGE=" + m.Job.Image, "MIMEO_REV=" + strconv.Itoa(m.Job.Rev)}
	if m.Job.Error != nil {
		cmd.Env = append(cmd.Env, "MIMEO_ERROR="+strings.ReplaceAll(m.Job.Error.Message, "\x00", " "))
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
