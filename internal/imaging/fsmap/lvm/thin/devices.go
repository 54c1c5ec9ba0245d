package thin

import (
	"errors"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	mapLen     = 8  // of the values of both levels of the mapping tree
	detailsLen = 24 // of what is known of a device
	timeBits   = 24 // of a mapping, below its data block
	maxNodes   = 1 << 18
	// MaxSpans bounds the memory of all devices together: 32 bytes each.
	MaxSpans = 1 << 20
)

// Device is a thin volume, as a pool knows it.
type Device struct {
	ID    int64
	Spans []fact.Span // where it lies in the pool's data, by At; what lies in between has never been written
}

// Devices returns all devices of a pool whose data has the blocks used in use, as Used returned them. transaction is the state of the
// pool that its volume group speaks of. Devices may share data with each other. why says why they cannot be believed, or is empty; an
// error means that the metadata could not be read.
func Devices(meta io.ReaderAt, size, dataSize, chunk, transaction int64, used extent.List) (list []Device, why string, err error) {
	// Devices share nodes, so that some are read more than once.
	p := &pool{r: meta, blocks: uint64(size / blockLen), most: maxNodes}
	list, err = p.devices(dataSize, chunk, transaction, used)
	var d damage
	if errors.As(err, &d) {
		return nil, err.Error(), nil
	}
	return list, "", err
}

func (p *pool) devices(dataSize, chunk, transaction int64, used extent.List) (list []Device, err error) {
	b, err := p.super(dataSize, chunk)
	if err != nil {
		return nil, err
	}
	switch {
	case le.Uint64(b[48:]) != uint64(transaction):
		return nil, damaged("the metadata is in state %d, the volume group speaks of %d", le.Uint64(b[48:]), transaction)
	case le.Uint64(b[56:]) != 0:
		return nil, damaged("the metadata has a snapshot of itself")
	}
	var roots, mapped []uint64
	if err := p.walk(le.Uint64(b[320:]), 0, mapLen, func(id uint64, value []byte) error {
		if id >= 1<<timeBits || len(list) > 0 && int64(id) <= list[len(list)-1].ID {
			return damaged("device %d of the pool comes out of order", id)
		}
		list, roots = append(list, Device{ID: int64(id)}), append(roots, le.Uint64(value))
		return nil
	}); err != nil {
		return nil, err
	}
	if err := p.walk(le.Uint64(b[328:]), 0, detailsLen, func(id uint64, value []byte) error {
		if len(mapped) == len(list) || uint64(list[len(mapped)].ID) != id {
			return damaged("the pool's lists of devices differ")
		}
		mapped = append(mapped, le.Uint64(value))
		return nil
	}); err != nil {
		return nil, err
	}
	if len(mapped) != len(list) {
		return nil, damaged("the pool's lists of devices differ")
	}
	spans := 0
	for i := range list {
		if err := p.device(&list[i], roots[i], mapped[i], used, MaxSpans-spans); err != nil {
			return nil, err
		}
		spans += len(list[i].Spans)
	}
	return list, nil
}

// device reads where a device lies.
func (p *pool) device(d *Device, root, mapped uint64, used extent.List, most int) error {
	next, count := uint64(0), uint64(0)
	err := p.walk(root, 0, mapLen, func(at uint64, value []byte) error {
		data := le.Uint64(value) >> timeBits
		if at < next || at >= 1<<62/uint64(p.chunk) {
			return damaged("block %d of device %d comes out of order", at, d.ID)
		}
		s := fact.Span{At: int64(at) * p.chunk, Off: int64(data) * p.chunk, Len: p.chunk}
		if data >= p.data || !used.ContainsAll(extent.Extent{Off: s.Off, Len: s.Len}) {
			return damaged("block %d of device %d lies in data block %d, which is not in use", at, d.ID, data)
		}
		next, count = at+1, count+1
		if n := len(d.Spans); n > 0 && d.Spans[n-1].At+d.Spans[n-1].Len == s.At && d.Spans[n-1].Off+d.Spans[n-1].Len == s.Off {
			d.Spans[n-1].Len += s.Len
			return nil
		}
		if len(d.Spans) == most {
			return damaged("the pool's volumes lie in more than %d pieces", MaxSpans)
		}
		d.Spans = append(d.Spans, s)
		return nil
	})
	if err == nil && count != mapped {
		err = damaged("device %d has %d blocks, its details say %d", d.ID, count, mapped)
	}
	return err
}
