package xcat

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// scalar is a value as Perl has it: a text that may be a number.
type scalar struct {
	text   string
	n      int64
	number bool
}

func integer(n int64) scalar { return scalar{strconv.FormatInt(n, 10), n, true} }

// textual makes a scalar of a text. Digits are a number, with leading zeros that stay until it is reckoned with.
func textual(s string) scalar {
	v := scalar{text: s}
	if len(s) > 0 && len(s) <= 18 && strings.Trim(s, "0123456789") == "" {
		v.n, _ = strconv.ParseInt(s, 10, 64)
		v.number = true
	}
	return v
}

// truth is what a comparison gives: 1, or a text that is empty and counts as 0.
func truth(b bool) scalar {
	if b {
		return integer(1)
	}
	return scalar{"", 0, true}
}

func (v scalar) isTrue() bool { return v.text != "" && v.text != "0" }

func (v scalar) int() (int64, error) {
	if !v.number {
		return 0, fmt.Errorf("%q is no number to reckon with", clip(v.text))
	}
	return v.n, nil
}

var errTooLarge = fmt.Errorf("the calculation grows too large")

func addInts(a, b int64) (scalar, error) {
	if (b > 0 && a > math.MaxInt64-b) || (b < 0 && a < math.MinInt64-b) {
		return scalar{}, errTooLarge
	}
	return integer(a + b), nil
}

// divide is / or %, which under "use integer" are C's: towards zero, the rest with the sign of the left side.
func divide(op func(x, y int64) int64) func(x, y int64) (scalar, error) {
	return func(x, y int64) (scalar, error) {
		if y == 0 {
			return scalar{}, fmt.Errorf("the calculation divides by zero")
		}
		if y == -1 && x == math.MinInt64 {
			return scalar{}, errTooLarge
		}
		return integer(op(x, y)), nil
	}
}

func binary(a, b evaluator, op func(x, y int64) (scalar, error)) evaluator {
	return func(e *names) (scalar, error) {
		x, err := number(a, e)
		if err != nil {
			return scalar{}, err
		}
		y, err := number(b, e)
		if err != nil {
			return scalar{}, err
		}
		return op(x, y)
	}
}

func number(a evaluator, e *names) (int64, error) {
	v, err := a(e)
	if err != nil {
		return 0, err
	}
	return v.int()
}

func orTooLarge(err error) error {
	if err == nil {
		return errTooLarge
	}
	return err
}
