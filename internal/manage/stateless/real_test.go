package stateless

import (
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/node"
	"mimeo/internal/night"
)

// tinyProfile is Debian's essential packages with the small kernel for virtual machines.
const tinyProfile = `suite: bookworm
components: [main]
kernel: {amd64: linux-image-cloud-amd64}
packages: [dropbear-bin]
modules:
  initrd: [virtio_net, virtio_pci, squashfs, loop, overlay]
  rootimg: [drivers/block/, fs/xfs/, fs/nfs/]
exclude: [/usr/share/doc, /usr/share/man, /usr/share/locale, /var/lib/dpkg/info, /usr/lib/*/gconv]
files:
  - {path: /etc/motd, content: "tiny\n"}
  - {path: /usr/local/bin/hello, mode: 4755, content: "#!/bin/sh\necho hello\n"}
  - {path: /usr/local/bin/hi, link: hello}
cmdline: [quiet]
mounts: [{source: "${MASTER}:/postscripts", target: /mnt/scripts}]
`

// TestBuildReal builds images from the machine's own Debian mirror: two of the same profile at two places, at two
// times, by root and by somebody else, which must be the same to the byte; then what must not happen to them.
func TestBuildReal(t *testing.T) {
	ctx := context.Background()
	agent := tinyAgent(t, "amd64")
	states := [2]string{t.TempDir(), filepath.Join(t.TempDir(), "a", "longer", "path")}
	var built [2]Stateless
	build := func(state string) (Stateless, []string, error) {
		var lines []string
		s, err := Build(ctx, Options{Profile: "tiny", Arch: node.AMD64, StateDir: state, AgentBinary: agent, Progress: func(l string) { lines = append(lines, l); t.Log(l) }})
		return s, lines, err
	}
	for i, state := range states {
		writeProfile(t, state, "tiny.yaml", tinyProfile)
		if i == 1 {
			shell(t, `cp -r "$1/loaders" "$1/cache" "$2/"`, states[0], state)
		}
		if i == 1 {
			buildAsNobody(t, state, agent)
		}
		var err error
		if built[i], _, err = build(state); err != nil {
			t.Fatal(err)
		}
		if err := built[i].Verify(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range Files {
		if a, b := built[0].Files[name], built[1].Files[name]; a != b {
			t.Errorf("%s: %+v and %+v; keep the folders and compare with diffoscope", name, a, b)
		}
	}
	if built[0].Build != built[1].Build {
		t.Errorf("builds %s and %s", built[0].Build, built[1].Build)
	}
	state, s := states[0], built[0]
	t.Run("loaders", func(t *testing.T) { checkLoaders(t, state) })
	t.Run("initrd", func(t *testing.T) { checkInitrd(t, s, agent) })
	t.Run("rootimg", func(t *testing.T) { checkRootimg(t, s) })

	t.Run("nothing has changed", func(t *testing.T) {
		started := time.Now()
		again, lines, err := build(state)
		if err != nil || again.Build != s.Build || !strings.Contains(strings.Join(lines, "\n"), "nothing has changed") {
			t.Errorf("%v, %v, %q", again.Build, err, lines)
		}
		t.Logf("took %v", time.Since(started))
	})
	t.Run("no network", func(t *testing.T) {
		if err := os.RemoveAll(s.Dir); err != nil {
			t.Fatal(err)
		}
		// A proxy that is not there stands for a mirror that cannot be reached.
		t.Setenv("http_proxy", "http://127.0.0.1:9")
		t.Setenv("https_proxy", "http://127.0.0.1:9")
		again, lines, err := build(state)
		if err != nil || again.Build != s.Build || !strings.Contains(strings.Join(lines, "\n"), "warning: the package lists could not be renewed") {
			t.Errorf("%v, %v, %q", again.Build, err, lines)
		}
	})
	t.Run("a build that fails late", func(t *testing.T) {
		text := strings.Replace(tinyProfile, "path: /etc/motd", "path: /etc/passwd/x", 1)
		writeProfile(t, state, "tiny.yaml", text)
		if _, _, err := build(state); err == nil || !strings.Contains(err.Error(), "/etc/passwd/x") {
			t.Errorf("error %v", err)
		}
		stillThere(t, state, s)
	})
	t.Run("a build that is cancelled", func(t *testing.T) {
		writeProfile(t, state, "tiny.yaml", tinyProfile+"firmware: []\n")
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var once sync.Once
		_, err := Build(ctx, Options{Profile: "tiny", Arch: node.AMD64, StateDir: state, AgentBinary: agent, Force: true, Progress: func(l string) {
			if strings.Contains(l, "mmdebstrap") {
				once.Do(func() { time.AfterFunc(time.Second, cancel) })
			}
		}})
		if err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("error %v", err)
		}
		stillThere(t, state, s)
	})
}

// buildAsNobody builds as a user who may do nothing, but has subordinate users and groups.
func buildAsNobody(t *testing.T, state, agent string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	shell(t, `cp "$2" "$3" "$1"; echo 65534:2000000:65536 >"$1/sub"; chown -R 65534:65534 "$1"; d=$1; while [ "$d" != / ]; do chmod a+x "$d"; d=$(dirname "$d"); done
		unshare --mount sh -ec 'mount --bind "$1/sub" /etc/subuid; mount --bind "$1/sub" /etc/subgid; cd /
			setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all env HOME="$1" TMPDIR="$1" "$1/$2" build-as-other "$1" "$1/$3"' \
			sh "$1" "$(basename "$2")" "$(basename "$3")"
		left=$(find "$1" ! -uid 65534); [ -z "$left" ] || { echo "not nobody's own: $left" >&2; exit 1; }
		chown -R 0:0 "$1"`, state, self, agent)
}

// TestBuildForeign builds an image for an architecture that this machine is not of. Other programs judge that nothing of
// this machine is in it, and that what installation scripts do has been done.
// The rack builds images of other architectures, too, and boots them.
func TestBuildForeign(t *testing.T) {
	night.Only(t)
	arch := map[node.Arch]node.Arch{node.AMD64: node.ARM64, node.ARM64: node.PPC64EL, node.PPC64EL: node.AMD64}[OwnArch()]
	state := t.TempDir()
	text := strings.Replace(tinyProfile, "kernel: {amd64:", "kernel: {arm64: linux-image-cloud-arm64, amd64:", 1)
	writeProfile(t, state, "tiny.yaml", strings.Replace(text, "[dropbear-bin]", "[dropbear-bin, iputils-ping, openssh-client]", 1))
	var lines []string
	s, err := Build(t.Context(), Options{Profile: "tiny", Arch: arch, StateDir: state, AgentBinary: tinyAgent(t, string(arch)),
		Progress: func(l string) { lines = append(lines, l); t.Log(l) }})
	if err != nil {
		t.Fatal(err)
	}
	if s.Arch != arch || !strings.HasPrefix(lines[len(lines)-1], "["+string(arch)) {
		t.Errorf("%s: %q", s.Arch, lines)
	}
	root := filepath.Join(t.TempDir(), "root")
	shell(t, `unsquashfs -no-progress -d "$1" "$2" >/dev/null`, root, s.Path(FileRoot))
	programs := 0
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib/" + triplets[arch]} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s is empty, %v", dir, err)
		}
		for _, name := range files {
			if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() {
				continue // a link may lead out of the root
			}
			e, err := elf.Open(name)
			if err != nil {
				continue // a script
			}
			e.Close()
			if programs++; e.Machine.String() != machines[arch].elf {
				t.Errorf("%s is a program for %s", name, e.Machine)
			}
		}
	}
	if programs < 100 {
		t.Errorf("%d programs", programs)
	}
	if left := shell(t, `cd "$1" && find . -name "*$2*"`, root, triplets[OwnArch()]); left != "" {
		t.Errorf("left of this machine:\n%s", left)
	}
	for what, want := range map[string]string{
		`readlink "$1/usr/bin/awk" "$1/etc/alternatives/awk" "$1/var/run"`:                                            "/etc/alternatives/awk\n/usr/bin/mawk\n/run\n",
		`stat -c "%a %u:%g" "$1/usr/bin/passwd" "$1/usr/bin/chage"`:                                                   "4755 0:0\n2755 0:42\n",
		`stat -c %a.%g "$1/usr/bin/ssh-agent" | sed "s/$(sed -n 's/^_ssh:x:\([0-9]*\):.*/\1/p' "$1/etc/group")/SSH/"`: "2755.SSH\n",
		`grep -c '^root:\*:' "$1/etc/shadow"`:                                                                         "1\n",
		`dpkg-query --admindir "$1/var/lib/dpkg" -Wf '${db:Status-Abbrev}${Architecture}\n' dash`:                     "ii " + string(arch) + "\n",
		`cat "$1/etc/motd"; grep -c . "$1/etc/nsswitch.conf" >/dev/null && readlink "$1/bin"`:                         "tiny\nusr/bin\n",
	} {
		out, err := exec.Command("sh", "-c", what, "sh", root).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s gives %q, %v, and not %q", what, out, err, want)
		}
	}
}

