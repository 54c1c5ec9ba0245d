package postscript

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func script(name, text string) api.Postscript {
	return api.Postscript{Name: name, Content: []byte("#!/bin/sh\n" + text + "\n")}
}

func TestInOrderWithTheirEnvironment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "post")
	file := filepath.Join(t.TempDir(), "on-a-mount")
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho from a mount; pwd\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var told []string
	t.Setenv("SECRET", "of the agent")
	outs, err := Run(t.Context(), []api.Postscript{
		script("one", `echo "$NODE in $IMAGE, secret: ${SECRET-none}, $PATH" >&2; echo out`),
		{Name: "two", Path: file},
		{Name: "three/../x y", Content: []byte("#!/usr/bin/env perl\nprint qq(perl\\xff\\n);\n")},
	}, Options{Stage: api.PhasePre, Dir: dir, Env: map[string]string{"NODE": "n01", "IMAGE": "rocky 9", "BAD=KEY": "x"},
		Ended: func(o api.Output) { told = append(told, o.Name) }})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"n01 in rocky 9, secret: none, /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nout\n", "from a mount\n" + dir + "\n", "perl\uFFFD\n"}
	for i, o := range outs {
		if o.Output != want[i] || o.Exit != 0 || o.Stage != api.PhasePre {
			t.Errorf("%s: %+v", o.Name, o)
		}
	}
	if fmt.Sprint(told) != "[one two three/../x y]" {
		t.Errorf("told %q", told)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAFailureStopsTheRest(t *testing.T) {
	outs, err := Run(t.Context(), []api.Postscript{script("good", "true"), script("bad", "echo no licence; exit 7"), script("never", "true")}, Options{Dir: t.TempDir()})
	var e *Error
	if !errors.As(err, &e) || e.Name != "bad" || e.Exit != 7 || e.Output.Output != "no licence\n" || len(outs) != 2 {
		t.Errorf("%v, %+v", err, outs)
	}
}

func TestWhatCannotRun(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for what, p := range map[string]api.Postscript{
		"interpreter": {Name: "a", Content: []byte("#!/no/such/shell\n")},
		"#!":          {Name: "b", Path: plain},
		"no such":     {Name: "c", Path: filepath.Join(dir, "missing")},
		"absolute":    {Name: "d", Path: "relative"},
		"killed":      script("e", "kill -9 $$"),
	} {
		outs, err := Run(t.Context(), []api.Postscript{p}, Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), what) || len(outs) != 1 || outs[0].Exit != -1 || outs[0].Output == "" {
			t.Errorf("%s: %v, %+v", what, err, outs)
		}
	}
}

// alive tells whether a process that is no zombie has this text in its command line.
func alive(text string) bool {
	out, _ := exec.Command("ps", "-eo", "stat,args").Output()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, text) && !strings.HasPrefix(line, "Z") && !strings.Contains(line, "ps -eo") {
			return true
		}
	}
	return false
}

func TestTimeoutEndsTheWholeGroup(t *testing.T) {
	began := time.Now()
	p := script("slow", "echo begun; sleep 61.7531 & sleep 61.7531; echo never")
	p.TimeoutMS = 300
	outs, err := Run(t.Context(), []api.Postscript{p}, Options{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "limit of 300ms") || outs[0].Exit != -1 || outs[0].Output != "begun\n" {
		t.Errorf("%v, %+v", err, outs)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if alive("sleep 61.7531") {
		t.Error("a child is still there")
	}
}

func TestCancelEndsOneThatWillNot(t *testing.T) {
	errStop := errors.New("the job was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { cancel(errStop) })
	outs, err := Run(ctx, []api.Postscript{script("deaf", `trap "" TERM; while :; do sleep 0.05; done`), script("never", "true")}, Options{Dir: t.TempDir()})
	if !errors.Is(err, errStop) || len(outs) != 1 {
		t.Errorf("%v, %+v", err, outs)
	}
	if _, err := Run(ctx, []api.Postscript{script("never", "true")}, Options{Dir: t.TempDir()}); !errors.Is(err, errStop) {
		t.Errorf("after the cancel: %v", err)
	}
}

// A daemon that a postscript leaves behind with its output open must not hold up the rest.
func TestLeftBehind(t *testing.T) {
	began := time.Now()
	outs, err := Run(t.Context(), []api.Postscript{script("daemon", "setsid sleep 62.7531 & echo started")}, Options{Dir: t.TempDir()})
	if err != nil || outs[0].Output != "started\n" || time.Since(began) > 10*time.Second {
		t.Errorf("%v, %+v, %v", err, outs, time.Since(began))
	}
	out, _ := exec.Command("pgrep", "-f", "^sleep 62.7531$").Output()
	for f := range strings.FieldsSeq(string(out)) {
		var pid int
		if _, err := fmt.Sscan(f, &pid); err == nil {
			syscall.Kill(pid, syscall.SIGKILL) // the one that this test started
		}
	}
}

func TestOnlyTheEndOfLongOutput(t *testing.T) {
	outs, err := Run(t.Context(), []api.Postscript{script("loud", `i=0; while [ $i -lt 40000 ]; do echo "line $i"; i=$((i+1)); done`)}, Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	o := outs[0].Output
	if len(o) != MaxOutput || !strings.HasSuffix(o, "line 39999\n") {
		t.Errorf("%d bytes, ending %q", len(o), o[max(len(o)-20, 0):])
	}
}

func TestInAnotherRoot(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"bin", "post"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox") // busybox-static: it needs no libraries
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", busybox, filepath.Join(root, "bin/sh")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	outs, err := Run(t.Context(), []api.Postscript{script("inside", `cd /; echo *; echo $NODE >/made`)}, Options{Root: root, Dir: "/post", Env: map[string]string{"NODE": "n01"}})
	if err != nil || outs[0].Output != "bin post\n" {
		t.Errorf("%v, %+v", err, outs)
	}
	if b, err := os.ReadFile(filepath.Join(root, "made")); string(b) != "n01\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A program that lies on a mount runs in the folder for postscripts even where none was put there before.
func TestPathRunsInNewDir(t *testing.T) {
	program := filepath.Join(t.TempDir(), "where.sh")
	if err := os.WriteFile(program, []byte("#!/bin/sh\npwd\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	outs, err := Run(t.Context(), []api.Postscript{{Name: "where", Path: program}}, Options{Stage: api.PhasePre, Dir: dir})
	if err != nil || len(outs) != 1 || strings.TrimSpace(outs[0].Output) != dir {
		t.Errorf("%+v, %v", outs, err)
	}
}
