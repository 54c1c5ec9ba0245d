package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/internal/night"
	"mimeo/lab/rack"
)

// exercise is what is done with the package on a Debian that runs systemd. It prints WAIT where a node shall boot.
const exercise = `#!/bin/sh
exec >/dev/console 2>&1 </dev/null
set -eux
refuse() { if sh -c "$1"; then exit 1; fi; }
ip link set vec0 up; ip addr add 10.77.0.2/24 dev vec0
dpkg -i /root/first.deb
systemctl is-active mimeod
test "$(ps -o user= -C mimeod)" = mimeo
pid=$(systemctl show -P MainPID mimeod)
grep -q '^CapEff:.0000000000002400$' /proc/$pid/status
journalctl -u mimeod --no-pager | grep -q 'interface *none named'
refuse 'journalctl -u mimeod --no-pager | grep -v pin | grep -E "[0-9a-f]{64}"'   # the token
man -w mimeo mimeod 2>/dev/null || test -s /usr/share/man/man1/mimeo.1.gz
bash -n /usr/share/bash-completion/completions/mimeo

mimeo setup --interface vec0 --yes
systemctl restart mimeod
pid=$(systemctl show -P MainPID mimeod)
mimeo status
mimeo doctor
mimeo node add n01 --mac 52:54:00:77:00:01 --ip 10.77.0.11
echo WAIT
for i in $(seq 90); do mimeo node events n01 | grep -q told-disk && break; sleep 1; done
mimeo node events n01
mimeo node events n01 | grep told-disk

dpkg -i --force-confdef --force-confold /root/second.deb
systemctl is-active mimeod
test "$(dpkg-query -W -f '${Version}' mimeo)" = 99
test "$(systemctl show -P MainPID mimeod)" != "$pid"
mimeo node show n01 | grep 10.77.0.11
grep vec0 /etc/mimeo/mimeod.yaml

dpkg -r mimeo
refuse 'systemctl is-active mimeod'
refuse 'test -e /usr/sbin/mimeod'
test -e /etc/mimeo/mimeod.yaml
dpkg -P mimeo
refuse 'test -e /etc/mimeo/mimeod.yaml'
refuse 'test -L /etc/systemd/system/multi-user.target.wants/mimeod.service'
test -s /var/lib/mimeo/mimeo.db
dpkg --audit
echo ALL-IS-FINE
`

const unit = `[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/root/exercise
ExecStopPost=/usr/bin/systemctl poweroff --force --force
[Install]
WantedBy=multi-user.target
`

// packages builds them, once for all tests.
var packages = sync.OnceValue(func() error {
	cmd := exec.Command("build/package")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build/package: %w\n%s", err, out)
	}
	return nil
})

// installRPM is what is done with the RPM package, by rpm, in a root of its own: its scriptlets run there. No RPM distribution can be had
// here, so that what the package depends on is not looked for.
const installRPM = `
	rpm=$(ls build/out/mimeo-$(cat build/version)-1.$(uname -m).rpm)
	root=$1/root
	rpm -K --nosignature "$rpm"
	for file in /usr/bin/mimeo /usr/sbin/mimeod /usr/lib/systemd/system/mimeod.service /usr/share/man/man1/mimeo.1.gz /usr/share/man/man8/mimeod.8.gz \
		/usr/share/bash-completion/completions/mimeo /usr/share/zsh/site-functions/_mimeo /usr/share/fish/vendor_completions.d/mimeo.fish; do
		rpm -qlp "$rpm" | grep -x "$file" || { echo "no $file"; exit 1; }
	done
	test "$(rpm -qcp "$rpm")" = /etc/mimeo/mimeod.yaml
	rpm2cpio "$rpm" | cpio -i --quiet --to-stdout ./usr/share/doc/mimeo/copyright >"$1/copyright"
	for part in Go github.com/spf13/cobra golang.org/x/sys; do grep "^==== $part .*: LICENSE" "$1/copyright"; done
	grep 'Copyright 2009 The Go Authors' "$1/copyright"; grep 'Apache License' "$1/copyright"
	mmdebstrap --quiet --mode=root --variant=essential --include=passwd bookworm "$root"
	mkdir -p "$root/var/lib/rpm"
	in_root() { rpm --root "$root" --dbpath /var/lib/rpm --nodeps --nosignature "$@"; }
	rpm --root "$root" --dbpath /var/lib/rpm --initdb
	in_root -i --force-debian --test "$rpm"
	test ! -e "$root/usr/sbin/mimeod"
	in_root -i --force-debian "$rpm" | grep 'enable --now mimeod'
	rpm --root "$root" --dbpath /var/lib/rpm -V --nodeps mimeo
	grep '^mimeo:100000:65536$' "$root/etc/subuid"; grep '^mimeo:100000:65536$' "$root/etc/subgid"
	test "$(chroot "$root" stat -c %U:%G:%a /var/lib/mimeo)" = mimeo:mimeo:700
	chroot "$root" mimeod --version; chroot "$root" mimeo --version; chroot "$root" mimeo-agent --version
	echo '# ours' >>"$root/etc/mimeo/mimeod.yaml"; echo kept >"$root/var/lib/mimeo/data"
	in_root -U --force-debian --force "$rpm" | grep 'the agent is new'
	grep '# ours' "$root/etc/mimeo/mimeod.yaml"
	test "$(grep -c '^mimeo:' "$root/etc/subuid")" = 1
	in_root -e --force-debian mimeo | grep 'is left'
	test ! -e "$root/usr/sbin/mimeod"
	test ! -e "$root/usr/lib/mimeo"
	test -s "$root/etc/mimeo/mimeod.yaml.rpmsave"
	test "$(cat "$root/var/lib/mimeo/data")" = kept`

