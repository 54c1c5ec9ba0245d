package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	grubAgent = "GRUB " // how the User-Agent of GRUB begins
	firstGRUB = 21550   // its first port
	mostGRUB  = 1000    // more than one boot takes; other ports are those of a router, behind which there may be several machines
	ackEvery  = 20 * time.Millisecond
	ackWait   = 2 * time.Minute // for a machine that takes what was sent, and no longer
	closeWait = 8               // TCP_CLOSE_WAIT of the kernel's include/net/tcp_states.h: the other end has closed
)

// bootListener hands out connections that can be forgotten.
type bootListener struct {
	net.Listener
	ctx context.Context // of the server

	mu   sync.Mutex
	grub map[*bootConn]bool // the connections of GRUB that are not closed
}

func newBootListener(ctx context.Context, l net.Listener) *bootListener {
	return &bootListener{Listener: l, ctx: ctx, grub: map[*bootConn]bool{}}
}

func (l *bootListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		return &bootConn{TCPConn: tcp, from: l}, nil
	}
	return c, nil
}

// bootConn is the connection of a machine that boots. GRUB counts its ports from firstGRUB on in each boot, closes nothing
// when it hands over, and does not answer when it is told that its connection is an older one. So a connection that the
// kernel still keeps from the last boot makes the next one fail, for minutes. One that is to be forgotten is reset once
// the other end has everything, or once a later boot asks, and nothing stays behind.
type bootConn struct {
	*net.TCPConn
	from   *bootListener
	forget atomic.Bool
}

// forgetLater makes c be forgotten when it is closed, and resets what an earlier boot of the same machine has left: the
// connections from the same address whose ports c's boot has yet to come to.
func (c *bootConn) forgetLater() {
	if c.forget.Swap(true) {
		return
	}
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	mine := remote(c)
	for o := range c.from.grub {
		theirs := remote(o)
		if theirs.Addr() == mine.Addr() && mine.Port() >= firstGRUB && theirs.Port() > mine.Port() && theirs.Port() < firstGRUB+mostGRUB {
			_ = o.SetLinger(0) // fails where it is closed already
			_ = o.TCPConn.Close()
		}
	}
	c.from.grub[c] = true
}

func remote(c *bootConn) netip.AddrPort { return c.RemoteAddr().(*net.TCPAddr).AddrPort() }

// CloseWrite hides that of TCPConn: net/http would begin an orderly end with it.
func (c *bootConn) CloseWrite() error { return nil }

func (c *bootConn) Close() error {
	if c.forget.Load() {
		c.wait()
		_ = c.SetLinger(0)
		c.from.mu.Lock()
		delete(c.from.grub, c)
		c.from.mu.Unlock()
	}
	return c.TCPConn.Close()
}

// wait returns when the other end has all that was sent, or does not want it.
func (c *bootConn) wait() {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	limit := time.NewTimer(ackWait)
	defer limit.Stop()
	for {
		done := true
		_ = raw.Control(func(fd uintptr) {
			left, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			info, err2 := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			done = err != nil || err2 != nil || left == 0 || info.State == closeWait
		})
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return
		case <-c.from.ctx.Done():
			return
		}
	}
}

// bootConnKey is where a request's context has its bootConn.
type bootConnKey struct{}

// forgetGRUB lets connections of GRUB be forgotten after each answer.
func forgetGRUB(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(bootConnKey{}).(*bootConn); ok && strings.HasPrefix(r.UserAgent(), grubAgent) {
			c.forgetLater()
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
