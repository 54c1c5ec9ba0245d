package deploy

import (
	"fmt"
	"io"
	"sync"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/view"
)

// before is the disk as the last deploy left it. Chunks that still lie on the disk, by their names, are read there: only
// metadata that has changed since comes from the store.
type before struct {
	*view.Disk
	now io.ReaderAt

	mu   sync.Mutex
	last [beforeChunks]looked
	next int
}

// beforeChunks bounds the memory: metadata is cut in small chunks, and none has more than chunk.MaxLen bytes.
const beforeChunks = 32

// looked is a chunk that was looked for on the disk.
type looked struct {
	at  manifest.Entry
	raw []byte // nil where the disk has something else
}

// ReadAt implements io.ReaderAt.
func (d *before) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off > d.Size() {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	var end error
	if rest := d.Size() - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	clear(b)
	err := d.Entries(off, off+int64(len(b)), func(e manifest.Entry) error {
		if e.Zero {
			return nil
		}
		from, to := max(e.Off, off), min(e.Off+e.Len, off+int64(len(b)))
		part := b[from-off : to-off]
		if raw := d.look(e); raw != nil {
			copy(part, raw[from-e.Off:])
			return nil
		}
		_, err := d.Disk.ReadAt(part, from)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), end
}

// look returns a chunk where the disk has it.
func (d *before) look(e manifest.Entry) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.last {
		if l.at == e {
			return l.raw
		}
	}
	raw := make([]byte, e.Len)
	if n, _ := d.now.ReadAt(raw, e.Off); n < len(raw) || chunk.Sum(raw) != e.ID {
		raw = nil
	}
	d.last[d.next] = looked{e, raw}
	d.next = (d.next + 1) % len(d.last)
	return raw
}