// TestRPM installs the RPM package in a root, upgrades it, and removes it.
func TestRPM(t *testing.T) {
	night.Only(t)
	if testing.Short() {
		t.Skip("-short builds no packages")
	}
	if err := packages(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-euxo", "pipefail", "-c", installRPM, "sh", t.TempDir())
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestPackage installs the Debian package on a Debian with systemd, has it serve a node, upgrades it, and removes it.
func TestPackage(t *testing.T) {
	night.Only(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	if err := packages(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	r := newRack(t, ctx)
	n, err := rack.NewNode(ctx, r.Net, r.Dir, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:00:01", Disk: filepath.Join(r.Dir, "n01.img"), Serial: "N01"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Net.Tap(ctx, "mgmt"); err != nil {
		t.Fatal(err)
	}
	sh := func(script string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, "sh", "-euc", script, "sh", r.Dir)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	for name, text := range map[string]string{"exercise": exercise, "exercise.service": unit} {
		if err := os.WriteFile(filepath.Join(r.Dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sh(`truncate -s 64M "$1/n01.img"
		deb=build/out/mimeo_$(cat build/version)_$(dpkg --print-architecture).deb
		mmdebstrap --quiet --mode=root --variant=minbase --include="systemd-sysv,iproute2,procps,$(sed 's/#.*//' build/debian/depends | paste -sd,)" bookworm "$1/root"
		cp "$deb" "$1/root/root/first.deb"
		dpkg-deb -R "$deb" "$1/second"; sed -i 's/^Version: .*/Version: 99/' "$1/second/DEBIAN/control"
		dpkg-deb --root-owner-group -Znone -b "$1/second" "$1/root/root/second.deb"
		cp "$1/exercise" "$1/root/root/"; cp "$1/exercise.service" "$1/root/etc/systemd/system/"
		ln -s ../exercise.service "$1/root/etc/systemd/system/multi-user.target.wants/"
		truncate -s 2G "$1/debian.img"; mke2fs -q -F -t ext4 -d "$1/root" "$1/debian.img"; rm -r "$1/root" "$1/second"`)

	console := filepath.Join(r.Dir, "debian.log")
	log, err := os.Create(console)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	uml := r.Net.Command(ctx, "linux.uml", "mem=768M", "ubd0="+filepath.Join(r.Dir, "debian.img"), "root=/dev/ubda", "rw", "init=/lib/systemd/systemd",
		"vec0:transport=tap,ifname=mgmt", "con=null", "con0=null,fd:1", "systemd.log_color=0", "uml_dir="+r.Dir, "umid=debian")
	uml.Stdout, uml.Stderr = log, log
	if err := uml.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); uml.Wait() }()
	defer func() {
		cancel()
		<-done
	}()
	said := func(word string) bool {
		b, err := os.ReadFile(console)
		return err == nil && bytes.Contains(b, []byte("\n"+word))
	}
	for started := false; ; time.Sleep(200 * time.Millisecond) {
		if !started && said("WAIT") {
			if err := n.PowerOn(); err != nil {
				t.Fatal(err)
			}
			defer n.PowerOff()
			started = true
		}
		select {
		case <-done:
			if b, _ := os.ReadFile(console); !strings.Contains(string(b), "\nALL-IS-FINE") {
				t.Fatalf("it did not work out:\n%s", rack.Tail(b, 60))
			}
			return
		default:
		}
	}
}
