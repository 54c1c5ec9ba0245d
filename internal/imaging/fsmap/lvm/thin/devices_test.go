package thin

import (
	"bytes"
	"hash/crc32"
	"testing"

	"mimeo/internal/imaging/extent"
)

// two makes the metadata of a pool with two volumes that share their first blocks: 0 to 2 of one lie in data blocks 0 to 2, of the
// other block 9 lies in data block 3, too.
func two() []byte {
	b := append(metadata(4), make([]byte, 4*blockLen)...)
	le.PutUint64(b[48:], 5)
	le.PutUint64(b[320:], 4)
	le.PutUint64(b[328:], 5)
	node := func(n int, valueLen uint32, pairs ...uint64) {
		most := (blockLen - nodeHead) / (8 + valueLen) / 3 * 3
		x := b[n*blockLen:][:blockLen]
		le.PutUint64(x[8:], uint64(n))
		le.PutUint32(x[4:], leaf)
		le.PutUint32(x[16:], uint32(len(pairs)/2))
		le.PutUint32(x[20:], most)
		le.PutUint32(x[24:], valueLen)
		for i := 0; i < len(pairs); i += 2 {
			le.PutUint64(x[nodeHead+8*(i/2):], pairs[i])
			le.PutUint64(x[nodeHead+8*int(most)+int(valueLen)*(i/2):], pairs[i+1])
		}
	}
	node(4, mapLen, 1, 6, 2, 7)
	node(5, detailsLen, 1, 3, 2, 4)
	node(6, mapLen, 0, 0, 1, 1<<timeBits|7, 2, 2<<timeBits)
	node(7, mapLen, 0, 0, 1, 1<<timeBits|7, 2, 2<<timeBits, 9, 3<<timeBits|8)
	return sumsOfTwo(b)
}

func sumsOfTwo(b []byte) []byte {
	for i, mix := range []uint32{superSum, nodeSum, bitmapSum, 0, nodeSum, nodeSum, nodeSum, nodeSum} {
		if one := b[i*blockLen:][:blockLen]; mix != 0 {
			le.PutUint32(one, ^crc32.Checksum(one[4:], castagnoli)^mix)
		}
	}
	return b
}

func devices(b []byte) ([]Device, string, error) {
	r, n := bytes.NewReader(b), int64(len(b))
	used, why, err := Used(r, n, 200*chunk, chunk)
	if why != "" || err != nil {
		return nil, why, err
	}
	return Devices(r, n, 200*chunk, chunk, 5, used)
}

func TestDevices(t *testing.T) {
	list, why, err := devices(two())
	if why != "" || err != nil || len(list) != 2 || list[0].ID != 1 || list[1].ID != 2 {
		t.Fatalf("%+v, %s, %v", list, why, err)
	}
	if s := list[0].Spans; len(s) != 1 || s[0].At != 0 || s[0].Off != 0 || s[0].Len != 3*chunk {
		t.Errorf("%+v", s)
	}
	if s := list[1].Spans; len(s) != 2 || s[1].At != 9*chunk || s[1].Off != 3*chunk || s[1].Len != chunk {
		t.Errorf("%+v", s)
	}
	const top, details, second = 4 * blockLen, 5 * blockLen, 7 * blockLen
	values := func(at, n int) int {
		return at + nodeHead + 8*int(le.Uint32(two()[at+20:])) + n*int(le.Uint32(two()[at+24:]))
	}
	for name, change := range map[string]func(b []byte){
		"state":                 func(b []byte) { le.PutUint64(b[48:], 6) },
		"held":                  func(b []byte) { le.PutUint64(b[56:], 4) },
		"no tree":               func(b []byte) { le.PutUint64(b[320:], 1) },
		"a device twice":        func(b []byte) { le.PutUint64(b[top+nodeHead+8:], 1) },
		"a device less":         func(b []byte) { le.PutUint32(b[details+16:], 1) },
		"a device more":         func(b []byte) { le.PutUint32(b[top+16:], 1) },
		"another device":        func(b []byte) { le.PutUint64(b[details+nodeHead:], 0) },
		"so many blocks":        func(b []byte) { le.PutUint64(b[values(details, 1):], 5) },
		"blocks out of order":   func(b []byte) { le.PutUint64(b[second+nodeHead+8:], 0) },
		"a block far away":      func(b []byte) { le.PutUint64(b[second+nodeHead+3*8:], 1<<60) },
		"a block not in use":    func(b []byte) { le.PutUint64(b[values(second, 3):], 4<<timeBits) },
		"a block of none":       func(b []byte) { le.PutUint64(b[values(second, 3):], 1<<30<<timeBits) },
		"a root that is itself": func(b []byte) { le.PutUint32(b[second+4:], internal); le.PutUint64(b[values(second, 0):], 7) },
	} {
		b := two()
		change(b)
		if list, why, err := devices(sumsOfTwo(b)); err != nil || why == "" || list != nil {
			t.Errorf("%s: %v, %q, %v", name, list, why, err)
		}
	}
}

func FuzzDevices(f *testing.F) {
	f.Add(two())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 8*blockLen || len(b) > 16*blockLen {
			return
		}
		r, n := bytes.NewReader(sumsOfTwo(b)), int64(len(b))
		all := extent.List{{Len: 200 * chunk}}
		list, why, err := Devices(r, n, 200*chunk, chunk, 5, all)
		if err != nil {
			t.Fatal(err)
		}
		if why != "" {
			return
		}
		for _, d := range list {
			at := int64(0)
			for _, s := range d.Spans {
				if s.At < at || s.Len <= 0 || s.Off < 0 || s.Off+s.Len > 200*chunk {
					t.Fatalf("%+v", d)
				}
				at = s.At + s.Len
			}
		}
	})
}
