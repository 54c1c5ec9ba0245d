package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/transcript"
	"mimeo/internal/manage/console"
	"mimeo/internal/manage/console/dial"
)

// consolePatience is how long a client may stop reading before it is let go: somebody who stopped their terminal to read.
const consolePatience = 15 * time.Minute

// newConsoles makes the keeper of the nodes' serial consoles.
func (s *Server) newConsoles() *console.Keeper {
	dir := filepath.Join(s.cfg.State, "console")
	return console.New(console.Options{
		Dir: dir, Policy: s.cfg.Console.Log, Size: s.cfg.Console.Bytes, Keep: s.cfg.Console.Keep, Log: s.log,
		Nodes: s.db.Nodes,
		Open: func(ctx context.Context, n node.Node, last console.Way) (console.Way, error) {
			password, err := s.db.BMCPassword(ctx, n.Name)
			if err != nil {
				return nil, err
			}
			return dial.Open(n, password, filepath.Join(dir, string(n.Name)), last)
		},
		Event: func(n node.Name, addr, text string) {
			s.event(context.Background(), api.Event{Node: n, Kind: "console", Addr: addr, Text: text})
		},
	})
}

// attachConsole is GET, to watch, and POST, to type too: that way a viewer may not type, and who may is in the audit log.
func (s *Server) attachConsole(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	n, err := s.node(ctx, node.Name(r.PathValue("name")))
	if err == nil && (!strings.EqualFold(r.Header.Get("Upgrade"), api.ConsoleProtocol) || r.ProtoMajor != 1) {
		err = &api.Error{Code: "bad_request", Message: "a console wants HTTP/1.1 and Upgrade: " + api.ConsoleProtocol, Hint: "docs/formats/api.md describes it"}
	}
	var v *console.Viewer
	who, _ := ctx.Value(whoKey{}).(string)
	o := console.Attach{Who: who, Addr: remoteAddr(r).String(), Write: r.Method == http.MethodPost, Share: r.FormValue("share") != "", Force: r.FormValue("force") != ""}
	if err == nil && o.Force && !o.Write {
		err = &api.Error{Code: "bad_request", Message: "force is not for who only watches"}
	}
	if err == nil {
		v, err = s.consoles.Attach(ctx, n, o)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	defer v.Close()
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		writeError(w, err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Time{})
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.ConsoleProtocol)
	hello := api.ConsoleHello{Node: string(n.Name), Way: v.Way, Write: o.Write, Others: v.Others}
	if errors.Join(api.WriteFrameJSON(rw, api.FrameHello, hello), api.WriteFrame(rw, api.FramePast, v.Past), rw.Flush()) != nil {
		return
	}
	talk(conn, rw, v)
}

// talk carries frames both ways until one side ends.
func talk(conn net.Conn, rw *bufio.ReadWriter, v *console.Viewer) {
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		for {
			kind, b, err := api.ReadFrame(rw, api.MaxConsoleInput)
			switch {
			case err != nil:
				return
			case kind == api.FrameIn && len(b) > 0:
				err = v.Send(ctx, b)
			case kind == api.FrameBreak:
				err = v.Send(ctx, nil)
			}
			if err != nil {
				v.Tell(err.Error())
			}
		}
	}()
	for {
		wait, stop := context.WithTimeout(ctx, keepAlive)
		m, err := v.Next(wait)
		stop()
		conn.SetWriteDeadline(time.Now().Add(consolePatience))
		switch {
		case err == nil && len(m.Data) > 0:
			err = api.WriteFrame(rw, api.FrameOut, m.Data)
		case err == nil:
			err = api.WriteFrameJSON(rw, api.FrameNote, api.ConsoleNote{Time: time.Now(), Text: m.Note, Skipped: m.Skipped})
		case ctx.Err() != nil:
		case errors.Is(err, context.DeadlineExceeded):
			err = api.WriteFrame(rw, api.FrameAlive, nil)
		default:
			errors.Join(api.WriteFrameJSON(rw, api.FrameEnd, asError(err)), rw.Flush())
		}
		if err == nil {
			err = rw.Flush()
		}
		if err != nil {
			break
		}
	}
	cancel()
	conn.Close()
	<-gone
}

// consoleLog gives out what was logged of a console.
func (s *Server) consoleLog(w http.ResponseWriter, r *http.Request) {
	n, err := s.node(r.Context(), node.Name(r.PathValue("name")))
	since := time.Time{}
	if text := r.FormValue("since"); text != "" && err == nil {
		if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			err = &api.Error{Code: "bad_request", Message: fmt.Sprintf("since %q: want a time as RFC 3339 has it", text)}
		}
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	out := bufio.NewWriterSize(w, 64<<10)
	out.Write(transcript.AppendHeader(nil))
	err = console.ReadLog(r.Context(), s.consoles.Dir(n.Name), since, func(rec transcript.Record) error {
		_, err := out.Write(rec.Append(nil))
		return err
	})
	if err == nil {
		err = out.Flush()
	}
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		s.log.Debug("console log", "node", n.Name, "err", err)
		panic(http.ErrAbortHandler) // the client must see that there is more
	}
}
