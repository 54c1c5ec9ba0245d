package md

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzOpen puts superblocks of all versions, with right checksums, on a small volume.
func FuzzOpen(f *testing.F) {
	le := binary.LittleEndian
	one := make([]byte, 4096)
	le.PutUint32(one, magic)
	le.PutUint32(one[4:], 1)
	le.PutUint32(one[72:], 1)
	le.PutUint64(one[80:], 64)
	le.PutUint32(one[92:], 2)
	le.PutUint64(one[128:], 16)
	le.PutUint64(one[136:], 100)
	le.PutUint64(one[144:], 8)
	le.PutUint32(one[220:], 8)
	f.Add(one, uint8(3))
	zero := make([]byte, 4096)
	le.PutUint32(zero, magic)
	le.PutUint32(zero[8:], 90)
	le.PutUint32(zero[28:], 1)
	le.PutUint32(zero[32:], 100)
	f.Add(zero, uint8(0))
	f.Fuzz(func(t *testing.T, sb []byte, which uint8) {
		const size = 256 << 10
		disk := make([]byte, size)
		p := places(size)[which%4]
		copy(disk[p.at:p.at+4096], sb)
		b := disk[p.at : p.at+4096]
		if p.version == "0.90" {
			var sum uint64
			for i := range 1024 {
				if i != 38 {
					sum += uint64(le.Uint32(b[4*i:]))
				}
			}
			le.PutUint32(b[152:], uint32(sum)+uint32(sum>>32))
		} else if n := 256 + 2*uint64(le.Uint32(b[220:])); n <= 4096 {
			le.PutUint32(b[216:], sum1(b[:n]))
		}
		c, why, err := Open(bytes.NewReader(disk), size)
		if err != nil {
			t.Fatal(err)
		}
		if why != "" {
			return
		}
		if err := c.Meta.Valid(); err != nil {
			t.Fatal(err)
		}
		if len(c.Parts) != 1 || c.Parts[0].Size <= 0 || c.Parts[0].Spans[0].Off+c.Parts[0].Size > size {
			t.Fatalf("%+v", c)
		}
		if kept := c.Meta.Bytes() + c.Parts[0].Size; kept != size {
			t.Fatalf("%d of %d bytes are known", kept, size)
		}
	})
}
