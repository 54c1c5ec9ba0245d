package view

import (
	"container/list"
	"sync"

	"mimeo/internal/imaging/chunk"
)

// cache keeps decoded chunks, those used last, up to a number of bytes.
type cache struct {
	mu    sync.Mutex
	most  int
	bytes int
	items map[chunk.ID]*list.Element
	order list.List // the one used last is in front
}

type item struct {
	id  chunk.ID
	raw []byte
}

func newCache(most int) *cache { return &cache{most: most, items: make(map[chunk.ID]*list.Element)} }

// get returns bytes that nobody may change.
func (c *cache) get(id chunk.ID) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[id]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(item).raw, true
}

func (c *cache) put(id chunk.ID, raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[id]; ok {
		return
	}
	c.items[id] = c.order.PushFront(item{id, raw})
	c.bytes += len(raw)
	for c.bytes > c.most && c.order.Len() > 1 {
		last := c.order.Remove(c.order.Back()).(item)
		delete(c.items, last.id)
		c.bytes -= len(last.raw)
	}
}
