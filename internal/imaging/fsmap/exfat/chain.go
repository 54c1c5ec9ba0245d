package exfat

import "fmt"

const (
	entryBad = 0xfffffff7
	entryEnd = 0xffffffff

	pageLen  = 64 << 10 // bytes of the table that are kept for those who follow chains
	maxPages = 512
)

// entry returns the entry of cluster n of the table of chains.
func (v *volume) entry(n cluster) (uint32, error) {
	page := int64(n) * 4 / pageLen
	v.mu.Lock()
	defer v.mu.Unlock()
	b, ok := v.pages[page]
	if !ok {
		if v.pages == nil || len(v.pages) >= maxPages {
			v.pages = map[int64][]byte{}
		}
		b = make([]byte, min(pageLen, v.tableLen-page*pageLen))
		if err := v.read(b, v.tableAt+page*pageLen); err != nil {
			return 0, fmt.Errorf("read the table of chains: %w", err)
		}
		v.pages[page] = b
	}
	return le.Uint32(b[int64(n)*4%pageLen:]), nil
}

// stream is what lies in clusters: a file, a folder, a bitmap.
type stream struct {
	first cluster
	size  int64 // bytes; -1 where only its chain tells
	plain bool  // lies in one piece, and has no chain
}

// run are clusters side by side.
type run struct{ first, n cluster }

// eachRun calls f with the clusters of s, in order. A chain must be as long as s at least.
func (v *volume) eachRun(s stream, f func(r run) error) error {
	if s.size > int64(v.clusters)*v.clusterSize {
		return damaged("it has %d bytes, more than the volume", s.size)
	}
	need := cluster((s.size + v.clusterSize - 1) / v.clusterSize)
	if s.plain {
		if need <= 0 {
			return nil
		}
		if !v.has(s.first) || !v.has(s.first+need-1) {
			return damaged("%d clusters from cluster %d, there are %d", need, s.first, v.clusters)
		}
		return f(run{s.first, need})
	}
	r, all := run{s.first, 0}, cluster(0)
	for n := s.first; ; {
		if !v.has(n) {
			return damaged("a chain leads to cluster %#x of %d", n, v.clusters)
		}
		if n != r.first+r.n {
			if err := f(r); err != nil {
				return err
			}
			r = run{n, 0}
		}
		r.n++
		if all++; all > v.clusters {
			return damaged("a chain has no end")
		}
		e, err := v.entry(n)
		if err != nil {
			return err
		}
		if e == entryEnd {
			break
		}
		n = cluster(e)
	}
	if all < need {
		return damaged("a chain of %d clusters, it should have %d", all, need)
	}
	return f(r)
}

// claim says that the clusters of s belong to it. They must be marked as used, and be nobody else's.
func (v *volume) claim(s stream, file bool) error {
	if v.found != nil {
		if err := v.found(s, file); err != nil {
			return err
		}
	}
	return v.eachRun(s, func(r run) error {
		from, to := int64(r.first-firstCluster), int64(r.first+r.n-firstCluster)
		if n := v.marked.Next(from, to, false); n < to {
			return damaged("cluster %d is in use and not marked as such", n+int64(firstCluster))
		}
		for n := from; n < to; n++ {
			if v.claimed.Set(n) {
				return damaged("cluster %d belongs to two files", n+int64(firstCluster))
			}
		}
		return nil
	})
}

// readAll returns the first n bytes of s.
func (v *volume) readAll(s stream, n int64) ([]byte, error) {
	all := make([]byte, n)
	b := all
	err := v.eachRun(s, func(r run) error {
		part := b[:min(int64(len(b)), int64(r.n)*v.clusterSize)]
		b = b[len(part):]
		return v.read(part, v.place(r.first))
	})
	if err == nil && len(b) > 0 {
		err = damaged("it ends %d bytes too early", len(b))
	}
	return all, err
}

// place is where cluster n lies, in bytes.
func (v *volume) place(n cluster) int64 { return v.heapAt + int64(n-firstCluster)*v.clusterSize }
