// Package partimage reads the images of one filesystem that partimage 0.6 made: volumes, each with a head, of a stream of
// heads, a bitmap and the blocks in use, with a CRC behind every 64 KiB of them. The format is as partimage's own sources
// have it (src/shared/common.h, src/client/fs/fs_base.h).
package partimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/bits"
	"strings"
)

// Magic is what every volume begins with.
const Magic = "PaRtImAgE-VoLuMe"

// Lengths in bytes, and bounds of what is believed.
const (
	volumeLen    = 512
	headLen      = 16384 // of the main head, the local head, the filesystem's own, and the tail
	checkEvery   = 65536 // bytes of blocks
	checkLen     = 16
	maxBlockSize = 4 << 20
	maxBlocks    = 1 << 34
	maxExtra     = 1 << 20 // bytes of what is kept for the future
	maxMBRs      = 256
	maxMBRLen    = 1 << 20
)

// Volumes gives the volumes by their numbers, from 0, decompressed. One that is not there is fs.ErrNotExist.
type Volumes func(number int) (io.ReadCloser, error)

// Image is an image whose heads and bitmap were read.
type Image struct {
	FS        string // as partimage calls it: ext2fs, ext3fs, ntfs, fat32, reiserfs-3.6, ...
	Size      int64  // bytes of the partition
	BlockSize int
	Blocks    int64
	Used      int64

	r      *reader
	bitmap []byte
}

// ErrNoImage says that a stream does not begin as a volume does.
var ErrNoImage = errors.New("this is no partimage image")

