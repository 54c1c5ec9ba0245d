package server

import (
	"testing"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/inventory"
)

// What a firmware's request tells of its node is kept, whatever the node is told; that of an operating system, and of an
// iPXE, which may sit on another firmware, does not change it.
func TestDHCPTeaches(t *testing.T) {
	r := start(t)
	const mac = "52:54:00:00:00:03"
	r.must("POST", "/v1/nodes", map[string]any{"range": "n3", "set": map[string]string{"mac": mac}}, nil)
	for _, c := range []struct {
		what  string
		event dhcp.Event
		fw    node.Firmware
		arch  node.Arch
	}{
		{"an operating system", dhcp.Event{}, node.FirmwareUnknown, node.ArchUnknown},
		{"petitboot that is told to boot the disk", dhcp.Event{Firmware: node.OPAL, Arch: node.PPC64EL, File: "http://10.0.0.1/boot/petitboot/x", Text: "boot state is disk"}, node.OPAL, node.PPC64EL},
		{"another firmware", dhcp.Event{Firmware: node.UEFIHTTP, Arch: node.ARM64, File: "http://10.0.0.1/loaders/x"}, node.UEFIHTTP, node.ARM64},
		{"an iPXE on it", dhcp.Event{Firmware: node.UEFI, Arch: node.ARM64, IPXE: true, File: "http://10.0.0.1/boot/ipxe/x"}, node.UEFIHTTP, node.ARM64},
		{"an operating system on it", dhcp.Event{}, node.UEFIHTTP, node.ARM64},
	} {
		c.event.Kind, c.event.Node, c.event.MAC = "dhcp-ack", "n3", mac
		batch := []dhcp.Event{c.event}
		events := []api.Event{r.eventOf(c.event)}
		if err := r.db.Update(t.Context(), func(tx *inventory.Tx) error { return keep(tx, batch, events) }); err != nil {
			t.Fatal(err)
		}
		n, _, err := r.db.NodeByMAC(t.Context(), mac)
		if err != nil {
			t.Fatal(err)
		}
		if n.Firmware != c.fw || n.Arch != c.arch {
			t.Errorf("after %s it is %q, %q", c.what, n.Firmware, n.Arch)
		}
	}
}
