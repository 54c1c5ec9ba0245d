package fact

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

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
	p := Part{Size: 700, Spans: []Span{{Off: 5000, Len: 100}, {At: 100, Off: 100, Len: 500}, {At: 600, Off: 9000, Len: 100}}}
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

// TestStripes holds what a striped part says of itself against its bytes in turn.
func TestStripes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.Int64Range(1, 4).Draw(t, "places")
		size := rapid.Int64Range(1, 5).Draw(t, "size")
		rows := rapid.Int64Range(1, 4).Draw(t, "rows")
		before := rapid.Int64Range(0, 7).Draw(t, "before") // a plain span in front
		var where []int64
		p := Part{}
		if before > 0 {
			p.Spans = append(p.Spans, Span{Off: 1, Len: before})
			for i := range before {
				where = append(where, 1+i)
			}
		}
		st := &Stripes{Size: size, Step: rapid.SampledFrom([]int64{0, size, 2 * size}).Draw(t, "step")}
		step := max(st.Step, size)
		for i := range places {
			st.Offs = append(st.Offs, 300-50*i)
		}
		n := places * size * rows
		p.Spans = append(p.Spans, Span{At: before, Len: n, Stripes: st})
		for i := range n {
			turn := i / size
			where = append(where, st.Offs[turn%places]+turn/places*step+i%size)
		}
		p.Size = before + n
		outer := make([]byte, 400)
		for i := range outer {
			outer[i] = byte(i * 31)
		}
		moved := make([]byte, 410)
		copy(moved[10:], outer)

		from := rapid.Int64Range(0, p.Size-1).Draw(t, "from")
		e := extent.Extent{Off: from, Len: rapid.Int64Range(1, p.Size-from).Draw(t, "len")}
		var bytesOf []extent.Extent
		var want []byte
		for _, w := range where[e.Off:e.End()] {
			bytesOf = append(bytesOf, extent.Extent{Off: w, Len: 1})
			want = append(want, outer[w])
		}
		if got := p.OuterList(extent.List{e}); !slices.Equal(got, extent.FromUnsorted(bytesOf)) {
			t.Fatalf("%v lies at %v, want %v", e, got, extent.FromUnsorted(bytesOf))
		}
		got := make([]byte, e.Len)
		for _, r := range []io.ReaderAt{p.Reader(bytes.NewReader(outer)), p.Moved(10).Reader(bytes.NewReader(moved)),
			p.Within(Part{Size: 400, Spans: []Span{{Off: 10, Len: 150}, {At: 150, Off: 160, Len: 250}}}).Reader(bytes.NewReader(moved))} {
			if n, err := r.ReadAt(got, e.Off); n < len(got) || err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v: %v, want %v", n, err, got, want)
			}
		}
		if p.All().Bytes() != p.Size {
			t.Fatalf("all of it is %v", p.All())
		}
	})
}
