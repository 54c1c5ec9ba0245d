// Package nfs serves folders to nodes by NFS version 3, read-only.
//
// Mount and file service share one TCP port and there is no port mapper, so a node mounts with
// "vers=3,nolock,proto=tcp,port=4449,mountport=4449,mountproto=tcp". It follows RFC 1813 (NFS 3, MOUNT 3) and RFC 5531
// (RPC). The protocol is github.com/willscott/go-nfs; what it must not see is kept from it here (gate.go), and files
// are named to it by handles that stay the same across restarts (handle.go).
package nfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"sync"
	"time"

	gonfs "github.com/willscott/go-nfs"
)

// maxConns bounds the connections: a node has one or two.
const maxConns = 4096

// Server serves exports.
type Server struct {
	Addr    string            // host:port; empty means :4449
	Exports map[string]string // path that nodes mount, as /postscripts, to the folder
	Log     *slog.Logger      // nil means silent

	listener net.Listener
	files    *files
}

// quiet makes the library's logger, which is one for the whole process, silent: it prints to standard error what any
// node can provoke.
var quiet = sync.OnceFunc(func() { gonfs.Log.SetLevel(gonfs.PanicLevel) })

// Listen opens the port and the folders, so that a taken port or a missing folder is an error at start. Serve calls it
// where it was not called.
func (s *Server) Listen() error {
	if s.listener != nil {
		return nil
	}
	quiet()
	f := &files{exports: map[string]*export{}, known: map[handle]place{}}
	for name, dir := range s.Exports {
		if name == "" || name[0] != '/' || path.Clean(name) != name || name == "/" {
			return errors.Join(fmt.Errorf("export %q is not a clean absolute path like /postscripts", name), f.close())
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return errors.Join(fmt.Errorf("export %s: %w", name, err), f.close())
		}
		f.exports[name] = &export{name: name, root: root}
	}
	addr := s.Addr
	if addr == "" {
		addr = ":4449"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for NFS on %s: %w", addr, err), f.close())
	}
	s.listener, s.files = l, f
	return nil
}

// LocalAddr is the address of the open port, for tests and the log.
func (s *Server) LocalAddr() net.Addr { return s.listener.Addr() }

// Serve answers until ctx is done, and returns nil then, when all connections are closed.
func (s *Server) Serve(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	defer s.files.close()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	defer s.listener.Close()
	slots := make(chan struct{}, maxConns)
	for {
		c, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept NFS connection: %w", err)
			}
			// Out of file descriptors, or a peer that is gone already.
			s.log().Warn("nfs accept", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log().Warn("nfs connection refused: too many", "addr", c.RemoteAddr())
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, c)
		})
	}
}

// serve runs the library on one connection, with a server and a context of its own: it then stops with the
// connection, wherever it stands, and can be waited for.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := newGate(c, s.log())
	stop := context.AfterFunc(ctx, func() { g.Close() })
	defer stop()
	l := &oneConn{conn: g, done: g.done}
	srv := &gonfs.Server{Handler: handler{s.files, s.log()}, Context: ctx, ID: s.files.verifier()}
	_ = srv.Serve(l) // ends with net.ErrClosed once the connection is done
	g.Close()
}

// oneConn is a listener that gives one connection, and ends with it.
type oneConn struct {
	conn  net.Conn
	done  <-chan struct{}
	given bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.conn, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}
