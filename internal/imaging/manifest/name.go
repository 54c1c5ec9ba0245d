package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxName is the greatest length of an image's name in bytes.
const MaxName = 64

// ValidName says what is wrong with the name of an image. A name is 1 to MaxName letters a-z and A-Z, digits, dots,
// dashes and underscores, and starts with a letter or digit; so it is a file name on any system and part of no path.
func ValidName(name string) error {
	if name == "" {
		return fmt.Errorf("an image needs a name")
	}
	if len(name) > MaxName {
		return fmt.Errorf("image name %q: %d characters, at most %d", name[:16]+"...", len(name), MaxName)
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return fmt.Errorf("image name %q: letters, digits, dots, dashes and underscores only, and a letter or digit first", name)
		}
	}
	return nil
}

// ParseRef reads NAME or NAME@REV; rev is 0 where none is given, which means the newest.
func ParseRef(ref string) (name string, rev int, err error) {
	name, number, has := strings.Cut(ref, "@")
	if err := ValidName(name); err != nil {
		return "", 0, err
	}
	if !has {
		return name, 0, nil
	}
	rev, err = ParseRev(number)
	if err != nil {
		return "", 0, fmt.Errorf("image %q: %w", ref, err)
	}
	return name, rev, nil
}

// ParseRev reads a revision number: decimal, from 1, without sign or leading zero.
func ParseRev(s string) (int, error) {
	rev, err := strconv.ParseUint(s, 10, 31)
	if err != nil || rev == 0 || strconv.FormatUint(rev, 10) != s {
		return 0, fmt.Errorf("revision %q is not a number from 1", s)
	}
	return int(rev), nil
}
