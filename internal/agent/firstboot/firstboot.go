// Package firstboot leaves programs in a deployed system, which runs them at its first boot.
//
// They lie in Dir with the variables that they get and the script that runs them; a service of the system's own init starts
// that. docs/postscripts.md, "At first boot", has the files. Every path is looked up below the system's root: a link that leads
// out of it is an error and never followed.
package firstboot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/postscript"
	"mimeo/internal/cluster/api"
)

// Dir holds what is left in the deployed system. It is on the root filesystem whatever else the system mounts.
const Dir = "/etc/mimeo-first"

// Log is where the system keeps what the programs say.
const Log = "/var/log/mimeo-first.log"

// ErrNoInit says that the system starts its services in a way that is not known here.
var ErrNoInit = errors.New("the deployed system has none of systemd, OpenRC and System V init")

// run is the script that runs the programs. Their names are NUMBER.SECONDS.NAME, with the seconds that they may take. The output
// goes to the log first, so that a daemon which keeps it open holds nothing up, and from there to whoever started this.
const run = `#!/bin/sh
# Left by Mimeo when it deployed this system: runs the programs beside it, once each, in order. One that has succeeded is
# removed. The first that fails stops the rest, and runs again at the next boot. When none is left, all this removes itself.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
dir=` + Dir + ` log=` + Log + `
cd / || exit 1
mkdir -p "${log%/*}" && (umask 077 && : >>"$log") || exit 1
say() {
	echo "$*"
	echo "$(date '+%Y-%m-%d %H:%M:%S') $*" >>"$log"
}
for p in "$dir"/[0-9]*; do
	[ -f "$p" ] || continue
	name=${p##*/}
	name=${name#*.}
	limit=${name%%.*}
	name=${name#*.}
	say "$name begins"
	at=$(wc -c <"$log")
	began=$(date +%s)
	if command -v timeout >/dev/null; then set -- timeout -k 5 "$limit"; else set --; fi
	"$@" env -i /bin/sh -c '. ` + Dir + `/env && exec "$0"' "$p" </dev/null >>"$log" 2>&1
	status=$?
	tail -c "+$((at + 1))" "$log"
	if [ $status -ne 0 ]; then
		why="exit status $status"
		[ $(($(date +%s) - began)) -lt "$limit" ] || why="$why, after its limit of $limit s"
		say "$name failed: $why. It runs again at the next boot, or by hand: sh $dir/run"
		exit 1
	fi
	rm -f "$p" || exit 1
	say "$name is done"
done
`

// service is what starts the script, in a way that an init knows.
type service struct {
	name  string
	file  string
	text  string
	mode  fs.FileMode
	links []string // to file
	done  string   // shell lines, run when all is done
}

// order is a makefile by which startpar, which Debian's System V init has, starts what is in it, and nothing else.
const order = "etc/init.d/.depend.start"

// services are in the order in which they are looked for.
var services = []service{
	{name: "systemd", file: "etc/systemd/system/mimeo-first.service", mode: 0o644, links: []string{"etc/systemd/system/multi-user.target.wants/mimeo-first.service"}, text: `# Left by Mimeo when it deployed this system. It removes itself once all programs have succeeded.
[Unit]
Description=Programs that Mimeo has left for the first boot
ConditionPathExists=` + Dir + `/run
Wants=network-online.target
After=network-online.target nss-lookup.target local-fs.target remote-fs.target

[Service]
Type=oneshot
ExecStart=/bin/sh ` + Dir + `/run
TimeoutStartSec=infinity
`},
	{name: "OpenRC", file: "etc/init.d/mimeo-first", mode: 0o755, links: []string{"etc/runlevels/default/mimeo-first"}, text: `#!/sbin/openrc-run
# Left by Mimeo when it deployed this system. It removes itself once all programs have succeeded.
description="Programs that Mimeo has left for the first boot"

depend() {
	use localmount net dns logger
	after *
}

start() {
	ebegin "Running what Mimeo has left for the first boot"
	/bin/sh ` + Dir + `/run
	eend $?
}
`},
	{name: "System V init", file: "etc/init.d/mimeo-first", mode: 0o755,
		links: []string{"etc/rc2.d/S99mimeo-first", "etc/rc3.d/S99mimeo-first", "etc/rc4.d/S99mimeo-first", "etc/rc5.d/S99mimeo-first"},
		done:  "[ ! -f /" + order + " ] || sed -i '/^mimeo-first:/d; /^TARGETS =/s/ mimeo-first//' /" + order + "\n", text: `#!/bin/sh
### BEGIN INIT INFO
# Provides:          mimeo-first
# Required-Start:    $all
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Programs that Mimeo has left for the first boot
### END INIT INFO
# Left by Mimeo when it deployed this system. It removes itself once all programs have succeeded.
case "$1" in
start) exec /bin/sh ` + Dir + `/run ;;
esac
`},
}

