// Package partclone reads and writes partclone's images of one filesystem, formats 0001 and 0002: IMAGE_FORMATS.md of
// partclone. An image is a stream: a head, a bitmap of the blocks in use, and these blocks in order with checksums.
package partclone

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Magic is what every image begins with.
const Magic = "partclone-image"

// Lengths in bytes, and bounds of what is believed.
const (
	headLen       = 110       // of format 0002
	headLen1      = 64 + 4096 // of format 0001
	maxBlockSize  = 4 << 20   // more than the clusters of any filesystem that partclone reads
	maxBlockSize1 = 1 << 20
	maxBlocks     = 1 << 34    // of 4 KiB: 64 TiB
	maxSize       = 1<<63 - 1  // bytes
	mapPart       = 1 << 20    // bytes of the bitmap that are taken at once
	byteMapEnd    = "BiTmAgIc" // ends the bitmap of format 0001
)

// Checksum modes (checksum.h of partclone).
const (
	sumNone  = 0x00
	sumCRC32 = 0x20
	sumXXH64 = 0x30
	sumFirst = 0xff // ours, for format 0001: a CRC-32 of as many times the first byte as the block has bytes
)

// Image is an image whose head and bitmap were read.
type Image struct {
	FS        string // as partclone calls it: EXTFS, NTFS, XFS, BTRFS, FAT, raw, ...
	Size      int64  // bytes of the partition
	BlockSize int
	Blocks    int64 // of the filesystem
	Used      int64 // blocks that are in the image
	Version   int   // of the format: 1 or 2
	Program   string

	r      *counter
	bitmap []byte // a bit for each block, the lowest first; nil where all are in use
	sum    int
	sumLen int
	strip  int64 // blocks that have a checksum together; 0 for no checksums
	reseed bool
}

// Error says what is wrong with an image, and where.
type Error struct {
	Off int64 // bytes from the start of the stream
	Err error
}

