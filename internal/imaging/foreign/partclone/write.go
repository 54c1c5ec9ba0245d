package partclone

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"mimeo/internal/imaging/extent"
)

// stripBlocks is how many blocks have a checksum together, as partclone has it by default.
const stripBlocks = 256

// Write writes an image, format 0002, of a partition of size bytes, of which the used extents are in use; each must lie
// on blocks.
func Write(ctx context.Context, w io.Writer, fs string, size int64, blockSize int, used extent.List, from io.ReaderAt, progress func(done, total int64)) error {
	bs := int64(blockSize)
	blocks := size / bs
	bitmap := make([]byte, (blocks+7)/8)
	count := int64(0)
	for _, e := range used {
		if e.Off%bs != 0 || e.Len%bs != 0 || e.End() > blocks*bs {
			return fmt.Errorf("bytes %d to %d do not lie on blocks of %d in a partition of %d bytes", e.Off, e.End(), bs, size)
		}
		for i := e.Off / bs; i < e.End()/bs; i++ {
			bitmap[i/8] |= 1 << (i % 8)
		}
		count += e.Len / bs
	}
	le := binary.LittleEndian
	h := make([]byte, headLen)
	copy(h, Magic)
	copy(h[16:30], "mimeo")
	copy(h[30:], "0002")
	le.PutUint16(h[34:], 0xC0DE)
	copy(h[36:51], fs)
	le.PutUint64(h[52:], uint64(size))
	le.PutUint64(h[60:], uint64(blocks))
	le.PutUint64(h[68:], uint64(count))
	le.PutUint64(h[76:], uint64(count))
	le.PutUint32(h[84:], uint32(blockSize))
	le.PutUint32(h[88:], 18)
	le.PutUint16(h[92:], 2)
	le.PutUint16(h[94:], 64)
	le.PutUint16(h[96:], sumCRC32)
	le.PutUint16(h[98:], 4)
	le.PutUint32(h[100:], stripBlocks)
	h[104], h[105] = 1, 1
	le.PutUint32(h[106:], crc(h[:106]))
	for _, b := range [][]byte{h, bitmap, le.AppendUint32(nil, crc(bitmap))} {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	var sum uint32
	var inStrip, done int64
	end := func() error {
		_, err := w.Write(le.AppendUint32(nil, ^sum))
		sum, inStrip = 0, 0
		return err
	}
	buf := make([]byte, max(1, min(stripBlocks, (1<<20)/bs))*bs)
	for _, e := range used {
		for off := e.Off; off < e.End(); {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b := buf[:min(e.End()-off, int64(len(buf)), (stripBlocks-inStrip)*bs)]
			if n, err := from.ReadAt(b, off); n < len(b) && err != nil {
				return errors.Join(fmt.Errorf("read %d bytes of the partition at %d", len(b), off), err)
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
			sum = crc32.Update(sum, crc32.IEEETable, b)
			off, done = off+int64(len(b)), done+int64(len(b))
			if inStrip += int64(len(b)) / bs; inStrip == stripBlocks {
				if err := end(); err != nil {
					return err
				}
			}
			if progress != nil {
				progress(done, count*bs)
			}
		}
	}
	if inStrip > 0 {
		return end()
	}
	return nil
}
