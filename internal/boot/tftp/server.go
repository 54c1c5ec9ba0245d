package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
)

// Listen opens the socket, so that a taken port is an error at start. Serve calls it where it was not called.
func (s *Server) Listen() error {
	if s.conn != nil {
		return nil
	}
	addr := s.Addr
	if addr == "" {
		addr = ":69"
	}
	lc := net.ListenConfig{Control: s.control}
	pc, err := lc.ListenPacket(context.Background(), "udp4", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return &api.Error{Code: "conflict", Message: fmt.Sprintf("listen for TFTP on %s: another program has that port", addr),
			Hint: "stop the TFTP server that runs on this machine (ss -ulpn 'sport = :69' names it)"}
	}
	if err != nil {
		return fmt.Errorf("listen for TFTP on %s: %w", addr, err)
	}
	s.conn = pc.(*net.UDPConn)
	return nil
}

// LocalAddr is the address of the open socket, for tests and the log.
func (s *Server) LocalAddr() netip.AddrPort {
	return s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// control binds a socket to the interface, and asks for the address that a packet was sent to: a management node with
// several addresses must answer from the one that was asked.
func (s *Server) control(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		if s.Interface != "" {
			if err = unix.BindToDevice(int(fd), s.Interface); err != nil {
				err = fmt.Errorf("bind to interface %s: %w", s.Interface, err)
				return
			}
		}
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	})
	return errors.Join(cerr, err)
}

// Serve answers requests until ctx is done, and returns nil then, when all transfers have stopped.
func (s *Server) Serve(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	conn := s.conn
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()

	b := &sessions{server: s, limit: s.MaxSessions, open: map[netip.AddrPort]*session{}}
	if b.limit == 0 {
		b.limit = 512
	}
	defer b.wg.Wait()
	defer cancel()

	buf := make([]byte, 65536)
	oob := make([]byte, 256)
	for {
		n, nOOB, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("receive TFTP request: %w", err)
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		local := pktinfo(oob[:nOOB])
		if !local.IsValid() {
			local = s.LocalAddr().Addr().Unmap()
		}
		b.request(ctx, append([]byte(nil), buf[:n]...), from, local)
	}
}

// pktinfo is the address that a packet was sent to.
func pktinfo(oob []byte) netip.Addr {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range msgs {
		// struct in_pktinfo: interface, local address to answer from, address in the packet's header; 4 bytes each.
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12 {
			a, _ := netip.AddrFromSlice(m.Data[4:8])
			return a
		}
	}
	return netip.Addr{}
}

// sessions are the transfers under way, one for each remote address and port.
type sessions struct {
	server *Server
	limit  int
	wg     sync.WaitGroup
	mu     sync.Mutex
	open   map[netip.AddrPort]*session
}

// request starts a transfer, or refuses the packet.
func (b *sessions) request(ctx context.Context, pkt []byte, from netip.AddrPort, local netip.Addr) {
	s := b.server
	refuse := func(code uint16, why string) {
		s.log().Debug("tftp request refused", "addr", from, "why", why)
		// An error to an error, or to what may be one, would never end.
		if len(pkt) >= 2 && (pkt[1] == opRRQ || pkt[1] == opWRQ) {
			s.conn.WriteToUDPAddrPort(errorPacket(code, why), from)
		}
	}
	if len(pkt) >= 2 && binary.BigEndian.Uint16(pkt) == opWRQ {
		refuse(codeAccess, "this server is read-only")
		return
	}
	rrq, err := parseRRQ(pkt)
	if err != nil {
		refuse(codeIllegal, err.Error())
		return
	}
	if rrq.mode != "octet" {
		refuse(codeIllegal, "only mode octet is served")
		return
	}
	name, err := cleanName(rrq.name)
	if err != nil {
		refuse(codeAccess, err.Error())
		return
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.open[from]; old != nil {
		if !old.acked.Load() {
			return // the same request again: the answer is on its way, or will be repeated
		}
		old.cancel() // the node was switched off and on, and chose the same port
	}
	if len(b.open) >= b.limit {
		refuse(codeUndefined, "too many transfers, try again")
		return
	}
	mine := 0
	for a := range b.open {
		if a.Addr() == from.Addr() {
			mine++
		}
	}
	if mine >= max(1, b.limit/8) {
		refuse(codeUndefined, "too many transfers to this address, try again")
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	ses := &session{
		server: s, rrq: rrq, cancel: cancel,
		req: Request{Name: name, Remote: from, Local: local},
	}
	b.open[from] = ses
	b.wg.Go(func() {
		defer cancel()
		ses.run(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.open[from] == ses {
			delete(b.open, from)
		}
	})
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// openCode is the TFTP error code for an error of Open.
func openCode(err error) (code uint16, text string) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return codeNotFound, "file not found"
	case errors.Is(err, fs.ErrPermission):
		return codeAccess, "access denied"
	}
	return codeUndefined, "cannot open the file"
}

func (s *Server) firstTimeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return time.Second
}

func (s *Server) retries() int {
	if s.Retries > 0 {
		return s.Retries
	}
	return 6
}
