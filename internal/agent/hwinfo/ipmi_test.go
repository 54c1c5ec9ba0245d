package hwinfo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"
)

// The structures and numbers are those of the kernel's header, by the word of the C compiler.
func TestIPMILayout(t *testing.T) {
	dir := t.TempDir()
	src := `#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/ipmi.h>
int main(void) {
	printf("%zu %zu %zu %zu\n", sizeof(struct ipmi_req), offsetof(struct ipmi_req, addr_len), offsetof(struct ipmi_req, msgid), offsetof(struct ipmi_req, msg));
	printf("%zu %zu %zu %zu %zu\n", sizeof(struct ipmi_recv), offsetof(struct ipmi_recv, addr), offsetof(struct ipmi_recv, addr_len), offsetof(struct ipmi_recv, msgid), offsetof(struct ipmi_recv, msg));
	printf("%zu %zu %zu\n", sizeof(struct ipmi_msg), offsetof(struct ipmi_msg, data_len), offsetof(struct ipmi_msg, data));
	printf("%zu %zu %d %zu\n", sizeof(struct ipmi_system_interface_addr), sizeof(struct ipmi_addr), IPMI_BMC_CHANNEL, (size_t)IPMI_SYSTEM_INTERFACE_ADDR_TYPE);
	printf("%lx %lx\n", (unsigned long)IPMICTL_SEND_COMMAND & 0xffffffff, (unsigned long)IPMICTL_RECEIVE_MSG_TRUNC & 0xffffffff);
	return 0;
}
`
	if err := os.WriteFile(filepath.Join(dir, "l.c"), []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-o", filepath.Join(dir, "l"), filepath.Join(dir, "l.c")).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	out, err := exec.Command(filepath.Join(dir, "l")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var q ipmiReq
	var r ipmiRecv
	var m ipmiMsg
	want := fmt.Sprintln(unsafe.Sizeof(q), unsafe.Offsetof(q.addrLen), unsafe.Offsetof(q.msgid), unsafe.Offsetof(q.msg)) +
		fmt.Sprintln(unsafe.Sizeof(r), unsafe.Offsetof(r.addr), unsafe.Offsetof(r.addrLen), unsafe.Offsetof(r.msgid), unsafe.Offsetof(r.msg)) +
		fmt.Sprintln(unsafe.Sizeof(m), unsafe.Offsetof(m.dataLen), unsafe.Offsetof(m.data)) +
		fmt.Sprintln(unsafe.Sizeof(ipmiAddr{}), 40, ipmiBMC, ipmiSystem) +
		fmt.Sprintf("%x %x\n", ipmiSend, ipmiReceive)
	if string(out) != want {
		t.Errorf("C has\n%swe have\n%s", out, want)
	}
}

func TestReadLAN(t *testing.T) {
	mac := []byte{0, 0x11, 0x52, 0x54, 0, 1, 2, 3}
	for _, c := range []struct {
		ip, mac []byte
		want    string
	}{
		{[]byte{0, 0x11, 10, 0, 9, 7}, mac, "10.0.9.7 52:54:00:01:02:03"},
		{[]byte{0, 0x11, 10, 0, 9, 7}, nil, "10.0.9.7 "},
		{[]byte{0, 0x11, 0, 0, 0, 0}, mac, " 52:54:00:01:02:03"}, // it has none yet
		{[]byte{0, 0x11, 0, 0, 0, 0}, []byte{0, 0x11, 0, 0, 0, 0, 0, 0}, "nothing"},
		{[]byte{0xcc, 0x11, 10, 0, 9, 7}, mac, "nothing"}, // no such channel
		{[]byte{0}, mac, "nothing"},
		{nil, nil, "nothing"},
	} {
		got := "nothing"
		if b := readLAN(c.ip, c.mac); b != nil {
			got = b.Addr + " " + b.MAC
		}
		if got != c.want {
			t.Errorf("% x, % x: %q, want %q", c.ip, c.mac, got, c.want)
		}
	}
	if BMC(t.TempDir()) != nil {
		t.Error("a machine without a device has a BMC")
	}
}
