package agent

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
)

// All postscripts of a stateless system run, whatever became of those before, and the server hears of each.
func TestStatelessGoesOn(t *testing.T) {
	quick(t)
	script := func(name, text string) api.Postscript {
		return api.Postscript{Name: name, Content: []byte("#!/bin/sh\n" + text + "\n")}
	}
	s := newFakeServer(t, api.Task{Kind: api.TaskStateless, Node: "n01", RetryMS: 1,
		Pre:  []api.Postscript{script("bad", "echo no filer; exit 4"), script("good", "echo fine")},
		Post: []api.Postscript{{Name: "gone", Path: "/nonexistent/program"}, script("last", "echo $TASK")}})
	if _, err := Run(t.Context(), s.config(t, emptyDisk(t, 1))); err != nil {
		t.Fatal(err)
	}
	var outs, lines []string
	for _, p := range s.progress {
		for _, o := range p.Outputs {
			outs = append(outs, o.Name+": "+strings.TrimSpace(o.Output))
		}
		lines = append(lines, p.Log...)
	}
	if len(outs) != 4 || outs[0] != "bad: no filer" || outs[1] != "good: fine" || outs[3] != "last: stateless" {
		t.Errorf("outputs %q", outs)
	}
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "this stateless system is up; failed: ") }); i < 0 || !strings.Contains(lines[i], "bad") || !strings.Contains(lines[i], "gone") {
		t.Errorf("log %q", lines)
	}
}

// A system with an init of its own is rebooted by nobody: not by a server that says so, nor by one that knows its token
// no more.
func TestServiceNeverReboots(t *testing.T) {
	quick(t)
	old := stayWait
	stayWait = 50 * time.Millisecond
	t.Cleanup(func() { stayWait = old })
	s := newFakeServer(t) // has nothing but reboots
	ctx, stop := context.WithCancel(t.Context())
	said := 0
	s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		said++
		if said > 3 {
			http.Error(w, `{"code":"denied","message":"no"}`, http.StatusUnauthorized)
		}
		if said == 12 {
			stop()
		}
		return said > 3
	}
	c := s.config(t, emptyDisk(t, 1))
	ready := 0
	c.Service, c.Ready = true, func() { ready++ }
	action, err := Run(ctx, c)
	if action != ActionNone || !errors.Is(err, context.Canceled) || said < 12 || ready != 1 {
		t.Errorf("%s, %v after %d messages; ready %d times", action, err, said, ready)
	}
}

func TestAddKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "root", "authorized_keys")
	for _, keys := range [][]string{nil, {"ssh-ed25519 AAAA a"}, {"ssh-ed25519 AAAA a", "ssh-rsa BBBB b"}, {"ssh-rsa BBBB b"}} {
		if err := addKeys(file, keys); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil || string(b) != "ssh-ed25519 AAAA a\nssh-rsa BBBB b\n" {
		t.Errorf("%q, %v", b, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}
