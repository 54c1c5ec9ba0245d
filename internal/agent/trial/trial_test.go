package trial

import (
	"context"
	"errors"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// speaker makes a disk whose boot sector says text on the first serial port and then does what the machine code in end does.
func speaker(t *testing.T, text string, end ...byte) string {
	t.Helper()
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
		0xbe, 0x40, 0x7c, // mov si, 0x7c40
		0xac, 0x84, 0xc0, 0x74, 0x06, // next: lodsb; test al, al; jz end
		0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // mov dx, 0x3f8; out dx, al; jmp next
	}
	if len(end) == 0 {
		end = []byte{0xf4, 0xeb, 0xfd} // hlt; jmp there again
	}
	disk := make([]byte, 1<<20)
	copy(disk, append(code, end...))
	copy(disk[0x40:], text+"\x00")
	disk[510], disk[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o400); err != nil {
		t.Fatal(err)
	}
	return path
}

func try(t *testing.T, o Options) (Result, string) {
	t.Helper()
	o.Accel, o.Memory, o.CPUs, o.Work, o.SectorSize = "tcg", 128, 1, t.TempDir(), max(512, o.SectorSize)
	o.Screen = filepath.Join(t.TempDir(), "screen.png")
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(o.Work); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	return res, o.Screen
}

// TestBoots boots real boot sectors in a real machine.
func TestBoots(t *testing.T) {
	t.Run("login", func(t *testing.T) {
		res, screen := try(t, Options{Disk: speaker(t, "Starting...\r\n\x1b[0;1mdeb12 login: ")})
		if !res.Booted || res.Match != "deb12 login:" || res.Why != "" || res.Read < 512 || !res.Screen || res.Accel != "tcg" {
			t.Errorf("%+v", res)
		}
		f, err := os.Open(screen)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if p, err := png.Decode(f); err != nil || p.Bounds().Dx() < 640 {
			t.Errorf("the picture: %v", err)
		}
	})
	t.Run("of 4 KiB sectors", func(t *testing.T) {
		// A BIOS boots none, but the machine must start.
		res, _ := try(t, Options{Disk: speaker(t, "x"), SectorSize: 4096, Timeout: 2 * time.Second})
		if res.Booted {
			t.Errorf("%+v", res)
		}
	})
	for _, bus := range []string{"ahci", "virtio"} {
		t.Run(bus, func(t *testing.T) {
			if res, _ := try(t, Options{Disk: speaker(t, "pc login: "), Bus: bus}); !res.Booted {
				t.Errorf("%+v", res)
			}
		})
	}
	t.Run("expected", func(t *testing.T) {
		res, _ := try(t, Options{Disk: speaker(t, "MARK up\r\n"), Expect: regexp.MustCompile(`MARK (\w+)`)})
		if !res.Booted || res.Match != "MARK up" {
			t.Errorf("%+v", res)
		}
	})
	t.Run("panic", func(t *testing.T) {
		res, _ := try(t, Options{Disk: speaker(t, "[ 1.5] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n")})
		if res.Booted || !strings.Contains(res.Why, "its kernel panicked: Kernel panic - not syncing: VFS") {
			t.Errorf("%+v", res)
		}
	})
	t.Run("resets", func(t *testing.T) {
		res, _ := try(t, Options{Disk: speaker(t, "again\r\n", 0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe)}) // mov al, 0xfe; out 0x64, al: the keyboard's reset line
		if res.Booted || !strings.Contains(res.Why, "started anew") || res.Resets <= maxResets {
			t.Errorf("%+v", res)
		}
	})
	t.Run("silence", func(t *testing.T) {
		res, _ := try(t, Options{Disk: speaker(t, ""), Timeout: 2 * time.Second})
		if res.Booted || !strings.Contains(res.Why, "said nothing") {
			t.Errorf("%+v", res)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := Run(ctx, Options{Disk: speaker(t, "x"), Accel: "tcg", Memory: 128, CPUs: 1, Work: t.TempDir(), Timeout: time.Minute, SectorSize: 512})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("no disk", func(t *testing.T) {
		_, err := Run(t.Context(), Options{Disk: "/nowhere", Accel: "tcg", Memory: 128, CPUs: 1, Work: t.TempDir(), Timeout: time.Minute, SectorSize: 512})
		if err == nil || !strings.Contains(err.Error(), "/nowhere") || errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestUEFI has the firmware's own shell run a script from the EFI system partition.
func TestUEFI(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	out, err := exec.Command("sh", "-euc", `cd "$(dirname "$1")"; truncate -s 40M disk; echo 'label: gpt
		start=2048, type=uefi' | sfdisk -q disk; truncate -s 36M esp; mkfs.vfat -F 32 esp >/dev/null
		printf 'echo uefi-is-up\r\n' >startup.nsh; mcopy -i esp startup.nsh ::; dd if=esp of=disk bs=1M seek=1 conv=notrunc status=none`, "sh", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	res, _ := try(t, Options{Disk: path, Firmware: "uefi", Expect: regexp.MustCompile(`(?m)^uefi-is-up`), Timeout: 2 * time.Minute})
	if !res.Booted || res.Took < time.Second {
		t.Errorf("%+v", res)
	}
}

func TestTranscript(t *testing.T) {
	var s transcript
	for range 4000 {
		fmt.Fprintf(&s, "%s\r\n", strings.Repeat("x", 60))
	}
	fmt.Fprint(&s, "\x1b]0;title\x07\x1b[2J\x1b[01;32mdebian\x1b[0m login: ")
	text := s.String()
	if len(text) > keepText || len(s.text) > 2*keepText+100 || strings.ContainsAny(text, "\x1b\r\x07") {
		t.Errorf("%d bytes of %d are kept", len(text), len(s.text))
	}
	for said, want := range map[string]string{
		text:                              "debian login:",
		"login: x":                        "",
		"Last login: Mon\nn07 login: ":    "n07 login:",
		"a-b.example.org login: ":         "a-b.example.org login:",
		"Please login: here\nmore follow": "",
	} {
		if match, _ := judge(said, Login); match != want {
			t.Errorf("of %q it takes %q", tail(said, 30), match)
		}
	}
	for said, want := range map[string]string{
		"error: no such partition.\ngrub rescue> ":             "boot loader",
		"ALERT! UUID=x does not exist\n(initramfs) ":           "initrd",
		"Give root password for maintenance\n":                 "emergency mode",
		"SeaBIOS\nBooting from Hard Disk\nNo bootable device.": "firmware",
		"grub> is a prompt":                                    "",
	} {
		if _, why := judge(said, Login); want == "" && why != "" || !strings.Contains(why, want) {
			t.Errorf("of %q it says %q", said, why)
		}
	}
	if got := tail("one\ntwo\nthree", 8); got != "three" {
		t.Errorf("%q", got)
	}
}
