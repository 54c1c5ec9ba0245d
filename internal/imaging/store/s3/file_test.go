package s3

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"mimeo/internal/imaging/store/storetest"
)

// TestReadAt reads a long object at all kinds of places, side by side and with faults.
func TestReadAt(t *testing.T) {
	s := newService(t)
	f, err := s.config(t).files()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := storetest.Bytes(3, 3*partLen+100)
	if _, err := f.put(probePrefix+"long", bytes.NewReader(content), int64(len(content)), condition{}); err != nil {
		t.Fatal(err)
	}
	o := object{f, probePrefix + "long", int64(len(content))}
	read := func(off int64, n int) (int, error) {
		t.Helper()
		b := make([]byte, n)
		got, err := o.ReadAt(b, off)
		if !bytes.Equal(b[:got], content[off:][:got]) {
			t.Errorf("%d bytes at %d are wrong", n, off)
		}
		return got, err
	}
	for _, kind := range []storetest.Fault{storetest.None, storetest.Shorten, storetest.Cut} {
		n := 0
		s.set(func(*http.Request) storetest.Fault {
			if n++; n%2 == 1 {
				return kind
			}
			return storetest.None
		})
		for _, c := range []struct {
			off  int64
			n    int
			want int
			err  error
		}{{0, 10, 10, nil}, {partLen - 5, 10, 10, nil}, {1, 3 * partLen, 3 * partLen, nil}, {3 * partLen, 200, 100, io.EOF}, {5, len(content) - 5, len(content) - 5, nil}, {7, 0, 0, nil}} {
			if got, err := read(c.off, c.n); got != c.want || err != c.err {
				t.Errorf("fault %d, %d bytes at %d: %d, %v", kind, c.n, c.off, got, err)
			}
		}
	}
	// What cannot be read at all is told by how much could be, from the start.
	s.set(func(r *http.Request) storetest.Fault {
		if strings.HasPrefix(r.Header.Get("Range"), "bytes=1048576-") {
			return storetest.Refuse
		}
		return storetest.None
	})
	if got, err := read(0, 3*partLen); got != partLen || err == nil {
		t.Errorf("with a hole: %d, %v", got, err)
	}
}
