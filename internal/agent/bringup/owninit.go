package bringup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/uplink"
)

// ServiceName is what the agent is called in a system with systemd.
const ServiceName = "mimeo-agent.service"

// serviceUnit makes the agent a service beside the system's own. Those who sign in by ssh wait until the node has its
// host key. What postscripts have started outlives the agent.
const serviceUnit = `[Unit]
Description=Mimeo agent: this node's address, identity, mounts and postscripts
After=systemd-tmpfiles-setup.service
Before=ssh.service sshd.service dropbear.service

[Service]
Type=notify
ExecStart=` + AgentPath + ` service
TimeoutStartSec=3min
Restart=always
RestartSec=5s
KillMode=process
`

// unitDir is where systemd finds units that were made at run time.
const unitDir = "/run/systemd/system"

// prepareInit gives a root that has an init of its own what it needs to know before that starts: the host name, and
// the agent as a service. A system without systemd starts it by itself, as docs/stateless.md says.
func (b *initrd) prepareInit(root string) error {
	if _, err := lookInside(root, b.params.Init); err != nil {
		return fmt.Errorf("process 1 of the stateless system: %w: the profile names it, and its rootimg lacks it", err)
	}
	if err := writeHost(root, b.params.Host()); err != nil {
		return err
	}
	// What the kernel starts to load modules: the system's own, if it has one.
	if _, err := lookInside(root, "/sbin/modprobe"); err == nil {
		os.WriteFile("/proc/sys/kernel/modprobe", []byte("/sbin/modprobe"), 0) // not there in a kernel without modules
	}
	wants := filepath.Join(unitDir, "multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	unit := filepath.Join(unitDir, ServiceName)
	if err := os.WriteFile(unit, []byte(serviceUnit), 0o644); err != nil {
		return fmt.Errorf("make the agent a service: %w", err)
	}
	if err := os.Symlink(unit, filepath.Join(wants, ServiceName)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the agent a service: %w", err)
	}
	return nil
}

// lookInside finds a program in a root that is not this one's yet, by links which are absolute in it.
func lookInside(root, name string) (fs.FileInfo, error) {
	for range 20 {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			return nil, fmt.Errorf("%s is not there", name)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				return nil, fmt.Errorf("%s is no program", name)
			}
			return info, nil
		}
		to, err := os.Readlink(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(name), to)
		}
		name = to
	}
	return nil, fmt.Errorf("%s: too many links", name)
}

// writeHost writes what a system is called into its root, and tells the kernel.
func writeHost(root, host string) error {
	short, _, dotted := strings.Cut(host, ".")
	if err := unix.Sethostname([]byte(short)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	names := short
	if dotted {
		names = host + " " + short
	}
	hosts := "127.0.0.1\tlocalhost\n127.0.1.1\t" + names + "\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	if b, err := os.ReadFile(filepath.Join(root, "etc/hosts")); err == nil && !strings.Contains(string(b), "127.0.1.1") && len(strings.TrimSpace(string(b))) > 0 {
		hosts = strings.TrimRight(string(b), "\n") + "\n127.0.1.1\t" + names + "\n" // the profile's own
	}
	for name, text := range map[string]string{"etc/hostname": short + "\n", "etc/hosts": hosts} {
		file := filepath.Join(root, name)
		os.Remove(file) // may be a link out of this root
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write the host name: %w", err)
		}
	}
	return nil
}

// startInit makes this process that of the system's own init. It returns only where that cannot be started.
func startInit(path string) error {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=linux"}
	err := unix.Exec(path, []string{path}, env)
	return fmt.Errorf("start %s in the new root: %w", path, err)
}

// Service keeps the node's address while the agent is a service beside the system's own init. What it starts goes on
// until ctx ends; wait then returns when all of it has stopped.
func Service(ctx context.Context, log func(string, ...any)) (wait func(), err error) {
	if _, err := readStage(); err != nil {
		return nil, fmt.Errorf("this is no stateless system: %w", err)
	}
	var wg sync.WaitGroup
	lease, err := uplink.Read(leasePath)
	if err != nil {
		log("%v", err)
		return wg.Wait, nil
	}
	wg.Go(func() { lease.Hold(ctx, "/etc/resolv.conf", log) })
	return wg.Wait, nil
}
