package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
)

// mountTry is how long an NFS server may be down before a task fails: it may start at this moment.
const mountTry = 90 * time.Second

// mountAll makes NFS mounts in order. unmount undoes those that were made, the last first.
func mountAll(ctx context.Context, list []api.Mount, log func(string, ...any)) (unmount func() error, err error) {
	var made []string
	unmount = func() error {
		var errs []error
		for i := len(made) - 1; i >= 0; i-- {
			if err := unmountNFS(made[i]); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", made[i], err))
			}
		}
		return errors.Join(errs...)
	}
	for _, m := range list {
		if mounted(m.Target) {
			continue // by a task before, or the agent before it crashed
		}
		if err := mountNFS(ctx, m, log); err != nil {
			return nil, errors.Join(err, unmount())
		}
		made = append(made, m.Target)
	}
	return unmount, nil
}

// mounted tells whether something is mounted on a folder.
func mounted(dir string) bool {
	var here, above unix.Stat_t
	return unix.Lstat(dir, &here) == nil && unix.Lstat(filepath.Dir(filepath.Clean(dir)), &above) == nil && here.Dev != above.Dev
}

// unmountNFS unmounts what a server that is gone may hold up: then it is taken out of the tree, and the kernel goes on
// by itself.
func unmountNFS(dir string) error {
	err := unix.Unmount(dir, 0)
	for try := 0; errors.Is(err, unix.EBUSY) && try < 20; try++ { // a postscript's child may be about to end
		time.Sleep(100 * time.Millisecond)
		err = unix.Unmount(dir, 0)
	}
	if err != nil {
		err = unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE)
	}
	return err
}

func mountNFS(ctx context.Context, m api.Mount, log func(string, ...any)) error {
	target := filepath.Clean(m.Target)
	if !filepath.IsAbs(target) || target == "/" {
		return fmt.Errorf("mount %s: target %q is not an absolute path below /", m.Source, m.Target)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.Source, err)
	}
	fstype, flags, data, err := nfsOptions(ctx, m)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Source, err)
	}
	began, wait := time.Now(), time.Second
	for {
		err := unix.Mount(m.Source, target, fstype, flags, data)
		if err == nil {
			return nil
		}
		if !mayPass(err) || time.Since(began) > mountTry {
			return &api.Error{Code: "mount", Message: fmt.Sprintf("mount %s on %s (%s %s): %v", m.Source, target, fstype, data, err), Hint: mountHint(err)}
		}
		log("mount %s: %v; trying again in %v", m.Source, err, wait)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(wait*2, 10*time.Second)
	}
}

// mayPass tells whether a mount may do better later: the server does not answer (yet).
func mayPass(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ECONNRESET, unix.EIO, unix.EAGAIN, unix.EPIPE, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func mountHint(err error) string {
	switch {
	case errors.Is(err, unix.ENODEV):
		return "the kernel of the stateless image has no NFS client: its profile needs the modules nfs and nfsv3 (or nfsv4)"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "the NFS server does not export this path to the node's address"
	case errors.Is(err, unix.ENOENT):
		return "the NFS server has no such path"
	}
	return "see whether the NFS server runs and its port can be reached from the node"
}

// nfsOptions makes mount(2)'s flags and text of what mount -o takes. The text form of nfs(5) is what the kernel reads;
// mount.nfs, which is not needed, would only find out addresses and the version.
func nfsOptions(ctx context.Context, m api.Mount) (fstype string, flags uintptr, data string, err error) {
	host, _, ok := strings.Cut(m.Source, ":/")
	if !ok || host == "" {
		return "", 0, "", fmt.Errorf("source is not ADDRESS:/path")
	}
	host = strings.Trim(host, "[]")
	fstype = "nfs"
	var out []string
	has := map[string]bool{}
	for o := range strings.SplitSeq(m.Options, ",") {
		o = strings.TrimSpace(o)
		key, value, _ := strings.Cut(o, "=")
		if f, ok := mountFlags[o]; ok {
			flags |= f
			continue
		}
		switch key {
		case "", "defaults", "rw", "auto", "noauto", "_netdev", "nofail", "bg", "fg", "retry", "user", "nouser":
			continue // for mount(8) alone
		case "vers", "nfsvers":
			if strings.HasPrefix(value, "4") {
				fstype = "nfs4"
			}
			key, o = "vers", "vers="+value
		}
		has[key] = true
		out = append(out, o)
	}
	if !has["vers"] {
		out = append(out, "vers=3")
	}
	if !has["addr"] {
		addr, err := lookup(ctx, host)
		if err != nil {
			return "", 0, "", err
		}
		out = append(out, "addr="+addr)
		if fstype == "nfs" && !has["mountaddr"] {
			out = append(out, "mountaddr="+addr)
		}
	}
	return fstype, flags, strings.Join(out, ","), nil
}

var mountFlags = map[string]uintptr{"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "sync": unix.MS_SYNCHRONOUS}

// lookup returns the address of a host, IPv4 first.
func lookup(ctx context.Context, host string) (string, error) {
	if ip := net.ParseIP(host); ip != nil {
		return ip.String(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	for _, ip := range ips {
		if ip.To4() != nil {
			return ip.String(), nil
		}
	}
	return ips[0].String(), nil
}
