package nfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nfsc "github.com/willscott/go-nfs-client/nfs"
	"github.com/willscott/go-nfs-client/nfs/rpc"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The test's client never stops this one.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/willscott/go-nfs-client/nfs.(*Target).cleanupCache"))
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// folder is an export with what a profile's folder may hold, and traps.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, b []byte, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("setup", []byte("#!/bin/sh\necho $NODE\n"), 0o755)
	write("big", random(3<<20+17), 0o644)
	write("empty", nil, 0o600)
	write("sub/deeper/file", []byte("deep"), 0o644)
	for i := range 300 {
		write(fmt.Sprintf("many/file-%03d", i), []byte{byte(i)}, 0o644)
	}
	for link, target := range map[string]string{"in": "setup", "out": "/etc/passwd", "up": "../../../../../../etc"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// serve starts a server on loopback; stop ends it.
func serve(t testing.TB, addr string, exports map[string]string) (at string, stop func()) {
	t.Helper()
	s := &Server{Addr: addr, Exports: exports}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return s.LocalAddr().String(), stop
}

var auth = rpc.NewAuthUnix("n01", 0, 0).Auth()

// mount is what a node does, in user space.
func mount(t testing.TB, addr, path string) (*nfsc.Target, error) {
	t.Helper()
	// The client chooses a port of its own by chance, which may be one that is in use.
	var c *rpc.Client
	for range 5 {
		var err error
		if c, err = rpc.DialTCP("tcp", addr, false); err == nil {
			break
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	if c == nil {
		t.Fatal("no port is free")
	}
	t.Cleanup(c.Close)
	m := nfsc.Mount{Client: c}
	return m.Mount(path, auth)
}

func TestReadOnlyExport(t *testing.T) {
	dir := folder(t)
	at, _ := serve(t, "127.0.0.1:0", map[string]string{"/postscripts": dir, "/files": t.TempDir()})
	v, err := mount(t, at, "/postscripts/")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"setup", "big", "empty", "sub/deeper/file", "many/file-299"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		f, err := v.Open(name)
		if err != nil {
			t.Fatalf("open %s: %v", name, err)
		}
		got, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d: %v", name, len(got), len(want), err)
		}
	}
	attr, err := v.Getattr("setup")
	if err != nil || attr.Mode().Perm() != 0o755 || attr.Size() != 21 {
		t.Errorf("setup has %+v: %v", attr, err)
	}
	entries, err := v.ReadDirPlus("many")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.FileName)
	}
	sort.Strings(names)
	if len(names) != 300 || names[0] != "file-000" || names[299] != "file-299" {
		t.Errorf("%d names: %v", len(names), names)
	}

	before := tree(t, dir)
	writes := map[string]error{}
	_, writes["create"] = v.Create("new", 0o644)
	_, writes["mkdir"] = v.Mkdir("newdir", 0o755)
	writes["remove"] = v.Remove("setup")
	writes["rmdir"] = v.RmDir("sub")
	writes["rename"] = v.Rename("setup", "moved")
	writes["symlink"] = v.Symlink("setup", "link")
	writes["setattr"] = v.Setattr("setup", nfsc.Sattr3{Mode: nfsc.SetMode{SetIt: true, Mode: 0o777}})
	_, fh, err := v.Lookup("setup")
	if err != nil {
		t.Fatal(err)
	}
	writes["write"] = status(t, at, writeCall(fh, random(70_000)))
	for what, err := range writes {
		// The client names the status in its own way: NFS3ERR_ROFS is 30, "Read-only file system".
		if err == nil || !strings.Contains(strings.ToLower(strings.ReplaceAll(err.Error(), "_", "")), "rofs") &&
			!strings.Contains(strings.ToLower(err.Error()), "read-only") {
			t.Errorf("%s: %v, not a read-only filesystem", what, err)
		}
	}
	if after := tree(t, dir); after != before {
		t.Errorf("the folder changed:\n%s\nnot\n%s", after, before)
	}
}

