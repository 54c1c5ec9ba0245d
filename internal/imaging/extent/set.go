package extent

// Union returns the bytes that are in a, in b, or in both. Its time is linear in their lengths.
func Union(a, b List) List {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	out := make(List, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].Off <= b[0].Off {
			out, a = out.push(a[0]), a[1:]
		} else {
			out, b = out.push(b[0]), b[1:]
		}
	}
	for _, e := range a {
		out = out.push(e)
	}
	for _, e := range b {
		out = out.push(e)
	}
	return out
}

// Intersect returns the bytes that are in both a and b. Its time is linear in their lengths.
func Intersect(a, b List) List {
	var out List
	for len(a) > 0 && len(b) > 0 {
		off, end := max(a[0].Off, b[0].Off), min(a[0].End(), b[0].End())
		if off < end {
			out = append(out, Extent{off, end - off})
		}
		if a[0].End() <= b[0].End() {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// Subtract returns the bytes that are in a and not in b. Its time is linear in their lengths.
func Subtract(a, b List) List {
	if len(b) == 0 {
		return a
	}
	var out List
	for _, e := range a {
		for len(b) > 0 && b[0].End() <= e.Off {
			b = b[1:]
		}
		// b's extents may reach into the next of a: look ahead without dropping them.
		off := e.Off
		for _, h := range b {
			if h.Off >= e.End() {
				break
			}
			if h.Off > off {
				out = append(out, Extent{off, h.Off - off})
			}
			off = h.End()
			if off >= e.End() {
				break
			}
		}
		if off < e.End() {
			out = append(out, Extent{off, e.End() - off})
		}
	}
	return out
}

// Complement returns the bytes of [0, size) that are not in l.
func (l List) Complement(size int64) List {
	if size <= 0 {
		return nil
	}
	return Subtract(List{{0, size}}, l)
}
