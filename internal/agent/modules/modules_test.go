package modules

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func openTest(t *testing.T, cmdline string) *Index {
	t.Helper()
	x, err := Open("testdata", []string{"testdata/modprobe.d", "testdata/not-there"}, cmdline)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestMatchDevices(t *testing.T) {
	x := openTest(t, "quiet modprobe.blacklist=ast,r8152 e1000e.InterruptThrottleRate=3000 usbcore.nousb")
	for _, c := range []struct{ modalias, want string }{
		{"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", "virtio_pci"},
		{"virtio:d00000001v00001AF4", "virtio_net"},
		{"virtio:d00000002v00001AF4", ""}, // asked for, and not in this image
		{"virtio:d0000000Av00001AF4", ""},
		{"pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", "e1000e"},
		{"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci"}, // by class
		{"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i02", ""},
		{"pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", ""}, // built in
		{"pci:v00001A03d00002000sv00001A03sd00002000bc03sc00i00", ""}, // blacklisted by the command line
		{"usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00", ""},     // likewise, and no Ethernet class
		{"usb:v0BDAp8153d3000dc00dsc00dp00ic02isc06ip00in00", "cdc_ether"},
		{"usb:v067Bp2303d0300dc00dsc00dp00icFFisc00ip00in00", ""}, // blacklisted by modprobe.d
		{"of:NethernetT(null)Cbrcm,bcm2711-genet-v5", "genet"},
		{"of:NethernetTnetworkCbrcm,bcm2711-genet-v5Cother,thing", "genet"},
		{"of:NethernetT(null)Cbrcm,bcm2711-genet-v55", ""},
		{"vio:TnetworkSIBM,l-lan", "ibmveth"},
		{"fs-nfs", "nfs"},
		{"net-pf-17", ""},
		{"", ""},
	} {
		if got := strings.Join(x.Match(c.modalias), " "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.modalias, got, c.want)
		}
	}
	if got, want := x.options["e1000e"], []string{"IntMode=1", "debug=2", "InterruptThrottleRate=3000"}; !slices.Equal(got, want) {
		t.Errorf("options of e1000e: got %q, want %q", got, want)
	}
	if got := x.options["usbcore"]; !slices.Equal(got, []string{"nousb"}) {
		t.Errorf("options of usbcore: got %q", got)
	}
}

func TestOrder(t *testing.T) {
	x := openTest(t, "")
	for _, c := range []struct{ name, want string }{
		{"e1000", "e1000"},
		{"e1000e", "pps_core ptp e1000e"},
		{"virtio-pci", "virtio virtio_ring virtio_pci"},
		{"r8169", "libphy realtek r8169"},             // the soft dependency first, with what it needs
		{"igb", "i2c_algo_bit dca igb pps_core ptp"},  // one before, one after
		{"nfs", "lockd nfs sd_mod"},                   // a soft dependency that is not there is no trouble
		{"af_packet", ""}, {"nvme", ""}, {"gone", ""}, // built in, built in, unknown
	} {
		if got := strings.Join(x.Order(c.name), " "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWildcards(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "anything", true},
		{"a*c", "abc", true}, {"a*c", "abcd", false}, {"a*c*", "abcd", true}, {"a*b*c", "aXbXbXc", true},
		{"a?c", "abc", true}, {"a?c", "ac", false},
		{"[a-c]x", "bx", true}, {"[a-c]x", "dx", false}, {"[!a-c]x", "dx", true}, {"[!a-c]x", "ax", false},
		{"[]x]", "]", true}, {"[a-]", "-", true}, {"[abc", "a", false}, {"[", "[", false},
		{`a\*c`, "a*c", true}, {`a\*c`, "abc", false}, {"d03[0-1][0-9A-F]", "d031F", true}, {"d03[0-1][0-9A-F]", "d0320", false},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("match(%q, %q): got %v", c.pattern, c.name, got)
		}
	}
}

