package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
)

// Numbers of RPC (RFC 5531) and NFS (RFC 1813).
const (
	progNFS   = 100003
	progMount = 100005
	procRead  = 6
	procWrite = 7
	noProc    = 0xffff // a procedure that nobody has, so that the answer is "procedure unavailable"

	maxRecord = 16 << 10 // of a request that is not a WRITE: names, a symbolic link's text
	maxWrite  = 4 << 20  // of a WRITE, which is refused, but must be read to be refused
	maxAuth   = 400      // RFC 5531 section 8.2
	maxHandle = 64       // RFC 1813 section 2.4
	maxName   = 255
	maxPath   = 4096
	maxRead   = 1 << 20 // bytes of a READ; the answer to more is short, as it may be
)

// shapes are the arguments of each procedure: h handle, n name, p path, s attributes to set, 4 and 8 integers of that
// many bytes, c the count of a READ, * integers only, to the end.
var shapes = map[uint32]map[uint32]string{
	progNFS: {
		0: "", 1: "h", 2: "h*", 3: "hn", 4: "h4", 5: "h", procRead: "h8c", 8: "hn*", 9: "hn*", 10: "hnsp", 11: "hn*",
		12: "hn", 13: "hn", 14: "hnhn", 15: "hhn", 16: "h884", 17: "h8844", 18: "h", 19: "h", 20: "h", 21: "h84",
	},
	progMount: {0: "", 1: "p", 2: "", 3: "p", 4: "", 5: ""},
}

// gate stands between a connection and the library. It hands on one whole request at a time, and only such whose
// lengths hold: the library allocates what a length says before it looks whether that much follows, reads handles
// with single reads that may come short, and leaves a connection open after errors.
type gate struct {
	net.Conn
	log  *slog.Logger
	rest []byte // of the request being handed on
	once sync.Once
	done chan struct{} // closed with the connection
}

func newGate(c net.Conn, log *slog.Logger) *gate {
	return &gate{Conn: c, log: log, done: make(chan struct{})}
}

// Close implements net.Conn.
func (g *gate) Close() error {
	var err error
	g.once.Do(func() {
		err = g.Conn.Close()
		close(g.done)
	})
	return err
}

// Write implements net.Conn. After an error the connection is of no use.
func (g *gate) Write(b []byte) (int, error) {
	n, err := g.Conn.Write(correct(b))
	if err != nil {
		g.Close()
	}
	return n, err
}

// correct mends the library's accept_stat (RFC 5531 section 9), which counts without PROG_MISMATCH, and says that
// where it means PROC_UNAVAIL. An answer without a body is 24 bytes with the status at its end, written at once.
func correct(b []byte) []byte {
	if len(b) != 28 || binary.BigEndian.Uint32(b) != 24|1<<31 || binary.BigEndian.Uint32(b[12:]) != 0 {
		return b
	}
	stat := binary.BigEndian.Uint32(b[24:])
	if stat < 2 {
		return b
	}
	b = append([]byte(nil), b...)
	binary.BigEndian.PutUint32(b[24:], stat+1)
	return b
}

// Read implements net.Conn.
func (g *gate) Read(b []byte) (int, error) {
	if len(g.rest) == 0 {
		rec, err := readRecord(g.Conn)
		if err == nil {
			rec, err = admit(rec)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				g.log.Info("nfs connection closed", "addr", g.RemoteAddr(), "why", err)
			}
			g.Close()
			return 0, err
		}
		g.rest = rec
	}
	n := copy(b, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// readRecord reads one RPC message (RFC 5531 section 11: a record in fragments) without its marks. Of one that is
// larger than any request but a WRITE only the beginning is kept.
func readRecord(r io.Reader) ([]byte, error) {
	var rec []byte
	total := 0
	for {
		var mark [4]byte
		if _, err := io.ReadFull(r, mark[:]); err != nil {
			return nil, err
		}
		m := binary.BigEndian.Uint32(mark[:])
		n := int(m &^ (1 << 31))
		total += n
		if total > maxWrite || n == 0 && m>>31 == 0 {
			return nil, fmt.Errorf("request of %d bytes or more", total)
		}
		keep := min(n, maxRecord+1-len(rec))
		part := make([]byte, keep)
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, fmt.Errorf("read request: %w", err)
		}
		rec = append(rec, part...)
		if _, err := io.CopyN(io.Discard, r, int64(n-keep)); err != nil {
			return nil, fmt.Errorf("read request: %w", err)
		}
		if m>>31 == 1 {
			return rec, nil
		}
	}
}

