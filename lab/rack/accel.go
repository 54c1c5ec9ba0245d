package rack

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Accel finds out whether KVM really works here, by booting a kernel with it: on some machines /dev/kvm opens and then
// the guest hangs. The answer is kept in cache for as long as the machine is up.
func Accel(ctx context.Context, cache, kernel string) string {
	if a := os.Getenv("MIMEO_LAB_ACCEL"); a != "" {
		return a
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg"
	}
	f.Close()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	mark := filepath.Join(cache, "accel-"+strings.TrimSpace(string(boot)))
	if b, err := os.ReadFile(mark); err == nil {
		return string(b)
	}
	// The kernel has no root to mount: it panics at once, and -no-reboot makes QEMU end there.
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	err = exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults",
		"-display", "none", "-no-reboot", "-kernel", kernel, "-append", "panic=-1 quiet").Run()
	answer := "tcg"
	if err == nil {
		answer = "kvm"
	}
	os.WriteFile(mark, []byte(answer), 0o644)
	return answer
}