// tree lists a folder with modes, sizes and times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(p string, i os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&b, p, i.Mode(), i.Size(), i.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestLinksStayInside reads handles of symbolic links, as a hostile node may.
func TestLinksStayInside(t *testing.T) {
	at, _ := serve(t, "127.0.0.1:0", map[string]string{"/postscripts": folder(t)})
	v, err := mount(t, at, "/postscripts")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out", "up", "in"} {
		f, err := v.Open(name)
		if err != nil {
			continue // the client may refuse to open it
		}
		if got, err := io.ReadAll(f); err == nil && len(got) > 0 {
			t.Errorf("%s could be read: %q", name, got)
		}
	}
	for _, name := range []string{"up/passwd", "../x", "sub/../../x"} {
		if _, _, err := v.Lookup(name); err == nil {
			t.Errorf("%s was found", name)
		}
	}
	for _, path := range []string{"/", "/etc", "/postscripts/sub", "/postscripts/..", ""} {
		if _, err := mount(t, at, path); err == nil {
			t.Errorf("%q could be mounted", path)
		}
	}
}

// TestHandlesOutliveRestart goes on with the handles of a server that is gone.
func TestHandlesOutliveRestart(t *testing.T) {
	exports := map[string]string{"/postscripts": folder(t)}
	at, stop := serve(t, "127.0.0.1:0", exports)
	v, err := mount(t, at, "/postscripts")
	if err != nil {
		t.Fatal(err)
	}
	_, fh, err := v.Lookup("sub/deeper/file")
	if err != nil {
		t.Fatal(err)
	}
	stop()
	serve(t, at, exports)
	c, err := rpc.DialTCP("tcp", at, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	again, err := nfsc.NewTargetWithClient(c, auth, fh, "/postscripts", 0)
	if err != nil {
		t.Fatal(err)
	}
	attr, err := again.GetAttr(fh)
	if err != nil || attr.Size() != 4 {
		t.Errorf("after the restart: %+v, %v", attr, err)
	}
	stale := handleOf("/postscripts", "never/was")
	if _, err := again.GetAttr(stale[:]); err == nil {
		t.Error("a handle of nothing was found")
	}
}

// call makes an RPC request.
func call(prog, vers, proc uint32, args ...any) []byte {
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.BigEndian, v) }
	for _, v := range []uint32{99, 0, 2, prog, vers, proc, 0, 0, 0, 0} {
		put(v)
	}
	for _, a := range args {
		if s, ok := a.([]byte); ok {
			put(uint32(len(s)))
			b.Write(s)
			b.Write(make([]byte, -len(s)&3))
			continue
		}
		put(a)
	}
	return b.Bytes()
}

func writeCall(fh, data []byte) []byte {
	return call(progNFS, 3, procWrite, fh, uint64(0), uint32(len(data)), uint32(2), data)
}

func framed(rec []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(rec))|1<<31), rec...)
}

// status sends a request and gives the status of the answer as an error.
func status(t *testing.T, at string, rec []byte) error {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// In two fragments, as a client may.
	half := binary.BigEndian.AppendUint32(nil, 60)
	half = append(half, rec[:60]...)
	c.Write(append(half, framed(rec[60:])...))
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 4+28)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	return nfsc.NFS3Error(binary.BigEndian.Uint32(answer[28:]))
}