func (e *Error) Error() string {
	return fmt.Sprintf("partclone image, at byte %d: %v", e.Off, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// ErrNoImage says that a stream does not begin as an image does.
var ErrNoImage = errors.New("this is no partclone image")

// counter knows how far a stream was read.
type counter struct {
	r   io.Reader
	off int64
}

// full fills b. An end that comes too early is io.ErrUnexpectedEOF.
func (c *counter) full(b []byte) error {
	n, err := io.ReadFull(c.r, b)
	c.off += int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{c.off, fmt.Errorf("the image ends here, it is cut off: %w", err)}
	}
	if err != nil {
		return &Error{c.off, err}
	}
	return nil
}

func (c *counter) bad(format string, args ...any) error {
	return &Error{c.off, fmt.Errorf(format, args...)}
}

// Open reads the head and the bitmap.
func Open(r io.Reader) (*Image, error) {
	c := &counter{r: r}
	head := make([]byte, headLen)
	if err := c.full(head); err != nil {
		if c.off < int64(len(Magic)) || !bytes.HasPrefix(head, []byte(Magic)) {
			return nil, ErrNoImage
		}
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte(Magic)) {
		return nil, ErrNoImage
	}
	img := &Image{r: c}
	var err error
	switch v := string(head[30:34]); v {
	case "0001":
		err = img.open1(head)
	case "0002":
		err = img.open2(head)
	default:
		err = c.bad("its format is version %q, and 0001 and 0002 are known", v)
	}
	if err != nil {
		return nil, err
	}
	return img, nil
}

// set takes the sizes that both formats have.
func (img *Image) set(size, blocks uint64, blockSize uint32) error {
	switch {
	case blockSize == 0 || blockSize > maxBlockSize:
		return img.r.bad("blocks of %d bytes", blockSize)
	case blocks > maxBlocks:
		return img.r.bad("%d blocks are more than %d", blocks, int64(maxBlocks))
	case size > maxSize || bits.Len64(blocks)+bits.Len32(blockSize) > 62:
		return img.r.bad("a partition of %d bytes with %d blocks of %d", size, blocks, blockSize)
	}
	img.Size, img.Blocks, img.BlockSize = int64(size), int64(blocks), int(blockSize)
	img.Size = max(img.Size, img.Blocks*int64(blockSize)) // some filesystems are told by their blocks alone
	return nil
}

func (img *Image) open2(h []byte) error {
	le := binary.LittleEndian
	if end := le.Uint16(h[34:]); end == 0xDEC0 {
		return img.r.bad("it was made on a big-endian machine, which is not read here: restore it there, and capture the disk")
	} else if end != 0xC0DE {
		return img.r.bad("its mark of endianness is %#x", end)
	}
	if got, want := crc(h[:106]), le.Uint32(h[106:]); got != want {
		return img.r.bad("the head is damaged: its checksum is %08x and should be %08x", got, want)
	}
	img.Version, img.Program, img.FS = 2, word(h[16:30]), word(h[36:52])
	if err := img.set(le.Uint64(h[52:]), le.Uint64(h[60:]), le.Uint32(h[84:])); err != nil {
		return err
	}
	if n := le.Uint32(h[88:]); n != 18 {
		return img.r.bad("options of %d bytes, and 18 are known", n)
	}
	img.sum, img.sumLen = int(le.Uint16(h[96:])), int(le.Uint16(h[98:]))
	img.strip, img.reseed = int64(le.Uint32(h[100:])), h[104] != 0
	want, ok := map[int]int{sumNone: 0, sumCRC32: 4, sumXXH64: 8}[img.sum]
	switch {
	case !ok:
		return img.r.bad("checksums of kind %#x are not known", img.sum)
	case want != img.sumLen || (want == 0) != (img.strip == 0):
		return img.r.bad("checksums of %d bytes for %d blocks, of kind %#x", img.sumLen, img.strip, img.sum)
	}
	switch mode := h[105]; mode {
	case 0:
		img.Used = img.Blocks
		return nil
	case 1:
	default:
		return img.r.bad("a bitmap of kind %d is not known", mode)
	}
	if err := img.readMap((img.Blocks+7)/8, func(b []byte) { img.bitmap = append(img.bitmap, b...) }); err != nil {
		return err
	}
	var end [4]byte
	if err := img.r.full(end[:]); err != nil {
		return err
	}
	if got, want := crc(img.bitmap), le.Uint32(end[:]); got != want {
		return img.r.bad("the bitmap is damaged: its checksum is %08x and should be %08x", got, want)
	}
	if over := img.Blocks % 8; over != 0 {
		img.bitmap[len(img.bitmap)-1] &= 1<<over - 1
	}
	img.count()
	return nil
}

func (img *Image) open1(h []byte) error {
	le := binary.LittleEndian
	img.Version, img.FS = 1, word(h[15:30])
	img.sum, img.sumLen, img.strip = sumFirst, 4, 1
	if err := img.set(le.Uint64(h[40:]), le.Uint64(h[48:]), le.Uint32(h[36:])); err != nil {
		return err
	}
	if img.BlockSize > maxBlockSize1 {
		return img.r.bad("blocks of %d bytes", img.BlockSize)
	}
	if err := img.r.full(make([]byte, headLen1-headLen)); err != nil {
		return err
	}
	img.r.r = bufio.NewReaderSize(img.r.r, img.BlockSize+16)
	at := int64(0)
	err := img.readMap(img.Blocks, func(b []byte) {
		for _, v := range b { // other values than 0 and 1 were seen, and mean 0
			if at%8 == 0 {
				img.bitmap = append(img.bitmap, 0)
			}
			if v == 1 {
				img.bitmap[at/8] |= 1 << (at % 8)
			}
			at++
		}
	})
	if err != nil {
		return err
	}
	end := make([]byte, len(byteMapEnd))
	if err := img.r.full(end); err != nil {
		return err
	}
	if string(end) != byteMapEnd {
		return img.r.bad("the bitmap does not end where it should")
	}
	img.count()
	return nil
}

// readMap reads n bytes of a bitmap, as they come: a head that lies gets no memory.
func (img *Image) readMap(n int64, add func([]byte)) error {
	buf := make([]byte, min(n, mapPart))
	for ; n > 0; n -= int64(len(buf)) {
		buf = buf[:min(n, mapPart)]
		if err := img.r.full(buf); err != nil {
			return err
		}
		add(buf)
	}
	return nil
}

func (img *Image) count() {
	for _, b := range img.bitmap {
		img.Used += int64(bits.OnesCount8(b))
	}
}

// next returns the run of used blocks at or after a block, at most so many; none at the end.
func (img *Image) next(from, most int64) (start, n int64) {
	if img.bitmap == nil {
		return from, min(most, img.Blocks-from)
	}
	has := func(i int64) bool { return img.bitmap[i/8]&(1<<(i%8)) != 0 }
	for from < img.Blocks && !has(from) {
		if from%8 == 0 && img.bitmap[from/8] == 0 {
			from += 8
			continue
		}
		from++
	}
	start = from
	for n < most && start+n < img.Blocks && has(start+n) {
		n++
	}
	return start, n
}

// Restore writes the blocks in use to their places in a partition that begins at w's start; what is not in use is not
// written. Every checksum is checked. It may be called once.
func (img *Image) Restore(ctx context.Context, w io.WriterAt, progress func(done, total int64)) error {
	bs := int64(img.BlockSize)
	total := img.Used * bs
	buf := make([]byte, max(1, min((1<<20)/bs, 1024))*bs)
	sum := newSum(img)
	var done, inStrip int64
	for at := int64(0); ; {
		most := int64(len(buf)) / bs
		if img.strip > 0 {
			most = min(most, img.strip-inStrip)
		}
		start, n := img.next(at, most)
		if n <= 0 {
			break
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := buf[:n*bs]
		if err := img.r.full(b); err != nil {
			return err
		}
		sum.add(b)
		if inStrip += n; inStrip == img.strip && img.strip > 0 {
			if err := sum.check(start + n - 1); err != nil {
				return err
			}
			inStrip = 0
		}
		off := start * bs
		if _, err := w.WriteAt(b[:min(int64(len(b)), img.Size-off)], off); err != nil {
			return err
		}
		at, done = start+n, done+n*bs
		if progress != nil {
			progress(done, total)
		}
	}
	if inStrip > 0 && img.strip > 0 {
		return sum.check(img.Blocks - 1)
	}
	return nil
}

// sum checks the checksums of strips of blocks.
type sum struct {
	img  *Image
	crc  uint32 // inverted, as hash/crc32 has it; of sumFirst as it is
	xxh  *xxhash.Digest
	wide bool // of format 0001: written by a program of 64 bits, with four bytes more behind each
	seen int
}

func newSum(img *Image) *sum {
	s := &sum{img: img, xxh: xxhash.New()}
	s.reset()
	return s
}

func (s *sum) reset() {
	s.crc = 0
	if s.img.sum == sumFirst {
		s.crc = 1<<32 - 1
	}
	s.xxh.Reset()
}

func (s *sum) add(b []byte) {
	switch s.img.sum {
	case sumCRC32:
		s.crc = crc32.Update(s.crc, crc32.IEEETable, b)
	case sumXXH64:
		s.xxh.Write(b)
	case sumFirst:
		for range b {
			s.crc = s.crc>>8 ^ crc32.IEEETable[byte(s.crc)^b[0]]
		}
	}
}

// check reads a checksum and compares it with that of what was added.
func (s *sum) check(block int64) error {
	if s.img.sum == sumFirst {
		return s.checkFirst(block)
	}
	var b [8]byte
	if err := s.img.r.full(b[:s.img.sumLen]); err != nil {
		return err
	}
	got, want := uint64(^s.crc), uint64(binary.LittleEndian.Uint32(b[:]))
	if s.img.sum == sumXXH64 {
		got, want = s.xxh.Sum64(), binary.LittleEndian.Uint64(b[:])
	}
	if got != want {
		return s.img.r.bad("damaged: the checksum of the blocks up to block %d is %x and should be %x", block, got, want)
	}
	if s.img.reseed {
		s.reset()
	}
	return nil
}

// checkFirst is check of format 0001. Programs of 64 bits wrote eight bytes for each checksum: whether that is so shows
// in the second one.
func (s *sum) checkFirst(block int64) error {
	var b [4]byte
	if err := s.img.r.full(b[:]); err != nil {
		return err
	}
	want := binary.LittleEndian.Uint32(b[:])
	if want != s.crc {
		return s.img.r.bad("damaged: the checksum of block %d is %08x and should be %08x", block, s.crc, want)
	}
	if s.seen++; s.seen == 1 {
		s.wide = s.looksWide()
	}
	if s.wide && s.seen < int(s.img.Used) {
		return s.img.r.full(b[:])
	}
	return nil
}

// looksWide tells whether the second block's checksum is right only where four bytes more lie before the block.
func (s *sum) looksWide() bool {
	peek, ok := s.img.r.r.(*bufio.Reader)
	if !ok {
		return false
	}
	bs := s.img.BlockSize
	b, err := peek.Peek(bs + 8) // fewer where the image ends before: then the checksum itself says so
	if err != nil || len(b) < bs+8 {
		return false
	}
	is := func(b []byte) bool {
		next := sum{img: s.img, crc: s.crc}
		next.add(b[:bs])
		return binary.LittleEndian.Uint32(b[bs:]) == next.crc
	}
	return !is(b) && is(b[4:])
}

// crc is a CRC-32 without its last inversion, as partclone has it.
func crc(b []byte) uint32 { return ^crc32.ChecksumIEEE(b) }

func word(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
