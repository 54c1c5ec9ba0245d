package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/cluster/client"
)

// The test binary is mimeod itself where it is asked to be.
func TestMain(m *testing.M) {
	if os.Getenv("MIMEO_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func args(state string) []string {
	return []string{"--state", state, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"}
}

func TestErrorsAtStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("state: /x\ncolour: red\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	if err := os.WriteFile(wrong, []byte("# a comment\nlog: loud\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		want []string
	}{
		{"taken API port", []string{"--https", taken.Addr().String()}, nil, []string{"API port", "address already in use"}},
		{"taken boot port", []string{"--http", taken.Addr().String()}, nil, []string{"boot file port", "address already in use"}},
		{"no interface", []string{"--interface", "none0"}, nil, []string{"interface none0"}},
		{"no mode", []string{"--interface", "lo=maybe"}, nil, []string{"interfaces[0].dhcp"}},
		{"no store", []string{"--store", "s3:x"}, nil, []string{"store", "s3://BUCKET/PREFIX"}},
		{"an argument", []string{"start"}, nil, []string{"start"}},
		{"a key that is none", []string{"--config", bad}, nil, []string{"bad.yaml", "colour", "2"}},
		{"a line of the file", []string{"--config", wrong}, nil, []string{"wrong.yaml:2: log: ", "loud"}},
		{"a flag of two words", []string{"--log-level", "loud"}, nil, []string{"--log-level: log_level: ", "loud"}},
		{"the environment", nil, []string{"MIMEOD_LOG=loud"}, []string{"MIMEOD_LOG: log: "}},
		{"a variable that is none", nil, []string{"MIMEOD_COLOUR=red"}, []string{"MIMEOD_COLOUR"}},
		{"a file of the environment", nil, []string{"MIMEOD_CONFIG=" + wrong}, []string{"wrong.yaml:2"}},
		{"no file", []string{"--config", bad + "x"}, nil, []string{"bad.yamlx"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			var out bytes.Buffer
			err := run(ctx, append(args(t.TempDir()), tc.args...), tc.env, &out, &out)
			if err == nil || ctx.Err() != nil {
				t.Fatalf("it started: %v\n%s", err, &out)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q has no %q", err, w)
				}
			}
		})
	}
}

// lines is a process's output so far.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestSignalEndsIt(t *testing.T) {
	state := t.TempDir()
	start := func() (*exec.Cmd, *lines, *client.Client) {
		var out lines
		cmd := exec.Command(os.Args[0], args(state)...)
		cmd.Env = append(os.Environ(), "MIMEO_TEST_MAIN=1", "MIMEO_STATE="+state)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		for end := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), "none named"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it does not start:\n%s", &out)
			}
		}
		b, err := os.ReadFile(filepath.Join(state, "admin.json"))
		var a client.Access
		if err != nil || json.Unmarshal(b, &a) != nil {
			t.Fatal("admin.json: ", err)
		}
		return cmd, &out, client.New(a)
	}
	end := func(cmd *exec.Cmd, out *lines) {
		began := time.Now()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("it ended after %s with %v:\n%s", time.Since(began), err, out)
		}
	}
	cmd, out, c := start()
	if !strings.Contains(out.String(), "First start") {
		t.Errorf("first start says %s", out)
	}
	if err := c.Do(t.Context(), "GET", "/v1/status", nil, nil); err != nil {
		t.Error(err)
	}
	end(cmd, out)
	cmd, out, c = start()
	if strings.Contains(out.String(), "First start") {
		t.Error("the second start takes itself for the first")
	}
	if err := c.Do(t.Context(), "GET", "/v1/status", nil, nil); err != nil {
		t.Error(err)
	}
	end(cmd, out)
}