// TestBadRequests sends what could hurt; the server closes the connection, or says that there is no such procedure,
// and goes on serving others.
func TestBadRequests(t *testing.T) {
	at, _ := serve(t, "127.0.0.1:0", map[string]string{"/postscripts": folder(t)})
	huge := binary.BigEndian.AppendUint32(nil, 0xfffffff0)
	for name, raw := range map[string][]byte{
		"huge record":        {0xff, 0xff, 0xff, 0xff},
		"huge handle":        framed(append(call(progNFS, 3, 1), huge...)),
		"huge name":          framed(append(call(progNFS, 3, 3, []byte("handle")), huge...)),
		"huge mount path":    framed(append(call(progMount, 3, 1), huge...)),
		"huge credentials":   framed(append(call(progNFS, 3, 1)[:28], huge...)),
		"not RPC":            []byte("GET / HTTP/1.1\r\n\r\n"),
		"an answer":          framed(append([]byte{0, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 40)...)),
		"empty fragments":    make([]byte, 4000),
		"cut":                framed(call(progNFS, 3, 1))[:20],
		"long name":          framed(call(progNFS, 3, 3, []byte("h"), make([]byte, 256))),
		"too long for all":   framed(call(progNFS, 3, 1, make([]byte, 64), make([]byte, 20_000))),
		"WRITE without data": framed(call(progNFS, 3, 7, []byte("h"), uint64(0), uint32(0))),
	} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(raw)
		c.(*net.TCPConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if got, err := io.ReadAll(c); len(got) > 0 || os.IsTimeout(err) {
			t.Errorf("%s: answered with %x, %v", name, got, err)
		}
		c.Close()
	}
	for name, rec := range map[string][]byte{
		"NFS 4": call(progNFS, 4, 0), "NFS 2": call(progNFS, 2, 1, make([]byte, 32)), "ACL": call(100227, 3, 0),
		"no procedure": call(progNFS, 3, 99), "EXPORT": call(progMount, 3, 5),
	} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(framed(rec))
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		answer := make([]byte, 28)
		if _, err := io.ReadFull(c, answer); err != nil || binary.BigEndian.Uint32(answer[24:]) != 3 {
			t.Errorf("%s: answered %x, %v; not PROC_UNAVAIL", name, answer, err)
		}
		c.Close()
	}
	if _, err := mount(t, at, "/postscripts"); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// FuzzServer sends a request through gate and library to a real folder.
func FuzzServer(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		f.Fatal(err)
	}
	root, file := handleOf("/x", "."), handleOf("/x", "file")
	f.Add(call(progMount, 3, 1, []byte("/x")))
	f.Add(call(progNFS, 3, 1, root[:]))
	f.Add(call(progNFS, 3, 2, file[:], make([]byte, 28)))
	f.Add(call(progNFS, 3, 3, root[:], []byte("file")))
	f.Add(call(progNFS, 3, 6, file[:], uint64(0), uint32(100)))
	f.Add(writeCall(file[:], []byte("x")))
	f.Add(call(progNFS, 3, 8, root[:], []byte("new"), uint32(0), make([]byte, 24)))
	f.Add(call(progNFS, 3, 10, root[:], []byte("new"), uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), []byte("text")))
	f.Add(call(progNFS, 3, 14, root[:], []byte("file"), root[:], []byte("new")))
	f.Add(call(progNFS, 3, 16, root[:], uint64(0), uint64(0), uint32(4096)))
	f.Add(call(progNFS, 3, 17, root[:], uint64(0), uint64(0), uint32(4096), uint32(8192)))
	f.Add(call(progNFS, 3, 18, root[:]))
	s := &Server{Addr: "127.0.0.1:0", Exports: map[string]string{"/x": dir}}
	if err := s.Listen(); err != nil {
		f.Fatal(err)
	}
	s.listener.Close()
	f.Cleanup(func() { s.files.close() })
	f.Fuzz(func(t *testing.T, rec []byte) {
		if len(rec) > maxRecord {
			return
		}
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serve(context.Background(), far)
		}()
		go io.Copy(io.Discard, near)
		near.SetWriteDeadline(time.Now().Add(5 * time.Second))
		near.Write(framed(rec))
		near.Write(framed(call(progNFS, 3, 0))) // returns when the first was worked off
		near.Close()
		<-done
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "file" {
			t.Fatalf("the folder changed: %v, %v", entries, err)
		}
	})
}
