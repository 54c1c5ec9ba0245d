package dhcp

import (
	"context"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"mimeo/internal/cluster/node"
)

// One request tells what a machine is, and with the file its event says that it was a firmware that asked: also where
// all that it is told is to boot its disk.
func TestDiskTellsFirmware(t *testing.T) {
	s := testServer(t, Full)
	s.Lookup = func(_ context.Context, mac string) (node.Node, bool, error) {
		return node.Node{Name: "n1", Boot: node.BootDisk, NICs: []node.NIC{{MAC: mac}}}, true, nil
	}
	mac, err := parseMAC("52:54:00:77:00:09")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		class string
		arch  iana.Arch
		fw    node.Firmware
		want  node.Arch
	}{
		{"PXEClient:Arch:00000:UNDI:002001", 0, node.BIOS, node.AMD64},
		{"PXEClient:Arch:00007:UNDI:003000", 7, node.UEFI, node.AMD64},
		{"PXEClient:Arch:00009:UNDI:003000", 9, node.UEFI, node.AMD64},
		{"PXEClient:Arch:00011:UNDI:003000", 11, node.UEFI, node.ARM64},
		{"HTTPClient:Arch:00016:UNDI:003001", 16, node.UEFIHTTP, node.AMD64},
		{"HTTPClient:Arch:00019:UNDI:003001", 19, node.UEFIHTTP, node.ARM64},
		{"", 12, node.OpenFirmware, node.PPC64EL},
		{"", 14, node.OPAL, node.PPC64EL},
	} {
		mods := []dhcpv4.Modifier{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithOption(dhcpv4.OptClientArch(c.arch))}
		if c.class != "" {
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(c.class)))
		}
		m, err := dhcpv4.New(mods...)
		if err != nil {
			t.Fatal(err)
		}
		ans, err := s.handle(context.Background(), packet{port: 67, from: netip.MustParseAddrPort("10.77.0.200:68"), msg: m})
		if err != nil {
			t.Errorf("architecture %d: %v", c.arch, err)
			continue
		}
		if e := ans.ev; e.Node != "n1" || e.Firmware != c.fw || e.Arch != c.want || e.File == "" {
			t.Errorf("architecture %d: %+v", c.arch, e)
		}
	}
}