// FuzzMatch holds the matcher against the standard library's where both mean the same: patterns of *, ? and plain
// characters.
func FuzzMatch(f *testing.F) {
	f.Add("pci:v*d*sv*", "pci:v1d2sv3")
	f.Add("a?*c*", "abbbcbb")
	f.Add("[!a-z]*\\", "Ab")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		got := match(pattern, name) // must not panic
		if strings.ContainsAny(pattern, `[]\/`) || strings.Contains(name, "/") || !isASCII(pattern+name) {
			return
		}
		if want, err := filepath.Match(pattern, name); err == nil && got != want {
			t.Errorf("match(%q, %q): got %v, want %v", pattern, name, got, want)
		}
	})
}

func isASCII(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r > 126 }) }

func TestUnpack(t *testing.T) {
	want := bytes.Repeat([]byte("kernel module "), 10000)
	pack := map[string]func(*bytes.Buffer){
		"m.ko.xz":  func(b *bytes.Buffer) { w, _ := xz.NewWriter(b); w.Write(want); w.Close() },
		"m.ko.zst": func(b *bytes.Buffer) { w, _ := zstd.NewWriter(b); w.Write(want); w.Close() },
		"m.ko.gz":  func(b *bytes.Buffer) { w := gzip.NewWriter(b); w.Write(want); w.Close() },
	}
	for name, fn := range pack {
		var b bytes.Buffer
		fn(&b)
		got, err := unpack(name, &b)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, err := unpack(name, strings.NewReader("not packed at all, but long enough to look at")); err == nil {
			t.Errorf("%s: rubbish was unpacked", name)
		}
	}
}

func TestDevicesAndWanted(t *testing.T) {
	sys := t.TempDir()
	for _, d := range []struct{ bus, dir, alias string }{
		{"pci", "pci0000:00/0000:00:03.0", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"},
		{"virtio", "pci0000:00/0000:00:03.0/virtio0", "virtio:d00000001v00001AF4"},
		{"pci", "pci0000:00/0000:00:04.0", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"},
		{"platform", "platform/nothing", ""},
		{"cpu", "system/cpu/cpu0", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"}, // whatever a processor asks for
	} {
		dev, link := filepath.Join(sys, "devices", d.dir), filepath.Join(sys, "bus", d.bus, "devices", filepath.Base(d.dir))
		for _, dir := range []string{dev, filepath.Dir(link)} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(dev, link); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dev, "modalias"), []byte(d.alias+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := &Loader{Index: openTest(t, ""), Skip: func(file string) bool { return strings.Contains(file, "/ata/") }}
	got := l.wanted(devices(sys))
	slices.Sort(got)
	if want := []string{"virtio_net", "virtio_pci"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if again := l.wanted(devices(sys)); len(again) > 0 {
		t.Errorf("looked at twice: %q", again)
	}
}

func TestLoadWhatIsNotThere(t *testing.T) {
	l := &Loader{Index: openTest(t, "")}
	if err := l.Load("af_packet"); err != nil {
		t.Errorf("a module that is built in: %v", err)
	}
	if err := l.Load("no-such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown module: %v", err)
	}
	if err := l.Load("e1000"); err == nil || !strings.Contains(err.Error(), "e1000") {
		t.Errorf("a module whose file is not there: %v", err)
	}
}

func TestUevent(t *testing.T) {
	msg := "add@/devices/pci0000:00/usb1/1-1\x00ACTION=add\x00DEVPATH=/devices/x\x00SUBSYSTEM=usb\x00MODALIAS=usb:v0BDAp8153\x00SEQNUM=1\x00"
	if got := added(msg); got != "usb:v0BDAp8153" {
		t.Errorf("got %q", got)
	}
	for _, m := range []string{"", "remove@/x\x00MODALIAS=a\x00", "add@/x\x00ACTION=add\x00"} {
		if got := added(m); got != "" {
			t.Errorf("%q: got %q", m, got)
		}
	}
}

// BenchmarkMatch is a machine's coldplug against an index as large as a stock kernel's.
func BenchmarkMatch(b *testing.B) {
	x := &Index{paths: map[string]string{"m": "m.ko"}, builtin: map[string]bool{}, block: map[string]bool{}, aliases: map[string][]alias{}}
	for i := range 12000 {
		x.addAlias("pci:v0000"+string("0123456789ABCDEF"[i%16])+"000d*sv*sd*bc*sc*i*", "m")
	}
	for b.Loop() {
		for range 100 {
			x.Match("pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00")
		}
	}
}