// Place leaves the programs, whose content is given, in the system below root, and returns the name of the init that will start
// them. What was left by a deploy before, or came with the image, is removed. env is their environment, but for PATH, HOME and
// LANG, which have defaults. Where an error is returned, nothing of them runs.
func Place(root string, list []api.Postscript, env map[string]string) (init string, err error) {
	t, err := open(root)
	if err != nil {
		return "", err
	}
	defer t.Close()
	if err := t.clear(); err != nil || len(list) == 0 {
		return "", err
	}
	s, err := t.init()
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.clear())
		}
	}()
	if err := t.Mkdir(rel(Dir), 0o700); err != nil {
		return "", fmt.Errorf("make %s: %w", Dir, err)
	}
	t.label(rel(Dir))
	for i, p := range list {
		limit := time.Duration(p.TimeoutMS) * time.Millisecond
		if limit <= 0 {
			limit = postscript.DefaultTimeout
		}
		name := fmt.Sprintf("%03d.%d.%s", i+1, int64(max(limit.Seconds(), 1)), postscript.FileName(p.Name))
		if err := t.put(path.Join(rel(Dir), name), p.Content, 0o700); err != nil {
			return "", err
		}
	}
	if err := t.put(path.Join(rel(Dir), "env"), shellEnv(env), 0o600); err != nil {
		return "", err
	}
	// It ends with its own removal. What starts it goes first: a power cut leaves no service without its programs.
	script := run
	for _, f := range append(slices.Clone(s.links), s.file) {
		script += "rm -f /" + f + " || exit 1\n"
	}
	script += s.done + "say \"all is done\"\nrm -rf \"$dir\"\n"
	if err := t.put(path.Join(rel(Dir), "run"), []byte(script), 0o700); err != nil {
		return "", err
	}
	if err := t.put(s.file, []byte(s.text), s.mode); err != nil {
		return "", err
	}
	for _, l := range s.links {
		if err := t.link(s.file, l); err != nil {
			return "", err
		}
	}
	if s.done != "" {
		return s.name, t.inOrder(true)
	}
	return s.name, nil
}

// tree is a deployed system's root.
type tree struct{ *os.Root }

func open(root string) (*tree, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("open the deployed root: %w", err)
	}
	return &tree{r}, nil
}

func rel(name string) string { return strings.TrimPrefix(name, "/") }

// clear removes what an earlier deploy has left, or the captured system had when its disk was read.
func (t *tree) clear() error {
	for _, s := range services {
		for _, f := range append(slices.Clone(s.links), s.file) {
			if err := t.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
				return err
			}
		}
	}
	if err := t.inOrder(false); err != nil {
		return err
	}
	return t.RemoveAll(rel(Dir))
}

// inOrder makes the service the last that startpar starts, or takes it away.
func (t *tree) inOrder(in bool) error {
	st, err := t.Lstat(order)
	if err != nil || !st.Mode().IsRegular() || st.Size() > 1<<20 {
		return nil // a system that does without
	}
	old, err := t.ReadFile(order)
	if err != nil {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(string(old)) {
		if strings.HasPrefix(line, "mimeo-first:") {
			continue
		}
		if targets, is := strings.CutPrefix(line, "TARGETS ="); is {
			targets = strings.TrimSuffix(strings.TrimRight(targets, " \n"), " mimeo-first")
			line = "TARGETS =" + targets + "\n"
			if in {
				line = "TARGETS =" + targets + " mimeo-first\nmimeo-first:" + targets + "\n"
			}
		}
		b.WriteString(line)
	}
	if b.String() == string(old) {
		return nil
	}
	tmp := order + ".mimeo"
	if err := t.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := t.put(tmp, []byte(b.String()), st.Mode().Perm()); err != nil {
		return err
	}
	return t.Rename(tmp, order)
}

// init finds out what starts the system's services.
func (t *tree) init() (service, error) {
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { _, err := t.Lstat(n); return err == nil })
	}
	dir := func(name string) bool { st, err := t.Stat(name); return err == nil && st.IsDir() }
	for _, name := range []string{"sbin/init", "usr/sbin/init", "usr/bin/init", "bin/init"} {
		if to, err := t.Readlink(name); err == nil && path.Base(to) == "systemd" {
			return services[0], nil
		}
	}
	switch {
	case has("sbin/openrc-run", "usr/sbin/openrc-run", "usr/bin/openrc-run") && dir("etc/runlevels/default"):
		return services[1], nil
	case dir("etc/init.d") && dir("etc/rc2.d") && has("sbin/init", "usr/sbin/init"):
		return services[2], nil
	case has("usr/lib/systemd/systemd", "lib/systemd/systemd"):
		return services[0], nil
	}
	return service{}, ErrNoInit
}

// put makes a new file of root's.
func (t *tree) put(name string, content []byte, mode fs.FileMode) error {
	if err := t.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := t.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	t.label(name)
	return err
}

// link makes a relative link to a file of the system.
func (t *tree) link(to, name string) error {
	if err := t.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	up := strings.Repeat("../", strings.Count(name, "/"))
	if err := t.Symlink(up+to, name); err != nil {
		return err
	}
	t.label(name)
	return nil
}

// label gives what was made the SELinux label of its folder, as a kernel with SELinux does. A system without labels has none to
// give, and one that cannot be set is set by the system's own restorecon.
func (t *tree) label(name string) {
	const attr = "security.selinux"
	dir, err := t.Open(path.Dir(name))
	if err != nil {
		return
	}
	defer dir.Close()
	var b [256]byte
	if n, err := unix.Fgetxattr(int(dir.Fd()), attr, b[:]); err == nil {
		unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(name)), attr, b[:n], 0)
	}
}

// shellEnv makes a file of variables for a shell to read.
func shellEnv(env map[string]string) []byte {
	lines := postscript.Environ(env)
	slices.Sort(lines)
	var b strings.Builder
	for _, l := range lines {
		name, value, _ := strings.Cut(l, "=")
		if !isName(name) {
			continue
		}
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return []byte(b.String())
}

// isName tells whether a shell takes a text as the name of a variable.
func isName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
