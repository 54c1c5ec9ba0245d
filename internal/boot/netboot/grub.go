package netboot

import (
	"fmt"
	"net/url"
	"strings"

	"mimeo/internal/cluster/node"
)

// grub renders a grub.cfg. Every word that comes from outside stands in single quotes, in which GRUB's shell knows no
// special character but the quote itself.
func (s Script) grub() (string, error) {
	b := &strings.Builder{}
	fmt.Fprintf(b, "# %s: %s\n# %s\nset timeout=0\n", clean(string(s.Node)), s.Decision, clean(s.Why))
	var err error
	switch s.Decision {
	case Stateless:
		err = s.grubStateless(b)
	case Disk:
		err = s.grubDisk(b)
	case Wait:
		err = s.grubWait(b)
	default:
		err = fmt.Errorf("no script for decision %q", s.Decision)
	}
	return b.String(), err
}

// grubTries is how often GRUB loads something before it gives up. Its TCP is a simple one: on a busy machine transfers were seen
// to stop for good. The next try is another connection; where the kernel had begun it takes two, as GRUB then forgets what it loaded.
const grubTries = "1 2 3 4"

// grubStateless loads kernel and initrd over HTTP. Where all tries fail it waits and starts the machine anew, and DHCP
// decides again.
func (s Script) grubStateless(b *strings.Builder) error {
	kernel, err := grubPath(s.Kernel)
	if err != nil {
		return err
	}
	initrd, err := grubPath(s.Initrd)
	if err != nil {
		return err
	}
	words, err := s.cmdline()
	if err != nil {
		return err
	}
	for i, w := range words {
		if words[i], err = grubQuote(w); err != nil {
			return fmt.Errorf("kernel parameter %s: %w", clean(paramName(w)), err)
		}
	}
	fmt.Fprintf(b, "echo 'Mimeo: %s boots its stateless image'\ninsmod http\n", clean(string(s.Node)))
	fmt.Fprintf(b, "for try in %s; do\n  if linux %s %s; then\n", grubTries, kernel, strings.Join(words, " "))
	fmt.Fprintf(b, "    if initrd %s; then\n      boot\n    fi\n  fi\ndone\n", initrd)
	grubGiveUp(b)
	return nil
}

func grubGiveUp(b *strings.Builder) {
	fmt.Fprintf(b, "echo 'Mimeo: giving up, this machine starts anew in %d seconds'\nsleep %d\nreboot\n",
		int(giveUpWait.Seconds()), int(giveUpWait.Seconds()))
}

// grubDisk chains to the disk's own loader. In UEFI root must be set first: shim takes the device of its caller, and a
// network device makes it fail (measured). GRUB's exit is of no use, it stops in the setup menu.
func (s Script) grubDisk(b *strings.Builder) error {
	fmt.Fprintf(b, "echo 'Mimeo: %s boots from its disk'\n", clean(string(s.Node)))
	switch s.Firmware {
	case node.UEFI, node.UEFIHTTP:
		paths, err := s.diskLoaders()
		if err != nil {
			return err
		}
		b.WriteString("insmod part_gpt\ninsmod fat\ninsmod chain\n")
		for _, p := range paths {
			q, err := grubQuote(strings.ReplaceAll(p, `\`, "/"))
			if err != nil {
				return err
			}
			fmt.Fprintf(b, "if search --no-floppy --set=root --file %s; then\n  chainloader %s\n  boot\nfi\n", q, q)
		}
		grubGiveUp(b)
	default:
		return fmt.Errorf("no way from GRUB to the disk of firmware %q", s.Firmware)
	}
	return nil
}

// grubWait reads this configuration again after a while.
func (s Script) grubWait(b *strings.Builder) error {
	again, err := grubPath(s.Again)
	if err != nil {
		return err
	}
	secs := 5
	if s.After > 0 {
		secs = max(1, int(s.After.Seconds()))
	}
	fmt.Fprintf(b, "echo 'Mimeo: the server asks %s to wait'\nsleep %d\ninsmod http\nfor try in %s; do\n  configfile %s\ndone\n", clean(string(s.Node)), secs, grubTries, again)
	grubGiveUp(b)
	return nil
}

// GRUBConfig is the grub.cfg at the TFTP root that a signed GRUB reads: it goes on with the one of the node that owns
// the network card it was loaded through. The same text serves every node.
func GRUBConfig(base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || checkURL(base) != nil || u.Scheme != "http" || strings.ContainsRune(base, '\'') {
		return "", fmt.Errorf("render %s: base %q is not an http URL", FileGRUBConfig, base)
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "set timeout=0\ninsmod http\nfor try in %s; do\n  configfile '(http,%s)%s%s/'$net_default_mac\ndone\n", grubTries, u.Host, PathScripts, KindGRUB)
	grubGiveUp(b)
	return b.String(), nil
}

// grubPath turns http://HOST:PORT/PATH into '(http,HOST:PORT)/PATH'.
func grubPath(s string) (string, error) {
	if err := checkURL(s); err != nil {
		return "", err
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("read URL: %w", err)
	}
	if u.Scheme != "http" {
		return "", fmt.Errorf("URL %q: GRUB knows http only", s)
	}
	return grubQuote("(http," + u.Host + ")" + u.RequestURI())
}

// grubQuote puts a word in single quotes.
func grubQuote(w string) (string, error) {
	if strings.ContainsRune(w, '\'') {
		return "", fmt.Errorf("holds a single quote, which GRUB cannot take")
	}
	return "'" + w + "'", nil
}
