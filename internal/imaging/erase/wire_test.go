package erase

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// The structures are those of the kernel's headers, by the word of the C compiler.
func TestLayouts(t *testing.T) {
	dir := t.TempDir()
	src := `#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/nvme_ioctl.h>
#include <scsi/sg.h>
int main(void) {
	printf("%zu %zu %zu %zu %zu\n", sizeof(struct nvme_passthru_cmd), offsetof(struct nvme_passthru_cmd, addr), offsetof(struct nvme_passthru_cmd, cdw10), offsetof(struct nvme_passthru_cmd, timeout_ms), offsetof(struct nvme_passthru_cmd, result));
	printf("%lx %lx\n", (unsigned long)NVME_IOCTL_ID, (unsigned long)NVME_IOCTL_ADMIN_CMD);
	printf("%zu %zu %zu %zu %zu %zu %zu %zu\n", sizeof(sg_io_hdr_t), offsetof(sg_io_hdr_t, dxfer_len), offsetof(sg_io_hdr_t, dxferp), offsetof(sg_io_hdr_t, sbp), offsetof(sg_io_hdr_t, timeout), offsetof(sg_io_hdr_t, status), offsetof(sg_io_hdr_t, host_status), offsetof(sg_io_hdr_t, driver_status));
	printf("%x %d %d %d\n", SG_IO, SG_DXFER_NONE, SG_DXFER_TO_DEV, SG_DXFER_FROM_DEV);
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
	var n nvmeCmd
	var h sgHdr
	want := fmt.Sprintln(unsafe.Sizeof(n), unsafe.Offsetof(n.addr), unsafe.Offsetof(n.cdw10), unsafe.Offsetof(n.timeoutMS), unsafe.Offsetof(n.result)) +
		fmt.Sprintf("%x %x\n", nvmeIoctlID, nvmeIoctlAdmin) +
		fmt.Sprintln(unsafe.Sizeof(h), unsafe.Offsetof(h.dxferLen), unsafe.Offsetof(h.dxferp), unsafe.Offsetof(h.sbp), unsafe.Offsetof(h.timeout), unsafe.Offsetof(h.status), unsafe.Offsetof(h.hostStatus), unsafe.Offsetof(h.driverStatus)) +
		fmt.Sprintf("%x %d %d %d\n", sgIO, sgNone, sgOut, sgIn)
	if string(out) != want {
		t.Errorf("C has\n%swe have\n%s", out, want)
	}
}

// Commands as the standards' own tables have them, byte by byte.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"IDENTIFY DEVICE", passThrough(ataPIOIn, ataIdentify), "85080e00000001000000000000 00 ec 00"},
		{"SECURITY ERASE PREPARE", passThrough(ataNonData, ataErasePrepare), "85060000000000000000000000 00 f3 00"},
		{"SECURITY ERASE UNIT", passThrough(ataPIOOut, ataEraseUnit), "850a0600000001000000000000 00 f4 00"},
		{"SANITIZE block", sanitizeCDB(sanitizeBlock), "48a2 0000000000000000"},
		{"SANITIZE crypto", sanitizeCDB(sanitizeCrypto), "48a3 0000000000000000"},
	} {
		if got, want := hex.EncodeToString(c.got), strings.ReplaceAll(c.want, " ", ""); got != want {
			t.Errorf("%s: %s, want %s", c.what, got, want)
		}
	}
	b := securityBlock(2)
	if len(b) != 512 || b[0] != 2 || string(b[2:7]) != password || notZero(b[7:]) >= 0 {
		t.Errorf("% x", b[:40])
	}
	if got := (nvmeDisk{flbas: 0x31, dps: 0x9}).formatWord(sesCrypto); got != 2<<9|1<<8|1<<5|1<<12|1<<4|1 {
		t.Errorf("%#x", got)
	}
	if got := (nvmeDisk{}).formatWord(sesUserData); got != 0x200 {
		t.Errorf("%#x", got)
	}
}

// What disks say of themselves, and what follows.
func TestAnswers(t *testing.T) {
	id := make([]byte, 512)
	put := func(i int, v uint16) { binary.LittleEndian.PutUint16(id[2*i:], v) }
	if a := readIdentify(id); a.refuses() == nil {
		t.Error("a disk without security erases itself")
	}
	put(82, 2)
	put(128, 1|32)
	put(89, 150)
	put(90, 0x8000|400)
	put(169, 1)
	put(69, 1<<14|1<<5)
	a := readIdentify(id)
	if a.refuses() != nil || !a.enhanced || a.normal != 5*time.Hour || a.better != 800*time.Minute || !a.zeros || a.locked {
		t.Errorf("%+v", a)
	}
	put(128, 1|8)
	if err := readIdentify(id).refuses(); err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Error(err)
	}
	put(128, 1|2|4)
	if a := readIdentify(id); !a.locked || !a.enabled || a.refuses() != nil {
		t.Errorf("%+v", a)
	}
	put(69, 1<<14)
	if readIdentify(id).zeros {
		t.Error("DRAT alone says nothing of zeros")
	}

	ctrl, ns, list := make([]byte, 4096), make([]byte, 4096), make([]byte, 4096)
	list[0] = 1
	read := func() (n nvmeDisk) { n.read(ctrl, ns, list); return n }
	try := func(m Method) string {
		_, what, err := read().choose(m)
		if err != nil {
			return "no: " + err.Error()
		}
		return what
	}
	for _, m := range []Method{Secure, Crypto} {
		if got := try(m); !strings.HasPrefix(got, "no: ") {
			t.Error(got)
		}
	}
	ctrl[256] = 2
	if got := try(Secure) + "; " + try(Crypto); !strings.HasPrefix(got, "NVMe Format, user data erase; no: ") {
		t.Error(got)
	}
	ctrl[524] = 4
	if got := try(Crypto); got != "NVMe Format, cryptographic erase" {
		t.Error(got)
	}
	ctrl[524], ctrl[328] = 0, 3
	if got := try(Secure) + "; " + try(Crypto); got != "NVMe Sanitize, block erase; NVMe Sanitize, cryptographic erase" {
		t.Error(got)
	}
	list[4] = 2
	if got := try(Secure); !strings.Contains(got, "2 namespaces") {
		t.Error(got)
	}

	log := make([]byte, 512)
	for status, want := range map[uint16]string{1: "true 1 <nil>", 2: "false 0.5 <nil>", 4: "true 1 <nil>", 3: "false 0 the disk says that it failed"} {
		binary.LittleEndian.PutUint16(log, 0x8000)
		binary.LittleEndian.PutUint16(log[2:], status)
		done, part, err := sanitizeStatus(log)
		if got := fmt.Sprint(done, part, err); got != want {
			t.Errorf("%d: %s", status, got)
		}
	}
	if _, _, err := sanitizeStatus(make([]byte, 512)); err == nil {
		t.Error("a disk that never sanitized says that it is done")
	}
	fixed := make([]byte, 18)
	fixed[0], fixed[2], fixed[12], fixed[13], fixed[15], fixed[16] = 0x70, 2, 4, 0x1b, 0x80, 0x40
	if e := readSense(fixed); e.key != 2 || e.asc != 4 || e.ascq != 0x1b || e.progress != 0x4000 {
		t.Errorf("%+v", e)
	}
	if e := readSense([]byte{0x72, 5, 0x20, 0, 0, 0, 0, 0}); e.key != 5 || e.asc != 0x20 || e.progress != -1 {
		t.Errorf("%+v", e)
	}
}

func FuzzSense(f *testing.F) {
	f.Add([]byte{0x70, 0, 5})
	f.Fuzz(func(t *testing.T, b []byte) { _ = readSense(b).Error() })
}
