package xcat

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// function is a function of a calculation. Its arguments number from min to max.
type function struct {
	min, max int
	call     func(args []scalar) (scalar, error)
}

// functions are Perl's (perlfunc(1)) and xCAT's own, which its manual has under "regular expression helper functions".
var functions = map[string]function{
	"sprintf": {1, 10, sprintf},
	"int":     {1, 1, func(a []scalar) (scalar, error) { n, err := a[0].int(); return integer(n), err }},
	"abs": {1, 1, func(a []scalar) (scalar, error) {
		n, err := a[0].int()
		if n == math.MinInt64 {
			return scalar{}, errTooLarge
		}
		return integer(max(n, -n)), err
	}},
	"lc":     {1, 1, func(a []scalar) (scalar, error) { return textual(strings.ToLower(a[0].text)), nil }},
	"uc":     {1, 1, func(a []scalar) (scalar, error) { return textual(strings.ToUpper(a[0].text)), nil }},
	"length": {1, 1, func(a []scalar) (scalar, error) { return integer(int64(len(a[0].text))), nil }},
	"ord": {1, 1, func(a []scalar) (scalar, error) {
		if a[0].text == "" {
			return integer(0), nil
		}
		return integer(int64(a[0].text[0])), nil
	}},
	"a2idx":   {1, 1, func(a []scalar) (scalar, error) { return letter(a[0].text, 1) }},
	"a2zidx":  {1, 1, func(a []scalar) (scalar, error) { return letter(a[0].text, 0) }},
	"dim2idx": {1, 40, dim2idx},
	"skip":    {2, 2, skip},
	"ipadd":   {5, 7, ipadd},
	"mknum": {1, 1, func(a []scalar) (scalar, error) {
		var n int64
		for _, c := range []byte(a[0].text) {
			n += int64(c)
		}
		return integer(n), nil
	}},
}

// call reads NAME(ARGUMENT,...).
func (p *calcParser) call(rest string) (evaluator, error) {
	n := 0
	for n < len(rest) && (isAlnum(rest[n]) || rest[n] == '_') {
		n++
	}
	f, ok := functions[rest[:n]]
	if !ok {
		return nil, p.unsupported()
	}
	name := rest[:n]
	p.pos += n
	if p.take("(") == "" {
		return nil, fmt.Errorf("%s without parentheses is not supported", name)
	}
	var args []evaluator
	for {
		a, err := p.ternary()
		if err != nil {
			return nil, err
		}
		args = append(args, a)
		if p.take(",") != "" {
			continue
		}
		if p.take(")") == "" {
			return nil, p.unsupported()
		}
		break
	}
	if len(args) < f.min || len(args) > f.max {
		return nil, fmt.Errorf("%s with %d arguments is not supported", name, len(args))
	}
	return func(e *names) (scalar, error) {
		values := make([]scalar, len(args))
		for i, a := range args {
			var err error
			if values[i], err = a(e); err != nil {
				return scalar{}, err
			}
		}
		v, err := f.call(values)
		if err != nil {
			return scalar{}, fmt.Errorf("%s: %w", name, err)
		}
		return v, nil
	}, nil
}

func letter(s string, first int64) (scalar, error) {
	s = strings.ToLower(s)
	if len(s) != 1 || s[0] < 'a' || s[0] > 'z' {
		return scalar{}, fmt.Errorf("%q is no letter", clip(s))
	}
	return integer(int64(s[0]-'a') + first), nil
}

// dim2idx makes an index, from 1, of places in nested dimensions: row, racks in a row, rack, nodes in a rack, node.
func dim2idx(args []scalar) (scalar, error) {
	var at int64
	for i, a := range args {
		n, err := a.int()
		if err != nil {
			return scalar{}, err
		}
		if n > math.MaxInt32 || n < -math.MaxInt32 || at > math.MaxInt32 || at < -math.MaxInt32 {
			return scalar{}, errTooLarge
		}
		if i%2 == 0 {
			at += n - 1
		} else {
			at *= n
		}
	}
	return integer(at + 1), nil
}

