package transcript

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

var when = time.Date(2026, 3, 4, 5, 6, 7, 123456000, time.UTC)

func sample() []Record {
	return []Record{{Output, when, []byte("login: ")}, {Note, when.Add(time.Second), []byte("admin attached")},
		{Output, when.Add(2 * time.Second), bytes.Repeat([]byte{0, 0xff}, 100)}, {Output, when.Add(3 * time.Second), []byte{}}}
}

func encode(rs []Record) []byte {
	b := AppendHeader(nil)
	for _, r := range rs {
		b = r.Append(b)
	}
	return b
}

func decode(b []byte) (out []Record, off int64, err error) {
	r := NewReader(bytes.NewReader(b))
	for {
		rec, err := r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return out, r.Offset(), err
		}
		out = append(out, rec)
	}
}

func TestRoundTrip(t *testing.T) {
	b := encode(sample())
	b = append(b, encode([]Record{{Output, when, bytes.Repeat([]byte("x"), 3*MaxData-1)}})...) // one behind the other
	got, off, err := decode(b)
	if err != nil || off != int64(len(b)) || len(got) != 7 {
		t.Fatalf("%d records, %d of %d bytes: %v", len(got), off, len(b), err)
	}
	for i, want := range sample() {
		if g := got[i]; g.Kind != want.Kind || !g.Time.Equal(want.Time) || !bytes.Equal(g.Data, want.Data) {
			t.Errorf("record %d: %+v, want %+v", i, g, want)
		}
	}
	// A kind of a later version is passed over.
	odd := encode([]Record{{Kind('z'), when, []byte("?")}, {Output, when, []byte("!")}})
	if got, _, err := decode(odd); err != nil || len(got) != 1 || string(got[0].Data) != "!" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Whatever is cut off or changed, what is given out is what was written.
func TestBroken(t *testing.T) {
	b := encode(sample())
	ends := map[int64]bool{}
	r := NewReader(bytes.NewReader(b))
	for {
		ends[r.Offset()] = true
		if _, err := r.Next(); err != nil {
			break
		}
	}
	for n := range b {
		got, off, err := decode(b[:n])
		if !ends[off] && off != int64(headerLen) || (err == nil) != (off == int64(n) && n > 0) {
			t.Fatalf("cut at %d: %d records, good until %d, %v", n, len(got), off, err)
		}
		bad := bytes.Clone(b)
		bad[n] ^= 0x10
		got, _, err = decode(bad)
		if !errors.Is(err, ErrBroken) || len(got) >= len(sample()) {
			t.Fatalf("byte %d changed: %d records, %v", n, len(got), err)
		}
	}
	if _, _, err := decode(append([]byte(magic), 0, 9)); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("version 9: %v", err)
	}
}

func TestPlain(t *testing.T) {
	var out strings.Builder
	p := NewPlain(&out)
	for i, s := range []string{"\x1b[2J\x1b[1;31mSea", "BIOS\x1b[0m\r\n", "lo\x1b]0;title\x07gin: \x07", "rx\boot\x1b(B\r\n", "caf\xe9 \xc3\xa9\r\n", strings.Repeat("y", maxLine+1), "\x1b[12"} {
		if err := p.Write(Record{Output, when.Add(time.Duration(i) * time.Second), []byte(s)}); err != nil {
			t.Fatal(err)
		}
	}
	p.Write(Record{Note, when.Add(time.Minute), []byte("the line\nwas lost")})
	p.Flush()
	want := "2026-03-04 05:06:07.123  SeaBIOS\n2026-03-04 05:06:09.123  login: root\n2026-03-04 05:06:11.123  caf\uFFFD \u00e9\n2026-03-04 05:06:12.123  " +
		strings.Repeat("y", maxLine) + "\n2026-03-04 05:06:12.123  y\n2026-03-04 05:07:07.123  [the line was lost]\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(encode(sample()))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, off, _ := decode(b)
		if off > int64(len(b)) {
			t.Fatalf("%d of %d bytes are good", off, len(b))
		}
		p := NewPlain(io.Discard)
		for _, r := range got {
			if len(r.Data) > MaxData {
				t.Fatal("a record is too large")
			}
			p.Write(r)
		}
		if p.Flush(); len(p.line) > maxLine {
			t.Fatal("a line is too long")
		}
		again, _, err := decode(encode(got))
		if err != nil || len(again) != len(got) {
			t.Fatalf("%d of %d records, %v", len(again), len(got), err)
		}
	})
}
