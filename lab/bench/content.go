package main

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
)

// A kind says what a generated file looks like to a compressor.
type kind int

const (
	text    kind = iota // words and lines, as sources, logs and configuration: zstd -1 makes about a third of it
	binary_             // instructions and tables, as programs and libraries: about a half
	packed              // as archives, pictures and films: nothing to gain
)

// content makes bytes of a kind, the same ones for the same seed.
type content struct {
	rng   *rand.Rand
	words []string
	ops   [][]byte
}

// vocabulary is the same for all files, as it is in a real system.
var vocabulary = sync.OnceValue(newVocabulary)

func newContent(seed uint64) *content {
	c := *vocabulary()
	c.rng = rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	return &c
}

func newVocabulary() *content {
	v := rand.New(rand.NewPCG(7, 7))
	c := &content{}
	const letters = "etaoinshrdlcumwfgypbvkjxqz"
	for range 6000 {
		w := make([]byte, 2+v.IntN(9))
		for i := range w {
			w[i] = letters[min(v.IntN(len(letters)), v.IntN(len(letters)))]
		}
		c.words = append(c.words, string(w))
	}
	for range 1200 { // turns of phrase: lines that source files and logs share
		p := c.words[v.IntN(len(c.words))]
		for range 2 + v.IntN(5) {
			p += " " + c.words[v.IntN(len(c.words))]
		}
		c.words = append(c.words, p)
	}
	v.Shuffle(len(c.words), func(i, j int) { c.words[i], c.words[j] = c.words[j], c.words[i] })
	for range 1 << 14 {
		op := make([]byte, 3+v.IntN(14))
		for i := range op {
			op[i] = byte(v.Uint32())
		}
		c.ops = append(c.ops, op)
	}
	return c
}

// fill overwrites b with content of kind k.
func (c *content) fill(k kind, b []byte) {
	switch k {
	case text:
		c.text(b)
	case binary_:
		c.binary(b)
	case packed:
		c.random(b)
	}
}

func (c *content) random(b []byte) {
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, c.rng.Uint64())
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(c.rng.Uint32())
	}
}

// Real files repeat what stands near rather than what stands anywhere: a file draws on a small stock of words or
// instructions, which changes slowly as it goes on.
const stock = 256

// near returns a number below stock, small ones more often: the product of two uniform numbers.
func near(r uint64) int { return int((r & 0xffff) * (r >> 16 & 0xffff) >> 24) }

// renew puts something new into the stock.
func (c *content) renew(local *[stock]int, r uint64, all int) {
	local[r%stock] = int((r >> 16) % uint64(all))
}

// text writes lines of words with numbers between them.
func (c *content) text(b []byte) {
	var local [stock]int
	for i := range local {
		local[i] = c.rng.IntN(len(c.words))
	}
	col := 0
	for len(b) > 0 {
		r := c.rng.Uint64()
		w := c.words[local[near(r)]]
		if r>>32&7 == 0 {
			c.renew(&local, r>>35, len(c.words))
		}
		n := copy(b, w)
		b, col = b[n:], col+n+1
		if r>>56&15 == 0 {
			for i := 0; i < 4 && len(b) > 0; i++ {
				b[0] = '0' + byte(r>>(40+i*4)&7)
				b = b[1:]
			}
		}
		if len(b) == 0 {
			return
		}
		if b[0] = ' '; col > 72 {
			b[0], col = '\n', 0
		}
		b = b[1:]
	}
}

// binary writes known instructions with operands of their own, and now and then a table of numbers.
func (c *content) binary(b []byte) {
	var local [stock]int
	for i := range local {
		local[i] = c.rng.IntN(len(c.ops))
	}
	for len(b) > 0 {
		r := c.rng.Uint64()
		if r>>54 == 0 {
			for i := 0; i < 256 && len(b) >= 4; i++ {
				binary.LittleEndian.PutUint32(b, uint32(r>>8&0xffff)+uint32(i*16))
				b = b[4:]
			}
			continue
		}
		if r>>32&15 == 0 {
			c.renew(&local, r>>36, len(c.ops))
		}
		b = b[copy(b, c.ops[local[near(r)]]):]
		if r>>52&3 == 0 && len(b) >= 3 {
			b[0], b[1], b[2] = byte(r>>42), byte(r>>47), 0
			b = b[3:]
		}
	}
}