// skip counts an index down by the indices below it that a list, START[:COUNT],..., leaves out.
func skip(args []scalar) (scalar, error) {
	index, err := args[0].int()
	if err != nil {
		return scalar{}, err
	}
	if args[0].text == "" {
		return scalar{}, fmt.Errorf("the index is empty")
	}
	out := index
	for part := range strings.SplitSeq(args[1].text, ",") {
		from, howMany, hasCount := strings.Cut(part, ":")
		start, err1 := strconv.ParseInt(from, 10, 32)
		n, err2 := int64(1), error(nil)
		if hasCount {
			n, err2 = strconv.ParseInt(howMany, 10, 32)
		}
		if err1 != nil || err2 != nil || n < 0 {
			return scalar{}, fmt.Errorf("%q: want START[:COUNT],...", clip(args[1].text))
		}
		if index < start {
			break
		}
		if index < start+n {
			return scalar{}, fmt.Errorf("%d is one of those left out", index)
		}
		out -= n
	}
	if out == index {
		return args[0], nil // with its leading zeros
	}
	return integer(out), nil
}

// ipadd adds to an IPv4 address, whose last number stays clear of the first and the last few.
func ipadd(args []scalar) (scalar, error) {
	var n [7]int64
	for i, a := range args {
		var err error
		if n[i], err = a.int(); err != nil {
			return scalar{}, err
		}
		if n[i] > 1<<24 || n[i] < 0 || i != 4 && n[i] > 255 {
			return scalar{}, fmt.Errorf("%d is out of range", n[i])
		}
	}
	low, high := n[5], n[6]
	width := 256 - low - high
	if width <= 0 {
		return scalar{}, fmt.Errorf("nothing is left between %d and %d", low, high)
	}
	off := max(n[3]-low, 0) + n[4]
	third := n[2] + off/width
	if third > 255 {
		return scalar{}, fmt.Errorf("the third number of the address grows over 255")
	}
	return textual(fmt.Sprintf("%d.%d.%d.%d", n[0], n[1], third, off%width+low)), nil
}

// sprintf knows %d, %i, %s, %x, %X, %o and %%, with a width, - and 0.
func sprintf(args []scalar) (scalar, error) {
	format := args[0].text
	args = args[1:]
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		start := i
		for i++; i < len(format) && strings.IndexByte("-0", format[i]) >= 0; i++ {
		}
		flags := format[start+1 : i]
		from := i
		for ; i < len(format) && format[i] >= '0' && format[i] <= '9'; i++ {
		}
		width, _ := strconv.Atoi("0" + format[from:i])
		if i >= len(format) || i-from > 2 {
			return scalar{}, fmt.Errorf("%q is not supported", clip(format[start:]))
		}
		verb := format[i]
		if verb == '%' && i == start+1 {
			b.WriteByte('%')
			continue
		}
		if strings.IndexByte("disxXo", verb) < 0 || flags != "" && flags != "0" && flags != "-" || verb == 's' && flags == "0" {
			return scalar{}, fmt.Errorf("%q is not supported", clip(format[start:i+1]))
		}
		if len(args) == 0 {
			return scalar{}, fmt.Errorf("%q has more %% than there are values", clip(format))
		}
		var text string
		if verb == 's' {
			text = args[0].text
		} else {
			n, err := args[0].int()
			if err != nil {
				return scalar{}, err
			}
			if n < 0 && verb != 'd' && verb != 'i' {
				return scalar{}, fmt.Errorf("%q of a negative number is not supported", clip(format[start:i+1]))
			}
			text = strconv.FormatInt(n, map[byte]int{'d': 10, 'i': 10, 'x': 16, 'X': 16, 'o': 8}[verb])
			if verb == 'X' {
				text = strings.ToUpper(text)
			}
		}
		args = args[1:]
		pad := max(width-len(text), 0)
		switch {
		case flags == "-":
			b.WriteString(text + strings.Repeat(" ", pad))
		case flags == "0" && strings.HasPrefix(text, "-"):
			b.WriteString("-" + strings.Repeat("0", pad) + text[1:])
		case flags == "0":
			b.WriteString(strings.Repeat("0", pad) + text)
		default:
			b.WriteString(strings.Repeat(" ", pad) + text)
		}
	}
	if b.Len() > 1000 {
		return scalar{}, errTooLarge
	}
	return textual(b.String()), nil
}
