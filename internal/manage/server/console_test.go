package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/transcript"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

// consoleRig is a rig whose n3 has a virtual BMC.
type consoleRig struct {
	*rig
	bmc  *vbmc.BMC
	port *powertest.Port
}

func startConsole(t *testing.T) *consoleRig {
	t.Helper()
	r := &consoleRig{bmc: vbmc.New(powertest.NewMachine(), "ops", "secret"), port: powertest.NewPort()}
	r.bmc.Serial = r.port.Open
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.bmc.ServeIPMI(ctx, pc) }()
	t.Cleanup(func() { cancel(); <-done })
	r.rig = start(t)
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: "n3", PerNode: map[node.Name]map[string]string{"n3": {"mac": "52:54:00:00:00:03", "bmc": "ipmi://" + pc.LocalAddr().String(), "bmc.user": "ops", "bmc.password": "secret"}}}, nil)
	return r
}

// attached is a client at a console.
type attached struct {
	t     *testing.T
	conn  io.ReadWriteCloser
	r     *bufio.Reader
	hello api.ConsoleHello
	past  string
}

func (r *consoleRig) as(token string) *client.Client {
	return client.New(client.Access{Server: "https://" + r.https.Addr().String(), Pin: r.pin, Token: token})
}

func (r *consoleRig) attach(c *client.Client, method, query string) *attached {
	r.t.Helper()
	conn, err := c.Upgrade(r.t.Context(), method, "/v1/nodes/n3/console"+query, api.ConsoleProtocol)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	a := &attached{t: r.t, conn: conn, r: bufio.NewReader(conn)}
	kind, b, err := api.ReadFrame(a.r, api.MaxFrame)
	if err != nil || kind != api.FrameHello || json.Unmarshal(b, &a.hello) != nil {
		r.t.Fatalf("the first frame is %c %q, %v", kind, b, err)
	}
	kind, b, err = api.ReadFrame(a.r, api.MaxFrame)
	if a.past = string(b); err != nil || kind != api.FramePast {
		r.t.Fatalf("the second frame is %c %q, %v", kind, b, err)
	}
	return a
}

// shows reads until a text comes, in what the node sends or in a note.
func (a *attached) shows(text string) {
	a.t.Helper()
	got := ""
	late := time.AfterFunc(20*time.Second, func() { a.conn.Close() })
	defer late.Stop()
	for !strings.Contains(got, text) {
		kind, b, err := api.ReadFrame(a.r, api.MaxFrame)
		if err != nil {
			a.t.Fatalf("waited for %q, got %q: %v", text, got, err)
		}
		if kind != api.FrameAlive {
			got += string(b)
		}
	}
}

func (a *attached) types(text string) {
	a.t.Helper()
	if err := api.WriteFrame(a.conn, api.FrameIn, []byte(text)); err != nil {
		a.t.Fatal(err)
	}
}

func TestConsole(t *testing.T) {
	r := startConsole(t)
	a := r.attach(r.admin, http.MethodPost, "")
	if a.hello.Node != "n3" || !a.hello.Write || a.hello.Way != "IPMI Serial over LAN" {
		t.Errorf("hello %+v", a.hello)
	}
	r.port.Print([]byte("login: "))
	a.shows("login: ")
	a.types("root\x00\xff\r")
	r.port.Typed(t, 7)

	// A viewer may watch, and only that.
	viewer := r.as(r.viewer("viewer"))
	var e *api.Error
	if _, err := viewer.Upgrade(t.Context(), http.MethodPost, "/v1/nodes/n3/console?share=1", api.ConsoleProtocol); !errors.As(err, &e) || e.Code != "forbidden" {
		t.Errorf("a viewer who types: %v", err)
	}
	w := r.attach(viewer, http.MethodGet, "")
	if w.hello.Write || w.past != "login: " || fmt.Sprint(w.hello.Others) != "[admin from 127.0.0.1]" {
		t.Errorf("hello %+v, past %q", w.hello, w.past)
	}
	w.types("rm -rf /\r")
	w.shows("attached to watch")
	a.shows("some viewer from 127.0.0.1 attached, to watch")

	// What is no frame ends the connection of who sent it, and nothing else.
	bad := r.attach(r.admin, http.MethodPost, "?share=1")
	bad.conn.Write([]byte{byte(api.FrameIn), 0xff, 0xff, 0xff, 'x'})
	io.Copy(io.Discard, bad.r)
	odd := r.attach(r.admin, http.MethodPost, "?share=1")
	api.WriteFrame(odd.conn, 'Z', []byte("of a later version"))
	api.WriteFrame(odd.conn, api.FrameBreak, nil)
	r.until("a break", func() bool { return r.bmc.Breaks() == 1 })
	if got := r.port.Typed(t, 7); string(got) != "root\x00\xff\r" {
		t.Errorf("typed %q", got)
	}
	for _, c := range []struct{ method, path, code, text string }{
		{"GET", "/v1/nodes/n3/console", "bad_request", "Upgrade: mimeo-console/1"},
		{"GET", "/v1/nodes/n9/console", "not_found", "n9"},
		{"GET", "/v1/nodes/n9/console/log", "not_found", "n9"},
		{"GET", "/v1/nodes/n3/console/log?since=noon", "bad_request", "noon"},
	} {
		r.fails(c.method, c.path, nil, c.code, c.text)
	}
	if _, err := r.admin.Upgrade(t.Context(), http.MethodPost, "/v1/nodes/n1/console", api.ConsoleProtocol); !errors.As(err, &e) || e.Code != "by_hand" {
		t.Errorf("a node without a BMC: %v", err)
	}
}

// A BMC that restarts costs a gap, and the log says so.
func TestConsoleAfterBMCRestart(t *testing.T) {
	r := startConsole(t)
	a := r.attach(r.admin, http.MethodPost, "")
	r.port.Print([]byte("before\r\n"))
	a.shows("before")
	r.bmc.LoseSessions()
	a.types("x") // so that it shows at once
	a.shows("the line is lost, and will be opened again")
	a.shows("the line is open")
	r.port.Print([]byte("after\r\n"))
	a.shows("after")
	a.types("y")
	a.conn.Close()
	r.until("it left", func() bool {
		var events []api.Event
		r.must("GET", "/v1/nodes/n3/events", nil, &events)
		return len(events) > 0 && events[len(events)-1].Kind == "console" && events[len(events)-1].Text == "serial console: admin left"
	})
	var log strings.Builder
	if err := r.admin.Download(t.Context(), "/v1/nodes/n3/console/log", &log); err != nil {
		t.Fatal(err)
	}
	text := ""
	in := transcript.NewReader(strings.NewReader(log.String()))
	for {
		rec, err := in.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		text += string(rec.Data) + "|"
	}
	for _, want := range []string{"before", "the line is lost", "does not answer any more", "the line is open", "after"} {
		i := strings.Index(text, want)
		if i < 0 {
			t.Fatalf("the log has no %q after that: %q", want, text)
		}
		text = text[i:]
	}
}
