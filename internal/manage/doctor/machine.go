package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
	"mimeo/internal/imaging/store/s3"
	"mimeo/internal/manage/stateless"
)

// Room that is warned of, in bytes.
const (
	littleState = 1 << 30
	littleStore = 20 << 30
)

// stores looks whether the keys of encrypted stores open them, and can be read by nobody else.
func (d *doctor) stores() {
	d.key("store", d.Config.Store, d.Config.StoreKey)
	if d.Config.Copy.To != "" {
		d.key("second store", d.Config.Copy.To, d.Config.Copy.Key)
	}
}

// key looks at a store in a folder and its key.
func (d *doctor) key(name, place, file string) {
	var by keys.Secret
	if file != "" {
		var err error
		if by, err = keys.Read(file); err != nil {
			hint := "take the file from where a copy of it is kept"
			if errors.Is(err, fs.ErrNotExist) {
				hint = "make one for a new store (mimeo-agent store key new " + file + "), or put back the store's"
			}
			d.add(Bad, name, hint, "key of the store: %v", err)
			return
		}
		info, err := os.Stat(file)
		owner := d.owner(file)
		switch {
		case err != nil:
			d.add(Bad, name, "", "key of the store: %v", err)
			return
		case owner != "":
			d.add(Bad, name, fmt.Sprintf("chown %s: %s", d.User, file), "the key %s belongs to %s, mimeod runs as %s", file, owner, d.User)
		case info.Mode()&0o077 != 0:
			d.add(Warn, name, "chmod 600 "+file, "the key %s can be read by others", file)
		}
	}
	path, ok := strings.CutPrefix(place, "dir:")
	if !ok {
		return
	}
	err := dir.Try(path, dir.Options{Key: by})
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		d.add(Bad, name, dir.KeyHint(err), "%s: %v", path, err)
	case file != "":
		d.add(OK, name, "", "%s opens %s", file, path)
	}
}

// folders looks at the disks that the state folder and the stores lie on.
func (d *doctor) folders() {
	type folder struct {
		name, path string
		little     uint64
	}
	all := []folder{{"state folder", d.Config.State, littleState}}
	if path, ok := strings.CutPrefix(d.Config.Store, "dir:"); ok {
		all = append(all, folder{"store", path, littleStore})
	}
	if path, ok := strings.CutPrefix(d.Config.Copy.To, "dir:"); ok {
		all = append(all, folder{"second store", path, littleStore})
	}
	for _, f := range all {
		name := f.name
		path := f.path
		for {
			if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) || path == "/" {
				break
			}
			path = filepath.Dir(path) // made later
		}
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err != nil {
			d.add(Bad, name, "", "%s cannot be looked at: %v", f.path, err)
			continue
		}
		free, kind := s.Bavail*uint64(s.Bsize), ""
		switch s.Type {
		case unix.NFS_SUPER_MAGIC:
			kind = "NFS"
		case unix.TMPFS_MAGIC:
			kind = "memory"
		}
		owner := d.owner(path)
		switch {
		case kind == "memory":
			d.add(Warn, name, "choose a folder on a disk", "%s lies in memory: all of it is gone with the next restart", f.path)
		case kind == "NFS" && f.name == "state folder":
			d.add(Warn, name, "keep the state folder on a local disk; the store may lie on NFS", "%s lies on NFS, where the inventory's locks are not to be relied on", f.path)
		case owner != "" && path == f.path:
			d.add(Bad, name, fmt.Sprintf("chown -R %s: %s", d.User, f.path), "%s belongs to %s, mimeod runs as %s", f.path, owner, d.User)
		case free < f.little:
			d.add(Warn, name, "make room, or choose another disk", "%s has %.1f GiB left", f.path, float64(free)/(1<<30))
		default:
			d.add(OK, name, "", "%s has %.1f GiB left", f.path, float64(free)/(1<<30))
		}
	}
}

// buckets looks whether stores in S3 can be reached and written.
func (d *doctor) buckets(ctx context.Context) {
	b, ok, err := d.Config.Bucket(os.Getenv)
	if ok {
		d.bucket(ctx, "store", b, err)
	}
	b, ok, err = d.Config.CopyBucket(os.Getenv)
	if ok {
		d.bucket(ctx, "second store", b, err)
	}
}

