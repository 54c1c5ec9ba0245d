package netboot

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Script is everything that a node's boot script says. Which fields are needed depends on Decision: Render says what
// is missing.
type Script struct {
	Kind     Kind
	Decision Decision // Disk, Stateless, Memtest, Wait
	Node     node.Name
	Why      string // as in Offer; goes into a comment
	Firmware node.Firmware
	Arch     node.Arch
	Knobs    node.Knobs

	// Stateless
	Kernel  string // http URL of vmlinuz; Memtest: of the test
	Initrd  string // http URL of initrd.img
	RootImg string // http URL of rootimg
	RootSum string // SHA-256 of rootimg, hexadecimal
	Build   string // ID of the stateless build
	Server  string // https URL of the API
	Pin     string // SHA-256 of the server key's SubjectPublicKeyInfo, hexadecimal
	Token   string // bearer token for this node and job or boot
	MAC     string // the network card that it boots from
	Time    time.Time
	Host    string // what the node is called, where that is not its name; may be empty
	Init    string // process 1, where the stateless system has an init of its own; may be empty

	// Disk
	DiskLoader string // UEFI: path of the boot entry that a deploy recorded, as \EFI\debian\shimx64.efi; may be empty

	// Wait and retries
	Again string        // URL of this script
	After time.Duration // Wait: how long; 0 means 5 s
}

// Render writes the script in the language of s.Kind. Nothing is written where a field is missing or holds something
// that could end a line, start a command or expand a variable in that language.
func Render(w io.Writer, s Script) error {
	var text string
	var err error
	switch s.Kind {
	case KindIPXE:
		text, err = s.ipxe()
	case KindGRUB:
		text, err = s.grub()
	case KindPetitboot:
		text, err = s.petitboot()
	case KindOpenFirmware:
		text, err = s.openFirmware()
	default:
		err = fmt.Errorf("no script of kind %q", s.Kind)
	}
	if err != nil {
		return fmt.Errorf("render boot script of %s: %w", s.Node, err)
	}
	_, err = io.WriteString(w, text)
	return err
}

// cmdline is the kernel command line: our parameters, the node's console, the node's own.
func (s Script) cmdline() ([]string, error) {
	var words []string
	add := func(key, value string) {
		if value != "" {
			words = append(words, key+"="+value)
		}
	}
	for _, need := range []struct{ name, value string }{
		{"server", s.Server}, {"pin", s.Pin}, {"token", s.Token}, {"node", string(s.Node)}, {"MAC", s.MAC},
		{"rootimg", s.RootImg}, {"rootimg's hash", s.RootSum}, {"build", s.Build},
	} {
		if need.value == "" {
			return nil, fmt.Errorf("%s is missing", need.name)
		}
	}
	mac, err := ParseMAC(s.MAC)
	if err != nil {
		return nil, err
	}
	for _, u := range []string{s.Server, s.RootImg} {
		if err := checkURL(u); err != nil {
			return nil, err
		}
	}
	add(api.ParamServer, s.Server)
	add(api.ParamPin, s.Pin)
	add(api.ParamNode, string(s.Node))
	add(api.ParamToken, s.Token)
	add(api.ParamRootURL, s.RootImg)
	add(api.ParamRootSHA256, s.RootSum)
	add(api.ParamBuild, s.Build)
	add(api.ParamBootIF, "01-"+strings.ReplaceAll(mac, ":", "-"))
	if !s.Time.IsZero() {
		add(api.ParamNTP, strconv.FormatInt(s.Time.Unix(), 10))
	}
	add(api.ParamHostname, s.Host)
	add(api.ParamInit, s.Init)
	add("console", s.Knobs.Console)
	words = append(words, strings.Fields(s.Knobs.Cmdline)...)
	// The kernel takes 2048 bytes on amd64 and arm64 (COMMAND_LINE_SIZE) and cuts off what is beyond: a cut token
	// would look like a stranger's.
	if n := len(strings.Join(words, " ")); n > 1900 {
		return nil, fmt.Errorf("kernel command line has %d bytes, over 1900", n)
	}
	for _, word := range words {
		if err := checkWord(word); err != nil {
			return nil, fmt.Errorf("kernel parameter %s: %w", clean(paramName(word)), err)
		}
	}
	return words, nil
}

// paramName is the part of a parameter that may be shown.
func paramName(word string) string {
	name, _, _ := strings.Cut(word, "=")
	return name
}

// checkWord refuses what no word of a script may hold, in any of the three languages.
func checkWord(word string) error {
	if word == "" {
		return fmt.Errorf("is empty")
	}
	for _, r := range word {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("holds the character %q", r)
		}
	}
	switch {
	case strings.Contains(word, "${"):
		return fmt.Errorf("holds ${, which starts a variable")
	case word[0] == '#':
		return fmt.Errorf("starts with #")
	case word == "||" || word == "&&" || word == ";":
		return fmt.Errorf("is a separator of commands")
	}
	return nil
}

// checkURL accepts absolute http and https URLs that stand in a script as one word.
func checkURL(s string) error {
	if err := checkWord(s); err != nil {
		return fmt.Errorf("URL %q: %w", s, err)
	}
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("read URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("URL %q is not an absolute http or https URL", s)
	}
	return nil
}

// clean makes any text fit for a comment or a message on the node's screen: one line of printable ASCII in which
// nothing expands.
func clean(s string) string {
	b := strings.Builder{}
	for _, r := range s {
		switch {
		case r < ' ' || r > '~':
			b.WriteByte('?')
		case strings.ContainsRune("${}'\"\\`|&;<>", r):
			b.WriteByte('_')
		default:
			b.WriteRune(r)
		}
		if b.Len() >= 160 {
			break
		}
	}
	return b.String()
}
