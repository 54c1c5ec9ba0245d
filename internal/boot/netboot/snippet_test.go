package netboot

import (
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"

	"mimeo/internal/cluster/node"
)

var updateSnippets = flag.Bool("update-snippets", false, "write the snippets that the code makes now")

// snippetSite has a node of each kind.
func snippetSite() Site {
	return Site{Server: netip.MustParseAddr("10.77.0.1"), Base: "http://10.77.0.1:4480", Again: "mimeo dhcp snippet", Nodes: []node.Node{
		{Name: "n01", NICs: []node.NIC{{MAC: "52:54:00:77:00:01", IP: "10.77.0.11"}, {MAC: "52:54:00:77:01:01"}}},
		{Name: "n02", Hostname: "n02.example.org", NICs: []node.NIC{{MAC: "52:54:00:77:00:02"}}, Firmware: node.UEFI, Arch: node.ARM64},
		{Name: "n03", NICs: []node.NIC{{MAC: "52:54:00:77:00:03"}}, Knobs: node.Knobs{Loader: KnobLoaderSecure}},
		{Name: "n04", NICs: []node.NIC{{MAC: "52:54:00:77:00:04"}}, Firmware: node.OpenFirmware, Arch: node.PPC64EL},
		{Name: "n05", NICs: []node.NIC{{MAC: "52:54:00:77:00:05", IP: "10.77.0.15"}}, Firmware: node.OPAL, Arch: node.PPC64EL},
		{Name: "n06", NICs: []node.NIC{{}}},
	}}
}

// What is printed stands in testdata; the real servers judge it in the package above.
func TestSnippets(t *testing.T) {
	for _, server := range DHCPServers {
		var b strings.Builder
		if err := Snippet(&b, server, snippetSite()); err != nil {
			t.Fatal(err)
		}
		file := "testdata/snippet-" + server + ".txt"
		if *updateSnippets {
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || b.String() != string(want) {
			t.Errorf("%s: %v; got\n%s", server, err, b.String())
		}
	}
	if err := Snippet(&strings.Builder{}, "bootpd", Site{}); err == nil || !strings.Contains(err.Error(), "dnsmasq, isc, kea") {
		t.Errorf("for an unknown server: %v", err)
	}
}