// admit checks a request and gives it back with its record mark, as the library may have it.
func admit(rec []byte) ([]byte, error) {
	c := cursor{b: rec}
	c.skip(4) // xid
	if c.u32() != 0 {
		return nil, errors.New("not a request")
	}
	version := c.u32()
	prog := c.u32()
	vers := c.u32()
	procAt := c.off
	proc := c.u32()
	for range 2 { // credentials and verifier
		c.skip(4)
		c.opaque(maxAuth)
	}
	if c.bad || version != 2 {
		return nil, errors.New("not a request of RPC version 2")
	}
	args := c.off
	shape, known := shapes[prog][proc]
	switch {
	case prog == progNFS && proc == procWrite && vers == 3:
		// Its data are of no interest; an empty WRITE is refused as well.
		c.opaque(maxHandle)
		c.skip(8)
		if c.bad || len(rec) < c.off+12 {
			return nil, errors.New("malformed WRITE")
		}
		rec = rec[:c.off+12]
		binary.BigEndian.PutUint32(rec[c.off:], 0)
		binary.BigEndian.PutUint32(rec[c.off+8:], 0)
	case !known || vers != 3:
		binary.BigEndian.PutUint32(rec[procAt:], noProc)
		rec = rec[:args]
	case len(rec) > maxRecord:
		return nil, fmt.Errorf("request for procedure %d is too long", proc)
	default:
		if !c.args(shape) {
			return nil, fmt.Errorf("malformed arguments of procedure %d", proc)
		}
	}
	mark := binary.BigEndian.AppendUint32(nil, uint32(len(rec))|1<<31)
	return append(mark, rec...), nil
}

// cursor walks XDR (RFC 4506). After a step beyond the end it is bad, and stays where it is.
type cursor struct {
	b   []byte
	off int
	bad bool
}

func (c *cursor) skip(n int) {
	if c.bad || n > len(c.b)-c.off {
		c.bad = true
		return
	}
	c.off += n
}

func (c *cursor) u32() uint32 {
	at := c.off
	if c.skip(4); c.bad {
		return 0
	}
	return binary.BigEndian.Uint32(c.b[at:])
}

// opaque is a length, that many bytes, and what fills up to a multiple of four.
func (c *cursor) opaque(most int) {
	n := c.u32()
	if n > uint32(most) {
		c.bad = true
		return
	}
	c.skip(int(n+3) &^ 3)
}

// args walks the arguments of a procedure.
func (c *cursor) args(shape string) bool {
	for _, s := range shape {
		switch s {
		case 'h':
			c.opaque(maxHandle)
		case 'n':
			c.opaque(maxName)
		case 'p':
			c.opaque(maxPath)
		case '4':
			c.skip(4)
		case '8':
			c.skip(8)
		case 'c':
			if at := c.off; c.u32() > maxRead {
				binary.BigEndian.PutUint32(c.b[at:], maxRead)
			}
		case 's': // sattr3, RFC 1813 section 2.6: mode, uid, gid, size, atime, mtime
			for _, size := range []int{4, 4, 4, 8} {
				if c.u32() != 0 {
					c.skip(size)
				}
			}
			for range 2 {
				if c.u32() == 2 {
					c.skip(8)
				}
			}
		}
	}
	return !c.bad
}
