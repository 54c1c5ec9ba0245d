// Package identity makes a deployed system another one than the captured: host name, machine ID, SSH host keys.
//
// It works on the folder in which the system's root is mounted. Every path is looked up below it: a link in the system
// that leads out of it is an error and never followed.
package identity

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"syscall"
)

// Options say who the system is.
type Options struct {
	Hostname string // may have a domain; "" leaves it as it is
}

// Apply gives the system below root its own identity. It returns what it did, for people. What a system does not have
// is not made: one without SSH host keys gets none.
func Apply(root string, o Options) (done []string, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("open the deployed root: %w", err)
	}
	defer r.Close()
	t := &tree{r: r}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"host name", func() error { return t.hostname(o.Hostname) }},
		{"machine ID", t.machineID},
		{"SSH host keys", func() error { return t.hostKeys(o.Hostname) }},
		{"random seed", t.seeds},
	} {
		if err := step.do(); err != nil {
			return t.done, fmt.Errorf("make the %s new: %w", step.what, err)
		}
	}
	return t.done, nil
}

type tree struct {
	r    *os.Root
	done []string
}

func (t *tree) did(format string, args ...any) { t.done = append(t.done, fmt.Sprintf(format, args...)) }

// maxFile bounds the small files that are read.
const maxFile = 1 << 20

// resolve follows links at the end of a path as the system itself will: an absolute one starts at its root.
func (t *tree) resolve(name string) string {
	for range 8 {
		to, err := t.r.Readlink(name)
		switch {
		case err != nil:
			return name
		case path.IsAbs(to):
			name = strings.TrimPrefix(path.Clean(to), "/")
		default:
			name = path.Join(path.Dir(name), to)
		}
	}
	return name
}

// read returns a regular file's content; ok is false where there is none.
func (t *tree) read(name string) (b []byte, ok bool, err error) {
	name = t.resolve(name)
	st, err := t.r.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case !st.Mode().IsRegular() || st.Size() > maxFile:
		return nil, false, fmt.Errorf("%s is not a small regular file", name)
	}
	b, err = t.r.ReadFile(name)
	return b, err == nil, err
}

// write replaces a file at once, so that a power cut leaves the old or the new one. Owner and mode are those of the old
// one, where there is one. Where the name is a link, the file behind it is replaced.
func (t *tree) write(name string, b []byte, mode fs.FileMode) error {
	name = t.resolve(name)
	uid, gid := 0, 0
	if st, err := t.r.Lstat(name); err == nil {
		mode = st.Mode().Perm()
		if s, ok := st.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(s.Uid), int(s.Gid)
		}
	}
	tmp := path.Join(path.Dir(name), "."+path.Base(name)+".mimeo")
	if err := t.r.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := t.r.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		if err = f.Chown(uid, gid); errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			err = nil // a test's tree
		}
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = t.r.Rename(tmp, name)
	}
	if err != nil {
		t.r.Remove(tmp)
	}
	return err
}

// remove deletes a file that need not be there.
func (t *tree) remove(name string) error {
	err := t.r.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		t.did("%s removed", name)
	}
	return err
}

var machineIDText = regexp.MustCompile(`^[0-9a-f]{32}$`)

// machineID writes a new random ID where the system has one (machine-id(5)). A file that is empty or says
// "uninitialized", or no file at all, means that the system makes one at its first boot, and stays.
func (t *tree) machineID() error {
	old, ok, err := t.read("etc/machine-id")
	if err != nil || !ok || !machineIDText.MatchString(strings.TrimSpace(string(old))) {
		return err
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a version 4 UUID
	text := []byte(hex.EncodeToString(id[:]) + "\n")
	if err := t.write("etc/machine-id", text, 0o444); err != nil {
		return err
	}
	t.did("machine ID made new")
	// D-Bus has its own file, or a link to that one.
	const dbus = "var/lib/dbus/machine-id"
	st, err := t.r.Lstat(dbus)
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	return t.write(dbus, text, 0o644)
}

// seeds removes what would give two systems the same random numbers at boot, and rules of old systems that tie the
// names of network cards to the captured node's MACs. One that cannot be removed is no reason to fail.
func (t *tree) seeds() error {
	for _, f := range []string{"var/lib/systemd/random-seed", "var/lib/urandom/random-seed", "var/lib/random-seed", "etc/udev/rules.d/70-persistent-net.rules"} {
		if err := t.remove(f); err != nil {
			t.did("%s could not be removed: %v", f, err)
		}
	}
	return nil
}
