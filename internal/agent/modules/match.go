package modules

// match tells whether name fits pattern as fnmatch(3) without flags has it: * is any text, ? any character, [a-z] and
// [!a-z] sets, \ takes the next character as it is. The patterns of modules.alias are of that kind. A set that is not
// closed matches nothing.
func match(pattern, name string) bool {
	star, back := -1, 0 // where to go on after the last * took one character more
	p, n := 0, 0
	for n < len(name) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, back = p, n
				p++
				continue
			}
			if next, ok := matchOne(pattern, p, name[n]); ok {
				p, n = next, n+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		back++
		p, n = star+1, back
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchOne matches c with the element of pattern at p and returns where the next one starts.
func matchOne(pattern string, p int, c byte) (next int, ok bool) {
	switch pattern[p] {
	case '?':
		return p + 1, true
	case '\\':
		if p+1 < len(pattern) {
			return p + 2, pattern[p+1] == c
		}
		return p + 1, c == '\\'
	case '[':
		return matchSet(pattern, p+1, c)
	}
	return p + 1, pattern[p] == c
}

// matchSet matches c with the set whose first character, after the bracket, is at p.
func matchSet(pattern string, p int, c byte) (next int, ok bool) {
	not := p < len(pattern) && (pattern[p] == '!' || pattern[p] == '^')
	if not {
		p++
	}
	in := false
	for first := true; p < len(pattern); first = false {
		lo := pattern[p]
		if lo == ']' && !first {
			return p + 1, in != not
		}
		p++
		hi := lo
		if p+1 < len(pattern) && pattern[p] == '-' && pattern[p+1] != ']' {
			hi = pattern[p+1]
			p += 2
		}
		in = in || lo <= c && c <= hi
	}
	return p, false
}
