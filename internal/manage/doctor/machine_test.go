package doctor

import (
	"strings"
	"testing"
)

// TestMachine has real programs on mimeod's ports, a small disk, and a folder in memory.
func TestMachine(t *testing.T) {
	found := inNamespaces(t, machine+`
		dnsmasq -C /dev/null -u root -x /mnt/pid -p 4443 --enable-tftp --tftp-root=/mnt --no-resolv --no-hosts
		truncate -s 64M /mnt/disk; mke2fs -q -t ext4 /mnt/disk
		mkdir /mnt/state /mnt/store; mount -o loop /mnt/disk /mnt/state`)
	for _, want := range []struct {
		name, text string
		state      State
	}{
		{"port 4443/tcp", "API: dnsmasq has it", Bad},
		{"port 69/udp", "TFTP: dnsmasq has it", Bad},
		{"port 4480/tcp", "free", OK},
		{"port 67/udp", "free", OK},
		{"state folder", "/mnt/state has 0.", Warn},
		{"store", "lies in memory", Warn},
		{"clock", "20", ""}, // whether something keeps it right is this machine's affair
	} {
		ok := false
		for _, f := range found {
			ok = ok || f.Name == want.name && (f.State == want.state || want.state == "" && f.State != Bad) && strings.Contains(f.Text, want.text) && (f.State == OK || f.Hint != "")
		}
		if !ok {
			t.Errorf("no %s %s with %q in %+v", want.state, want.name, want.text, found)
		}
	}
}
