// Package tftp serves the first loader, read-only.
//
// It follows RFC 1350 (the protocol), 2347 (option negotiation), 2348 (blksize), 2349 (timeout, tsize) and 7440
// (windowsize). Writing is refused. What a name means is Open's to say: Dir serves a folder, and Open may make a file
// for the one that asks.
package tftp

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Request is a read request.
type Request struct {
	Name   string         // cleaned: slash-separated, relative, no "..", as in io/fs
	Remote netip.AddrPort // who asks
	Local  netip.Addr     // the address that was asked
}

// File is an open file of known size. The server reads it from its own goroutine, in ascending order but for the
// last window again after a loss, and closes it once.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Result is the end of a transfer.
type Result struct {
	Request
	Size  int64 // bytes of the file
	Sent  int64 // bytes of it that were acknowledged
	Took  time.Duration
	Err   error // nil where it was sent whole
	Block int   // block size that was agreed
	Win   int   // window size that was agreed, in blocks
}

// Server serves files by TFTP. Its zero values mean the default.
type Server struct {
	Addr        string // host:port; empty means :69
	Interface   string // bind to this interface as well; empty means any
	Open        func(ctx context.Context, r Request) (File, error)
	Done        func(Result)  // told of the end of each transfer, from its goroutine; may be nil
	MaxSessions int           // transfers at once; 0 means 512, which is a rack room coming up at once. An eighth of them may be to one address
	Timeout     time.Duration // first wait for an acknowledgement; 0 means 1 s; doubles up to 8 s
	Retries     int           // of one window; 0 means 6
	Log         *slog.Logger  // nil means silent

	conn *net.UDPConn
}
