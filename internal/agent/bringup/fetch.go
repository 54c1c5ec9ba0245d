package bringup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// errSum says that what was fetched is not what the boot script promised.
var errSum = errors.New("SHA-256 is wrong")

// fetcher loads a file by plain HTTP into another and checks its hash on the way.
type fetcher struct {
	url, sum string
	to       *os.File
	log      func(format string, args ...any)
	stall    time.Duration // without a byte, after which a connection is given up; 0 means 20 s
	giveUp   time.Duration // without a byte, after which all is given up; 0 means 5 min
	wait     time.Duration // before the second try, then doubled; 0 means 1 s

	off  int64
	sha  hash.Hash
	size int64 // -1 where unknown
	last time.Time
}

// wrongSums is how often a wrong hash is tried again: a file that was replaced while it was loaded is right the next
// time, another one is not.
const wrongSums = 3

// fetch goes on where a try broke off, until all is there and right.
func (f *fetcher) fetch(ctx context.Context) error {
	if f.stall <= 0 {
		f.stall = 20 * time.Second
	}
	if f.giveUp <= 0 {
		f.giveUp = 5 * time.Minute
	}
	if f.wait <= 0 {
		f.wait = time.Second
	}
	dial := &net.Dialer{Timeout: 10 * time.Second}
	tr := &http.Transport{DialContext: dial.DialContext, ResponseHeaderTimeout: f.stall, DisableCompression: true}
	defer tr.CloseIdleConnections()
	f.last = time.Now()
	if err := f.restart(); err != nil {
		return err
	}
	wrong, wait := 0, f.wait
	for {
		before := f.off
		err := f.try(ctx, tr)
		switch {
		case err == nil:
			if got := hex.EncodeToString(f.sha.Sum(nil)); got == f.sum {
				return nil
			} else if wrong++; wrong >= wrongSums {
				return fmt.Errorf("load %s: %w: it is %s, the boot script says %s", f.url, errSum, got, f.sum)
			}
			err = errSum
			if err := f.restart(); err != nil {
				return err
			}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if f.off > before {
			wait = f.wait
		}
		if idle := time.Since(f.last); idle > f.giveUp {
			return fmt.Errorf("load %s: nothing came for %v: %w", f.url, idle.Round(time.Second), err)
		}
		f.log("load %s: %v; going on at byte %d in %v", f.url, err, f.off, wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(wait*2, 15*time.Second)
	}
}

// restart forgets what was loaded.
func (f *fetcher) restart() error {
	f.off, f.size, f.sha = 0, -1, sha256.New()
	if err := f.to.Truncate(0); err != nil {
		return err
	}
	_, err := f.to.Seek(0, io.SeekStart)
	return err
}

// try loads from f.off to the end.
func (f *fetcher) try(ctx context.Context, tr http.RoundTripper) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(f.stall, func() { cancel(fmt.Errorf("nothing came for %v", f.stall)) })
	defer timer.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return err
	}
	if f.off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.off))
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		if f.off > 0 {
			if err := f.restart(); err != nil {
				return err
			}
		}
		f.size = resp.ContentLength
	case resp.StatusCode == http.StatusPartialContent && f.off > 0:
		if start, size, ok := contentRange(resp.Header.Get("Content-Range")); !ok || start != f.off || f.size >= 0 && size >= 0 && size != f.size {
			f.restart() // an error shows in the next write
			return fmt.Errorf("the server answered range %q", resp.Header.Get("Content-Range"))
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		f.restart()
		return errors.New("the file became shorter")
	default:
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	if err := f.room(); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	said := f.last
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			timer.Reset(f.stall)
			f.last = time.Now()
			if _, err := f.to.Write(buf[:n]); err != nil {
				return fmt.Errorf("keep it in memory: %w", err)
			}
			f.sha.Write(buf[:n])
			f.off += int64(n)
			if f.last.Sub(said) > 5*time.Second {
				said = f.last
				f.log("%d of %d MiB of rootimg", f.off>>20, max(f.size, f.off)>>20)
			}
		}
		if err == io.EOF {
			if f.size >= 0 && f.off < f.size {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return because(ctx, err)
		}
	}
}

// room refuses a file for which the machine has no memory, before the kernel runs out of it.
func (f *fetcher) room() error {
	free, ok := memory("MemAvailable")
	if ok && f.size > 0 && f.size-f.off > free*9/10 {
		return fmt.Errorf("it has %d MiB, and only %d MiB of memory are free: this node has too little memory for the stateless image", f.size>>20, free>>20)
	}
	return nil
}

func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// contentRange reads "bytes START-END/SIZE" (RFC 9110 section 14.4); size is -1 where it is "*".
func contentRange(s string) (start, size int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(s, "/")
	first, _, ok3 := strings.Cut(span, "-")
	start, err := strconv.ParseInt(first, 10, 64)
	size = -1
	if total != "*" {
		var err2 error
		size, err2 = strconv.ParseInt(total, 10, 64)
		err = errors.Join(err, err2)
	}
	return start, size, ok && ok2 && ok3 && err == nil
}

// memory returns a line of /proc/meminfo in bytes.
func memory(key string) (int64, bool) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err == nil
		}
	}
	return 0, false
}