func stillThere(t *testing.T, state string, s Stateless) {
	t.Helper()
	cur, err := Current(state, "tiny", node.AMD64)
	if err != nil || cur.Build != s.Build || cur.Verify() != nil {
		t.Errorf("in use is %s, %v, %v", cur.Build, err, cur.Verify())
	}
	if left := remains(t, state, "tiny", node.AMD64); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), state) {
		t.Errorf("something is mounted below %s: %v\n%s", state, err, mounts)
	}
}

func checkLoaders(t *testing.T, state string) {
	l, err := ReadLoaders(state)
	if err != nil || !strings.HasPrefix(l.Package, "ipxe=") || !strings.HasPrefix(l.Memtest, "memtest86+=") || !strings.HasPrefix(l.Signed, "shim-signed=") {
		t.Fatalf("%+v, %v", l, err)
	}
	for name, magic := range map[string]string{netboot.LoaderBIOS: "", netboot.LoaderUEFIAMD64: "MZ", netboot.FileMemtestBIOS: "", netboot.FileMemtestUEFI: "MZ",
		netboot.LoaderShimAMD64: "MZ", netboot.LoaderGRUBAMD64: "MZ"} {
		b, err := os.ReadFile(filepath.Join(loadersDir(state), name))
		if err != nil || len(b) < 10_000 || !strings.HasPrefix(string(b), magic) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// checkInitrd lets cpio and zstd say what is in the initrd.
func checkInitrd(t *testing.T, s Stateless, agent string) {
	dir := t.TempDir()
	shell(t, `cd "$1" && cpio -idm --quiet <"$2"
n=$(od -An -v -tx1 -w4 "$2" | tr -d ' ' | grep -n -m 1 28b52ffd | cut -d: -f1)
tail -c +$((n * 4 - 3)) "$2" | zstd -dcq | cpio -idm --quiet`, dir, s.Path(FileInitrd))
	if got := strings.TrimSpace(shell(t, `cat "$1/etc/mimeo-build"`, dir)); got != s.Build {
		t.Errorf("it carries build %q, not %s", got, s.Build)
	}
	shell(t, `cmp "$1/init" "$2" && test -x "$1/init" && test -c "$1/dev/console"`, dir, agent)
	modules := shell(t, `cd "$1/lib/modules/$2" && find . -name '*.ko' && cat modules.dep modules.alias`, dir, s.Kernel)
	for _, want := range []string{"virtio_net.ko", "net_failover.ko", "squashfs.ko", "loop.ko", "overlay.ko", "alias virtio:d00000001v* virtio_net"} {
		if !strings.Contains(modules, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(modules, "xfs") {
		t.Error("it holds more than was asked for")
	}
}

// checkRootimg lets unsquashfs say what is in the rootimg.
func checkRootimg(t *testing.T, s Stateless) {
	list := shell(t, `TZ=UTC unsquashfs -lln -d root "$1"`, s.Path(FileRoot))
	for _, want := range []string{"root/usr/bin/bash", "root/usr/sbin/dropbear", "root/usr/local/bin/hi -> hello", "root/mnt/scripts",
		"root/usr/lib/modules/" + s.Kernel + "/kernel/fs/xfs/xfs.ko", "/kernel/fs/nfs/nfsv3.ko", "/modules.dep.bin", "root/bin -> usr/bin"} {
		if !strings.Contains(list, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, not := range []string{"/usr/share/doc/", "/gconv", "/var/lib/apt", "/var/log/", "host_key", "/etc/resolv.conf", "/etc/hostname", "/etc/passwd-", "squashfs-root"} {
		if strings.Contains(list, not) {
			t.Errorf("%s is there", not)
		}
	}
	day := time.Unix(s.Epoch, 0).UTC().Format("2006-01-02 15:04")
	for line := range strings.Lines(list) {
		if strings.Contains(line, " root/") && !strings.Contains(line, day) {
			t.Errorf("not of %s: %s", day, line)
			break
		}
		if strings.Contains(line, "/usr/local/bin/hello") && !strings.HasPrefix(line, "-rwsr-xr-x 0/0") {
			t.Errorf("mode and owner: %s", line)
		}
	}
	if got := shell(t, `unsquashfs -cat "$1" etc/motd`, s.Path(FileRoot)); got != "tiny\n" {
		t.Errorf("/etc/motd holds %q", got)
	}
	for _, p := range []string{"bash=", "linux-image-cloud-amd64=", "dropbear-bin="} {
		if !strings.Contains(strings.Join(s.Packages, " "), p) {
			t.Errorf("the record has no package %s", p)
		}
	}
}