// Error says what is wrong with an image, and where.
type Error struct {
	Volume int
	Off    int64 // bytes from the start of the volume, decompressed
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("partimage image, volume %03d at byte %d: %v", e.Volume, e.Off, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// reader reads the volumes as one stream.
type reader struct {
	open   Volumes
	cur    io.ReadCloser
	number int
	off    int64
	id     uint64 // of the image
	sum    uint64 // of all bytes but the volumes' heads: the tail's CRC
}

func (r *reader) bad(format string, args ...any) error {
	return &Error{r.number, r.off, fmt.Errorf(format, args...)}
}

// next opens a volume and reads its head.
func (r *reader) next(number int) error {
	if err := r.Close(); err != nil {
		return err
	}
	f, err := r.open(number)
	if errors.Is(err, fs.ErrNotExist) {
		return r.bad("the image goes on in volume %03d, which is not there: %w", number, io.ErrUnexpectedEOF)
	} else if err != nil {
		return &Error{number, 0, err}
	}
	r.cur, r.number, r.off = f, number, 0
	h := make([]byte, volumeLen)
	if _, err := io.ReadFull(f, h); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && !bytes.HasPrefix(h, []byte(Magic)) {
		return &Error{number, 0, ErrNoImage}
	} else if err != nil {
		return &Error{number, 0, err}
	}
	r.off = volumeLen
	if v := word(h[32:96]); v != "0.6.1" && v != "0.6.0" {
		return r.bad("its format is version %q, and 0.6.0 and 0.6.1 are known", v)
	}
	n, id := binary.LittleEndian.Uint32(h[96:]), binary.LittleEndian.Uint64(h[100:])
	switch {
	case n != uint32(number):
		return r.bad("this is volume %03d, and %03d was wanted", n, number)
	case number > 0 && id != r.id:
		return r.bad("this volume is of another image")
	}
	r.id = id
	return nil
}

// Close closes the volume that is open.
func (r *reader) Close() error {
	if r.cur == nil {
		return nil
	}
	err := r.cur.Close()
	r.cur = nil
	return err
}

// full fills b, from the next volume where one ends.
func (r *reader) full(b []byte) error {
	for len(b) > 0 {
		n, err := r.cur.Read(b)
		for _, v := range b[:n] {
			r.sum += uint64(v)
		}
		r.off += int64(n)
		b = b[n:]
		switch {
		case err == nil || len(b) == 0:
		case errors.Is(err, io.EOF):
			if err := r.next(r.number + 1); err != nil {
				return err
			}
		default:
			return &Error{r.number, r.off, err}
		}
	}
	return nil
}

// magic reads a mark.
func (r *reader) magic(want string) error {
	b := make([]byte, len(want))
	if err := r.full(b); err != nil {
		return err
	}
	if string(b) != want {
		return r.bad("damaged: %q should be here", want)
	}
	return nil
}

// checked fills b, and reads the sum of its bytes, which are signed.
func (r *reader) checked(b []byte) error {
	var end [4]byte
	if err := r.full(b); err != nil {
		return err
	}
	if err := r.full(end[:]); err != nil {
		return err
	}
	var sum uint32
	for _, v := range b {
		sum += uint32(int32(int8(v)))
	}
	if want := binary.LittleEndian.Uint32(end[:]); sum != want {
		return r.bad("damaged: a head's sum is %08x and should be %08x", sum, want)
	}
	return nil
}

// skip reads over n bytes.
func (r *reader) skip(n int64) error {
	buf := make([]byte, min(n, 64<<10))
	for ; n > 0; n -= int64(len(buf)) {
		buf = buf[:min(n, int64(len(buf)))]
		if err := r.full(buf); err != nil {
			return err
		}
	}
	return nil
}

// Open reads the heads and the bitmap.
func Open(volumes Volumes) (*Image, error) {
	r := &reader{open: volumes}
	if err := r.next(0); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	img := &Image{r: r}
	if err := img.heads(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return img, nil
}

func (img *Image) heads() error {
	r, le := img.r, binary.LittleEndian
	h := make([]byte, headLen)
	if err := r.checked(h); err != nil {
		return err
	}
	img.FS = word(h[:512])
	size, mbrs, mbrLen, crypt := le.Uint64(h[9592:]), le.Uint32(h[9792:]), le.Uint32(h[9796:]), le.Uint32(h[9800:])
	switch {
	case crypt != 0:
		return r.bad("it is encrypted")
	case mbrs > maxMBRs || mbrLen > maxMBRLen:
		return r.bad("%d MBRs of %d bytes", mbrs, mbrLen)
	}
	if err := r.magic("MAGIC-BEGIN-MBRBACKUP"); err != nil {
		return err
	}
	if err := r.skip(int64(mbrs) * int64(mbrLen)); err != nil {
		return err
	}
	for i := range 10 {
		var n [4]byte
		if err := r.magic(fmt.Sprintf("MAGIC-BEGIN-EXT%03d", i)); err != nil {
			return err
		}
		if err := r.full(n[:]); err != nil {
			return err
		}
		more := le.Uint32(n[:])
		if more > maxExtra {
			return r.bad("%d bytes of something that is not known", more)
		}
		if err := r.skip(int64(more)); err != nil {
			return err
		}
	}
	if err := r.magic("MAGIC-BEGIN-LOCALHEADER"); err != nil {
		return err
	}
	if err := r.checked(h); err != nil {
		return err
	}
	blockSize, blocks, mapLen := le.Uint64(h), le.Uint64(h[16:]), le.Uint64(h[24:])
	switch {
	case blockSize == 0 || blockSize > maxBlockSize:
		return r.bad("blocks of %d bytes", blockSize)
	case blocks > maxBlocks || mapLen > maxBlocks/8+4096 || mapLen < (blocks+7)/8:
		return r.bad("%d blocks, and %d bytes of bitmap", blocks, mapLen)
	case size > 1<<62 || bits.Len64(blocks)+bits.Len64(blockSize) > 62:
		return r.bad("a partition of %d bytes with %d blocks of %d", size, blocks, blockSize)
	}
	img.BlockSize, img.Blocks = int(blockSize), int64(blocks)
	img.Size = max(int64(size), img.Blocks*int64(blockSize))
	if err := r.magic("MAGIC-BEGIN-BITMAP"); err != nil {
		return err
	}
	buf := make([]byte, min(mapLen, 1<<20))
	for left := mapLen; left > 0; left -= uint64(len(buf)) { // as it comes: a head that lies gets no memory
		buf = buf[:min(left, uint64(len(buf)))]
		if err := r.full(buf); err != nil {
			return err
		}
		img.bitmap = append(img.bitmap, buf...)
	}
	img.bitmap = img.bitmap[:(blocks+7)/8]
	if over := blocks % 8; over != 0 {
		img.bitmap[len(img.bitmap)-1] &= 1<<over - 1
	}
	for _, b := range img.bitmap {
		img.Used += int64(bits.OnesCount8(b))
	}
	if used := le.Uint64(h[8:]); used != uint64(img.Used) {
		return r.bad("damaged: %d blocks are in use by the bitmap, and %d by the head", img.Used, used)
	}
	if err := r.magic("MAGIC-BEGIN-INFO"); err != nil {
		return err
	}
	if err := r.checked(h); err != nil {
		return err
	}
	return r.magic("MAGIC-BEGIN-DATABLOCKS")
}

// Close closes the volume that is open.
func (img *Image) Close() error { return img.r.Close() }

// Restore writes the blocks in use to their places in a partition that begins at w's start; what is not in use is not
// written. Every checksum is checked. It may be called once.
func (img *Image) Restore(ctx context.Context, w io.WriterAt, progress func(done, total int64)) error {
	bs := int64(img.BlockSize)
	total, done := img.Used*bs, int64(0)
	var crc uint32
	fill := int64(0) // bytes since the last check
	buf := make([]byte, checkEvery)
	for at := int64(0); at < img.Blocks; {
		if img.bitmap[at/8] == 0 {
			at = (at/8 + 1) * 8
			continue
		}
		if img.bitmap[at/8]&(1<<(at%8)) == 0 {
			at++
			continue
		}
		n := int64(1)
		for at+n < img.Blocks && img.bitmap[(at+n)/8]&(1<<((at+n)%8)) != 0 && n*bs < 1<<20 {
			n++
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		for off, end := at*bs, (at+n)*bs; off < end; {
			b := buf[:min(end-off, checkEvery-fill)]
			if err := img.r.full(b); err != nil {
				return err
			}
			crc = crc32.Update(crc, crc32.IEEETable, b)
			if fill += int64(len(b)); fill == checkEvery {
				if err := img.check(crc); err != nil {
					return err
				}
				crc, fill = 0, 0
			}
			if _, err := w.WriteAt(b, off); err != nil {
				return err
			}
			off, done = off+int64(len(b)), done+int64(len(b))
			if progress != nil {
				progress(done, total)
			}
		}
		at += n
	}
	return img.tail()
}

// check reads what lies behind 64 KiB of blocks.
func (img *Image) check(crc uint32) error {
	var b [checkLen]byte
	if err := img.r.full(b[:]); err != nil {
		return err
	}
	if string(b[:3]) != "CHK" {
		return img.r.bad("damaged: a checksum should be here")
	}
	if want := binary.LittleEndian.Uint32(b[4:]); crc != want {
		return img.r.bad("damaged: the CRC of the blocks before is %08x and should be %08x", crc, want)
	}
	return nil
}

// tail reads the end, with the sum of all bytes: what lies behind the last check has no CRC of its own.
func (img *Image) tail() error {
	if err := img.r.magic("MAGIC-BEGIN-TAIL"); err != nil {
		return err
	}
	sum := img.r.sum
	b := make([]byte, headLen)
	if err := img.r.full(b); err != nil {
		return err
	}
	if want := binary.LittleEndian.Uint64(b); sum != want {
		return img.r.bad("damaged: the sum of all bytes is %d and should be %d", sum, want)
	}
	// What compressed the volume has a checksum of its own, at the end.
	if _, err := io.Copy(io.Discard, img.r.cur); err != nil {
		return &Error{img.r.number, img.r.off, err}
	}
	return nil
}

func word(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
