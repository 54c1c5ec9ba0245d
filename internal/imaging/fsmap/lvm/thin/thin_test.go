package thin

import (
	"bytes"
	"hash/crc32"
	"testing"
)

const chunk = 64 << 10

// metadata makes that of a pool of 100 data blocks, of which the first n are in use.
func metadata(n int) []byte {
	b := make([]byte, 4*blockLen)
	le.PutUint64(b[32:], magic)
	le.PutUint32(b[40:], 2)
	le.PutUint32(b[336:], chunk/sector)
	le.PutUint64(b[64:], 100)
	le.PutUint64(b[72:], uint64(n))
	le.PutUint64(b[80:], 1)
	node := b[blockLen:]
	le.PutUint64(node[8:], 1)
	le.PutUint32(node[4:], leaf)
	le.PutUint32(node[16:], 1)
	le.PutUint32(node[20:], 126)
	le.PutUint32(node[24:], indexLen)
	le.PutUint64(node[nodeHead+8*126:], 2)
	bitmap := b[2*blockLen:]
	le.PutUint64(bitmap[8:], 2)
	for i := range n {
		bitmap[bitmapHead+i/4] |= 1 << (i % 4 * 2)
	}
	return sums(b)
}

// sums puts the checksums right.
func sums(b []byte) []byte {
	for i, mix := range []uint32{superSum, nodeSum, bitmapSum} {
		one := b[i*blockLen:][:blockLen]
		le.PutUint32(one, ^crc32.Checksum(one[4:], castagnoli)^mix)
	}
	return b
}

func TestUsed(t *testing.T) {
	list, why, err := Used(bytes.NewReader(metadata(7)), 4*blockLen, 200*chunk, chunk)
	if err != nil || why != "" || list.Bytes() != 7*chunk || len(list) != 1 {
		t.Errorf("%v, %s, %v", list, why, err)
	}
	for name, change := range map[string]func(b []byte){
		"count":     func(b []byte) { le.PutUint64(b[72:], 8) },
		"version":   func(b []byte) { le.PutUint32(b[40:], 3) },
		"check":     func(b []byte) { le.PutUint32(b[4:], needsCheck) },
		"too large": func(b []byte) { le.PutUint64(b[64:], 201) },
		"chunk":     func(b []byte) { le.PutUint32(b[336:], 256) },
		"loop": func(b []byte) {
			le.PutUint32(b[blockLen+4:], internal)
			le.PutUint32(b[blockLen+24:], 8)
			le.PutUint64(b[blockLen+nodeHead+8*126:], 1)
		},
		"key":       func(b []byte) { le.PutUint64(b[blockLen+nodeHead:], 1) },
		"empty":     func(b []byte) { le.PutUint32(b[blockLen+16:], 0) },
		"elsewhere": func(b []byte) { le.PutUint64(b[blockLen+nodeHead+8*126:], 9) },
	} {
		b := metadata(7)
		change(b)
		if list, why, err := Used(bytes.NewReader(sums(b)), 4*blockLen, 200*chunk, chunk); err != nil || why == "" || list != nil {
			t.Errorf("%s: %v, %q, %v", name, list, why, err)
		}
	}
	b := metadata(7)
	b[2*blockLen+20] ^= 1
	if _, why, err := Used(bytes.NewReader(b), 4*blockLen, 200*chunk, chunk); err != nil || why == "" {
		t.Errorf("a wrong checksum: %q, %v", why, err)
	}
	if _, _, err := Used(bytes.NewReader(b[:blockLen]), 4*blockLen, 200*chunk, chunk); err == nil {
		t.Error("a disk that cannot be read: no error")
	}
}

func FuzzUsed(f *testing.F) {
	f.Add(metadata(3), int64(100*chunk))
	f.Add(metadata(100), int64(1<<40))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) < 3*blockLen || len(b) > 16*blockLen || size < 0 {
			return
		}
		list, why, err := Used(bytes.NewReader(sums(b)), int64(len(b)), size, chunk)
		if err != nil {
			t.Fatal(err)
		}
		if list.Valid() != nil || why != "" && list != nil || len(list) > 0 && list[len(list)-1].End() > size {
			t.Fatalf("%v of %d, %s", list, size, why)
		}
	})
}
