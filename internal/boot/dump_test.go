package boot_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"mimeo/internal/boot/dhcp"
)

var update = flag.Bool("update", false, "write what the server answers now into testdata")

// TestOptionsOfEachFirmware writes down what a machine with each firmware is told in mode full, option by option.
func TestOptionsOfEachFirmware(t *testing.T) {
	s := newSite(t, dhcp.Full)
	s.Subnets[0].Gateway = addr4([]byte{10, 77, 0, 254})
	mac := func(i int) string { return fmt.Sprintf("52:54:00:77:06:%02x", i) }
	all := append(slices.Clone(firmwares), firmware{name: "an operating system", arch: -1, params: []byte{1, 3, 6, 12, 15}})
	for i, f := range all {
		s.nodes[mac(i)] = f.node(fmt.Sprintf("n%02d", i), mac(i), fmt.Sprintf("10.77.0.%d", 60+i))
	}
	s.serve(t)
	h := newHall(t, 0)
	var out strings.Builder
	for i, f := range all {
		m := &machine{hall: h, mac: mac(i), fw: f, try: time.Second}
		ack, err := m.configure()
		if err != nil {
			t.Fatal(err)
		}
		class := f.class
		if f.arch >= 0 {
			class = strings.TrimSpace(fmt.Sprintf("%s 93=%d", class, f.arch))
		}
		if f.ipxe {
			class += " 77=iPXE 175"
		}
		fmt.Fprintf(&out, "# %s: %s\n%s\n", f.name, class, dump(ack))
	}
	const file = "testdata/options.txt"
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := readFile(t, file); out.String() != want {
		t.Errorf("%s has other options; now:\n%s", file, out.String())
	}
}

// dump is an answer as text: text as text, all else in hexadecimal.
func dump(a *dhcpv4.DHCPv4) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s yiaddr %s siaddr %s sname %q file %q\n", a.MessageType(), a.YourIPAddr, a.ServerIPAddr, a.ServerHostName, a.BootFileName)
	for _, code := range slices.Sorted(maps.Keys(a.Options)) {
		v := a.Options[code]
		if code == 53 || code == 255 {
			continue
		}
		if strings.IndexFunc(string(v), func(r rune) bool { return r > 126 || !unicode.IsPrint(r) }) < 0 {
			fmt.Fprintf(&b, "%4d %q\n", code, v)
		} else {
			fmt.Fprintf(&b, "%4d %x\n", code, v)
		}
	}
	return b.String()
}
