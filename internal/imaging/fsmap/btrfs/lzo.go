package btrfs

import "errors"

var errLZO = errors.New("the LZO stream is damaged")

// unpackLZO unpacks what btrfs keeps with LZO: the length of all, then pieces of a sector each, unpacked. Each has its
// length before it, which never lies across the end of a sector (on-disk format, "LZO").
func unpackLZO(out, packed []byte, sector int) error {
	if len(packed) < 4 {
		return errLZO
	}
	all := int(le.Uint32(packed))
	if all < 4 || all > len(packed) {
		return errLZO
	}
	for at := 4; at < all && len(out) > 0; {
		if left := sector - at%sector; left < 4 {
			at += left
		}
		if at+4 > all {
			return nil // padding
		}
		n := int(le.Uint32(packed[at:]))
		at += 4
		if n > all-at {
			return errLZO
		}
		piece := out[:min(sector, len(out))]
		if err := lzo1x(piece, packed[at:at+n]); err != nil {
			return err
		}
		at, out = at+n, out[len(piece):]
	}
	return nil
}

// lzo1x unpacks a stream of LZO1X, as Linux' "LZO stream format as understood by Linux' LZO decompressor" tells it,
// version 0 of the bitstream. What out has more room for than the stream fills stays as it is.
func lzo1x(out, in []byte) error {
	ip, op := 0, 0
	// next returns a byte; reading past the end gives zeros, and bad is set.
	bad := false
	next := func() int {
		if ip >= len(in) {
			bad = true
			return 0
		}
		ip++
		return int(in[ip-1])
	}
	// long is a length that did not fit: zeros count 255 each.
	long := func(base int) int {
		n := base
		for {
			c := next()
			if bad || n > len(out)+len(in) {
				bad = true
				return 0
			}
			if c != 0 {
				return n + c
			}
			n += 255
		}
	}
	literals := func(n int) bool {
		if n > len(in)-ip || n > len(out)-op {
			return false
		}
		copy(out[op:], in[ip:ip+n])
		ip, op = ip+n, op+n
		return true
	}
	match := func(distance, n int) bool {
		if distance > op || n > len(out)-op {
			return false
		}
		for range n { // it may lie on itself
			out[op] = out[op-distance]
			op++
		}
		return true
	}
	state := 0 // literals copied last: 0 to 3, or 4 for more
	if len(in) > 0 && in[0] > 17 {
		n := next() - 17
		if !literals(n) {
			return errLZO
		}
		state = min(n, 4)
	}
	for {
		c := next()
		var distance, n, follow int
		switch {
		case bad:
			return errLZO
		case c < 16 && state == 0:
			n := c + 3
			if c == 0 {
				n = long(18)
			}
			if bad || !literals(n) {
				return errLZO
			}
			state = 4
			continue
		case c < 16:
			follow = c & 3
			distance, n = c>>2+next()<<2+1, 2
			if state == 4 {
				distance, n = distance+2048, 3
			}
		case c < 32:
			if n = c&7 + 2; n == 2 {
				n = long(9)
			}
			d := next() | next()<<8
			follow = d & 3
			if distance = 16384 + c&8<<11 + d>>2; distance == 16384 {
				if bad || ip > len(in) {
					return errLZO
				}
				return nil // the end of the stream
			}
		case c < 64:
			if n = c&31 + 2; n == 2 {
				n = long(33)
			}
			d := next() | next()<<8
			follow, distance = d&3, d>>2+1
		case c < 128:
			follow, n = c&3, 3+c>>5&1
			distance = next()<<3 + c>>2&7 + 1
		default:
			follow, n = c&3, 5+c>>5&3
			distance = next()<<3 + c>>2&7 + 1
		}
		if bad || !match(distance, n) || !literals(follow) {
			return errLZO
		}
		state = follow
	}
}
