package fact

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"mimeo/internal/imaging/extent"
)

func TestPieces(t *testing.T) {
	var p Pieces
	for _, f := range []Piece{{Off: 100, Len: 10, At: 5}, {Off: 0, Len: 50}, {Off: 40, Len: 10}, {Off: -1, Len: 5}, {Off: 5, Len: 0}, {Off: 60, Len: 10, At: -1}, {Off: 1 << 62, Len: 1 << 62}, {Off: 100, Len: 10, At: 7}} {
		p.Add(f)
	}
	if got, want := p.List(), []Piece{{0, 50, 0}, {100, 10, 5}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// Of too many the shortest go.
	p = Pieces{most: 100}
	r := rand.New(rand.NewPCG(1, 1))
	long := 0
	for i := range int64(5000) {
		n := 1 + r.Int64N(50)
		if i%100 == 0 {
			n, long = 1000, long+1
		}
		p.Add(Piece{Off: i * 1000, Len: n})
	}
	list := p.List()
	if len(list) > 100 {
		t.Errorf("%d pieces are kept", len(list))
	}
	for _, f := range list {
		if f.Len == 1000 {
			long--
		}
	}
	if long != 0 {
		t.Errorf("%d long ones are missing", long)
	}
}

func TestPart(t *testing.T) {
	outer := make([]byte, 10_000)
	r := rand.New(rand.NewPCG(2, 2))
	for i := range outer {
		outer[i] = byte(r.Uint32())
	}
	p := Part{Size: 700, Spans: []Span{{0, 5000, 100}, {100, 100, 500}, {600, 9000, 100}}}
	want := slices.Concat(outer[5000:5100], outer[100:600], outer[9000:9100])
	if err := iotest.TestReader(io.NewSectionReader(p.Reader(bytes.NewReader(outer)), 0, p.Size), want); err != nil {
		t.Error(err)
	}
	if got := p.OuterList(extent.List{{Off: 90, Len: 20}, {Off: 599, Len: 2}}); !slices.Equal(got, extent.List{{Off: 100, Len: 10}, {Off: 599, Len: 1}, {Off: 5090, Len: 10}, {Off: 9000, Len: 1}}) {
		t.Errorf("%v", got)
	}
	if n := p.All().Bytes(); n != 700 {
		t.Errorf("%d bytes", n)
	}
	// A volume that ends too soon.
	b := make([]byte, 700)
	if n, err := p.Reader(bytes.NewReader(outer[:9050])).ReadAt(b, 0); n != 650 || err != io.ErrUnexpectedEOF {
		t.Errorf("%d, %v", n, err)
	}
}
