package capture

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
)

// TestFilesAreFoundElsewhere lays the same files out twice, in another order, torn into other pieces, on volumes that
// begin elsewhere: the second capture finds them all but for the borders of pieces that moved.
func TestFilesAreFoundElsewhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	const size = 32 << 20
	files := make([][]byte, 60)
	for i := range files {
		files[i] = make([]byte, 4096*(1+rng.IntN(1+rng.IntN(200))))
		for j := range files[i] {
			files[i][j] = byte(rng.Uint32())
		}
	}
	disk := func(start int64) ([]byte, Plan) {
		data := make([]byte, size)
		plan := Plan{Table: manifest.Table{Kind: "none"}, Volumes: []manifest.Volume{{Off: start, Len: size - start, Type: "ext4", Method: manifest.MethodUsed}}}
		off := start
		for _, i := range rng.Perm(len(files)) {
			for at := 0; at < len(files[i]); {
				n := len(files[i]) - at
				if n > 300<<10 && rng.IntN(3) == 0 {
					n = 128 << 10 // torn where chunks end
				}
				off += 4096 * int64(rng.IntN(2))
				copy(data[off:], files[i][at:at+n])
				plan.Pieces = append(plan.Pieces, fact.Piece{Off: off, Len: int64(n), At: int64(at)})
				plan.Used.Add(extent.Extent{Off: off, Len: int64(n)})
				at, off = at+n, off+int64(n)
			}
		}
		return data, plan
	}
	st := mem.New()
	for i, start := range []int64{1 << 20, 3<<20 + 512} {
		data, plan := disk(start)
		res, err := Run(t.Context(), source(bytes.NewReader(data), size), plan, st, Options{})
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, st, res, data, plan)
		if c := res.Counts; i == 0 && c.New < c.Read-c.Zero || i == 1 && c.New > 0 {
			t.Errorf("capture %d: %d new bytes of %d", i+1, c.New, c.Read)
		}
	}
}