func (d *doctor) bucket(ctx context.Context, name string, b s3.Config, err error) {
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, bucketWait)
		defer cancel()
		if b.State, err = os.MkdirTemp("", "mimeo-check-"); err == nil {
			defer os.RemoveAll(b.State)
			err = s3.Try(ctx, b)
		}
	}
	if err != nil {
		d.add(Bad, name, s3.Hint(err), "%v", err)
		return
	}
	d.add(OK, name, "", "%s can be listed and written, and the service knows conditional PUT", b.Place())
}

// bucketWait is how long the service of a bucket is given.
const bucketWait = 20 * time.Second

// owner names whom a folder belongs to, where that is not who mimeod runs as.
func (d *doctor) owner(path string) string {
	var s unix.Stat_t
	u, err := user.Lookup(d.User)
	if err != nil || u.Uid == "0" || unix.Stat(path, &s) != nil || strconv.Itoa(int(s.Uid)) == u.Uid {
		return ""
	}
	if o, err := user.LookupId(strconv.Itoa(int(s.Uid))); err == nil {
		return o.Username
	}
	return fmt.Sprintf("user %d", s.Uid)
}

// programs looks for what builds stateless images.
func (d *doctor) programs() {
	var missing []string
	for _, p := range []string{"mmdebstrap", "mksquashfs", "apt-get", "dpkg-deb", "depmod"} {
		if _, err := exec.LookPath(p); err != nil {
			if _, err := os.Stat("/usr/sbin/" + p); err != nil {
				missing = append(missing, p)
			}
		}
	}
	if len(missing) > 0 {
		d.add(Bad, "programs", "apt install mmdebstrap squashfs-tools kmod", "not installed: %s; stateless images cannot be built", join(missing))
		return
	}
	d.add(OK, "programs", "", "all that builds stateless images is there")
}

// namespaces looks whether a user who is not root can build stateless images.
func (d *doctor) namespaces() {
	if d.User == "root" || d.User == "" {
		return
	}
	const name = "user namespaces"
	for _, f := range []string{"/etc/subuid", "/etc/subgid"} {
		if !hasSubIDs(f, d.User) {
			d.add(Bad, name, fmt.Sprintf("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", d.User), "%s has no 65536 numbers for %s; stateless images cannot be built", f, d.User)
			return
		}
	}
	if _, err := exec.LookPath("newuidmap"); err != nil {
		d.add(Bad, name, "apt install uidmap", "newuidmap is not installed; stateless images cannot be built")
		return
	}
	for file, off := range map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0", "/proc/sys/user/max_user_namespaces": "0"} {
		if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == off {
			d.add(Bad, name, "see "+file, "this kernel does not allow them; stateless images cannot be built")
			return
		}
	}
	d.add(OK, name, "", "%s can build stateless images", d.User)
}

// hasSubIDs tells whether a file such as /etc/subuid (subuid(5)) gives a user 65536 numbers.
func hasSubIDs(file, name string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		p := strings.Split(s.Text(), ":")
		if len(p) == 3 && p[0] == name {
			if n, err := strconv.ParseInt(p[2], 10, 64); err == nil && n >= 65536 {
				return true
			}
		}
	}
	return false
}

// images looks at the stateless images.
func (d *doctor) images() {
	const name = "stateless images"
	all, err := stateless.List(d.Config.State)
	if errors.Is(err, fs.ErrPermission) {
		d.add(Warn, name, "run this as root", "they cannot be looked at: %v", err)
		return
	}
	if err != nil {
		d.add(Bad, name, "", "%v", err)
		return
	}
	found := false
	for _, s := range all {
		if !s.InUse {
			continue
		}
		found = found || s.Profile == "imaging"
		what := fmt.Sprintf("%s %s, built %s", s.Profile, s.Arch, s.Created.Format(time.DateOnly))
		build := fmt.Sprintf("mimeo stateless build %s --arch %s", s.Profile, s.Arch)
		agent, err := stateless.AgentBinary(d.Config.Agent, s.Arch)
		if err != nil {
			d.add(Bad, "stateless "+s.Profile, "install the package again", "%s: %v", what, err)
			continue
		}
		old, err := s.OtherAgent(agent)
		switch {
		case err != nil:
			d.add(Bad, "stateless "+s.Profile, build, "%s: %v", what, err)
		case old:
			d.add(Warn, "stateless "+s.Profile, build, "%s, has another agent than the one that is installed", what)
		default:
			d.add(OK, "stateless "+s.Profile, "", "%s", what)
		}
	}
	if !found {
		d.add(Warn, name, "mimeo stateless build imaging", "there is no imaging: nodes cannot be captured or deployed")
	}
}
