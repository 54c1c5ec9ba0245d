package netboot

import (
	"fmt"
	"strings"
)

// petitboot renders a configuration in the form of pxelinux, which petitboot on OPAL machines reads (its names:
// default, label, kernel, initrd, append). For the disk it has no entry, and petitboot takes its own default, the
// disk.
func (s Script) petitboot() (string, error) {
	b := &strings.Builder{}
	fmt.Fprintf(b, "# %s: %s\n# %s\n", clean(string(s.Node)), s.Decision, clean(s.Why))
	switch s.Decision {
	case Disk, Wait:
		return b.String(), nil
	case Stateless:
	default:
		return "", fmt.Errorf("no script for decision %q", s.Decision)
	}
	for _, u := range []string{s.Kernel, s.Initrd} {
		if err := checkURL(u); err != nil {
			return "", err
		}
	}
	words, err := s.cmdline()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(b, "default mimeo\nlabel mimeo\n  kernel %s\n  initrd %s\n  append %s\n", s.Kernel, s.Initrd, strings.Join(words, " "))
	return b.String(), nil
}
