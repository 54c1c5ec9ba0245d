package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// maxTimeout bounds the back-off: a boot ROM gives up after some tens of seconds.
const maxTimeout = 8 * time.Second

// session sends one file from a port of its own (RFC 1350 section 4).
type session struct {
	server *Server
	rrq    readRequest
	req    Request
	cancel context.CancelFunc
	acked  atomic.Bool // something was acknowledged

	conn  *net.UDPConn
	file  File
	block int64 // bytes of a block
	win   int64 // blocks of a window
	last  int64 // number of the last block, counted from 1
	done  int64 // blocks that were acknowledged
	buf   []byte
}

// run sends the file and reports how it ended.
func (s *session) run(ctx context.Context) {
	start := time.Now()
	size, err := s.transfer(ctx)
	r := Result{Request: s.req, Size: size, Took: time.Since(start), Err: err, Block: int(s.block), Win: int(s.win)}
	r.Sent = min(s.done*s.block, size)
	if err != nil {
		s.server.log().Info("tftp transfer failed", "file", s.req.Name, "addr", s.req.Remote, "sent", r.Sent, "err", err)
	} else {
		s.server.log().Debug("tftp transfer done", "file", s.req.Name, "addr", s.req.Remote, "bytes", size, "took", r.Took)
	}
	if s.server.Done != nil {
		s.server.Done(r)
	}
}

// transfer is the whole of it: open, negotiate, send.
func (s *session) transfer(ctx context.Context) (size int64, err error) {
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: s.req.Local.AsSlice()}, Control: s.server.control}
	c, err := d.DialContext(ctx, "udp4", s.req.Remote.String())
	if err != nil {
		return 0, fmt.Errorf("open a port for %s: %w", s.req.Remote, err)
	}
	s.conn = c.(*net.UDPConn)
	defer s.conn.Close()
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	s.file, err = s.server.Open(ctx, s.req)
	if err != nil {
		code, text := openCode(err)
		s.conn.Write(errorPacket(code, text))
		return 0, fmt.Errorf("open %s: %w", s.req.Name, err)
	}
	defer s.file.Close()
	size = s.file.Size()

	s.block, s.win = defaultBlock, 1
	if s.rrq.block != 0 {
		s.block = int64(s.rrq.block)
	}
	if s.rrq.window != 0 {
		s.win = int64(s.rrq.window)
	}
	s.last = size/s.block + 1 // a file of whole blocks ends with an empty one
	s.buf = make([]byte, 4+s.block)

	if len(s.rrq.order) > 0 {
		if err := s.negotiate(ctx, size); err != nil {
			return size, err
		}
	}
	for s.done < s.last {
		if err := s.window(ctx); err != nil {
			return size, err
		}
	}
	return size, nil
}

// negotiate sends the OACK until block 0 is acknowledged.
func (s *session) negotiate(ctx context.Context, size int64) error {
	oack := s.rrq.oack(size)
	return s.exchange(ctx, func() error {
		_, err := s.conn.Write(oack)
		return err
	}, func(ack uint16) bool { return ack == 0 })
}

// window sends the blocks after those acknowledged, up to a window, and waits until some of them are acknowledged. A
// receiver that lost a block acknowledges the one before it, and the next window starts there (RFC 7440 section 4).
func (s *session) window(ctx context.Context) error {
	end := min(s.done+s.win, s.last)
	resent := false
	send := func() error {
		resent = false
		for n := s.done + 1; n <= end; n++ {
			if err := s.sendBlock(n); err != nil {
				return err
			}
		}
		return nil
	}
	return s.exchange(ctx, send, func(ack uint16) bool {
		// Block numbers on the wire are 16 bits and go round (0 follows 65535); a window is far smaller than that.
		delta := int64(ack - uint16(s.done))
		switch {
		case delta >= 1 && delta <= end-s.done:
			s.done += delta
			return true
		case delta == 0 && s.win > 1 && !resent:
			// The first block of the window was lost. Once only, and never with windows of one block: there an
			// acknowledgement that comes twice would double all packets from here to the end.
			if err := send(); err != nil {
				s.server.log().Debug("tftp window not sent again", "addr", s.req.Remote, "err", err)
			}
			resent = true
		}
		return false
	})
}

// sendBlock sends block n, counted from 1.
func (s *session) sendBlock(n int64) error {
	off := (n - 1) * s.block
	want := min(s.block, s.file.Size()-off)
	binary.BigEndian.PutUint16(s.buf, opData)
	binary.BigEndian.PutUint16(s.buf[2:], uint16(n))
	if want > 0 {
		got, err := s.file.ReadAt(s.buf[4:4+want], off)
		if int64(got) < want {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			s.conn.Write(errorPacket(codeUndefined, "cannot read the file"))
			return fmt.Errorf("read %s at %d: %w", s.req.Name, off, err)
		}
	}
	_, err := s.conn.Write(s.buf[:4+want])
	return err
}

// exchange sends, waits for an acknowledgement that accept takes, and sends again with growing pauses.
func (s *session) exchange(ctx context.Context, send func() error, accept func(ack uint16) bool) error {
	// The pauses start short whatever the receiver asked for (RFC 2349): clients that ask for six seconds would crawl
	// at each lost packet. They grow beyond it: atftp acknowledges a repeated block once, then only when it has heard
	// nothing for its own timeout.
	wait, longest := s.server.firstTimeout(), max(maxTimeout, 2*s.rrq.timeout)
	in := make([]byte, 1024)
	for try := 0; ; try++ {
		if try > s.server.retries() {
			return fmt.Errorf("no acknowledgement after %d tries", try)
		}
		if err := send(); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		deadline := time.Now().Add(wait)
		wait = min(2*wait, longest)
		for {
			s.conn.SetReadDeadline(deadline)
			if ctx.Err() != nil { // the deadline just set may have covered the one of the cancel
				s.conn.Write(errorPacket(codeUndefined, "server stops"))
				return ctx.Err()
			}
			n, err := s.conn.Read(in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if ctx.Err() != nil {
					s.conn.Write(errorPacket(codeUndefined, "server stops"))
					return ctx.Err()
				}
				break
			}
			if err != nil {
				return fmt.Errorf("receive acknowledgement: %w", err)
			}
			switch {
			case n >= 4 && in[0] == 0 && in[1] == opAck:
				if accept(binary.BigEndian.Uint16(in[2:])) {
					s.acked.Store(true)
					return nil
				}
			case n >= 2 && in[0] == 0 && in[1] == opError:
				return parseError(in[:n])
			}
		}
	}
}
