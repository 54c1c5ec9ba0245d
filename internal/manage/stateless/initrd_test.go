package stateless

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// shell runs a line and gives its output: other programs judge what ours wrote.
func shell(t *testing.T, line string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-ec", line, "sh"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, errs.String())
	}
	return string(out)
}

// TestInitrdIsReadByCpio packs a folder, and lets zstd and cpio say what came out.
func TestInitrdIsReadByCpio(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	write(t, filepath.Join(tree, "init"), "program", 0o755)
	write(t, filepath.Join(tree, "lib/modules/6.1/kernel/a.ko"), strings.Repeat("module", 100_000), 0o644)
	write(t, filepath.Join(tree, "odd"), "x", 0o644) // a length that needs padding
	if err := os.Mkdir(filepath.Join(tree, "dev"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("lib/modules", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	const epoch = 1_700_000_000
	var archives [2][]byte
	for i := range archives {
		file := filepath.Join(dir, "archive")
		if _, err := packInitrd(tree, file, epoch); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		// The second time everything has other times and inodes.
		shell(t, `cp -r "$1" "$1.copy" && rm -r "$1" && mv "$1.copy" "$1"`, tree)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same files gave two archives")
	}
	list := shell(t, `zstd -dc "$1" | TZ=UTC cpio -itvn --quiet`, filepath.Join(dir, "archive"))
	for _, want := range []string{"drwxr-xr-x", "crw------- ", "5,   1 Nov 14  2023 dev/console", "-rwxr-xr-x   1 0        0               7 Nov 14  2023 init", "link -> lib/modules", "600000 Nov 14  2023 lib/modules/6.1/kernel/a.ko"} {
		if !strings.Contains(list, want) {
			t.Errorf("cpio does not list %q:\n%s", want, list)
		}
	}
	out := filepath.Join(dir, "out")
	shell(t, `mkdir "$2" && cd "$2" && zstd -dc "$1" | cpio -idm --quiet && cmp init "$3/init" && cmp odd "$3/odd" && cmp lib/modules/6.1/kernel/a.ko "$3/lib/modules/6.1/kernel/a.ko"`,
		filepath.Join(dir, "archive"), out, tree)
}

func TestSealedInitrdCarriesTheBuild(t *testing.T) {
	dir := t.TempDir()
	archive, sealed := filepath.Join(dir, "archive"), filepath.Join(dir, "initrd.img")
	write(t, archive, "compressed", 0o644)
	if err := sealInitrd(archive, sealed, "0123456789abcdef0123456789abcdef", 1_700_000_000); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sealed)
	if err != nil {
		t.Fatal(err)
	}
	head := len(b) - len("compressed")
	if head%512 != 0 || string(b[head:]) != "compressed" {
		t.Errorf("the archive does not start at a multiple of 512: %d", head)
	}
	if got := shell(t, `cpio -i --quiet --to-stdout etc/mimeo-build <"$1"`, sealed); got != "0123456789abcdef0123456789abcdef\n" {
		t.Errorf("cpio reads %q", got)
	}
}

// TestModules chooses from a tree as depmod describes it.
func TestModules(t *testing.T) {
	tree := &moduleTree{deps: map[string][]string{
		"kernel/drivers/net/virtio_net.ko":            {"kernel/net/core/failover.ko", "kernel/drivers/virtio/virtio.ko"},
		"kernel/drivers/net/ethernet/intel/e1000e.ko": nil,
		"kernel/drivers/net/ethernet/amd/xgbe.ko":     nil,
		"kernel/drivers/net/xen-netfront.ko":          nil,
		"kernel/drivers/net/wireless/iwl.ko":          {"kernel/net/wireless/cfg80211.ko"},
		"kernel/drivers/virtio/virtio.ko":             nil,
		"kernel/net/core/failover.ko":                 nil,
		"kernel/net/wireless/cfg80211.ko":             nil,
		"kernel/fs/ext4/ext4.ko":                      nil,
		"kernel/crypto/crc32c_generic.ko":             nil,
	}, byName: map[string]string{"crc32c_generic": "kernel/crypto/crc32c_generic.ko"}, soft: map[string][]string{"ext4": {"crc32c_generic", "not_there"}}}
	for _, c := range []struct{ list, want string }{
		{"", ""},
		{"virtio_net", "drivers/net/virtio_net drivers/virtio/virtio net/core/failover"},
		{"xen_netfront", "drivers/net/xen-netfront"},
		{"drivers/net/ethernet/", "drivers/net/ethernet/amd/xgbe drivers/net/ethernet/intel/e1000e"},
		{"drivers/net/ -drivers/net/wireless/ -xgbe", "drivers/net/ethernet/intel/e1000e drivers/net/virtio_net drivers/net/xen-netfront drivers/virtio/virtio net/core/failover"},
		{"drivers/net/wireless/ -cfg80211", "drivers/net/wireless/iwl net/wireless/cfg80211"},
		{"drivers/net/ethernet/ -drivers/net/ethernet/ e1000e", "drivers/net/ethernet/intel/e1000e"},
		{"drivers/net/virtio-net -virtio", "drivers/net/virtio_net drivers/virtio/virtio net/core/failover"},
		{"fs/", "crypto/crc32c_generic fs/ext4/ext4"},
		{"drivers/net", ""}, // a folder ends with a slash
	} {
		var got []string
		for _, m := range tree.choose(strings.Fields(c.list)) {
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(m, "kernel/"), ".ko"))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q chooses %q, want %q", c.list, s, c.want)
		}
	}
}

// TestPackageTime holds our reading of a package against the time that dpkg-deb was told.
func TestPackageTime(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "p/DEBIAN/control"), "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: tiny\n", 0o644)
	write(t, filepath.Join(dir, "p/usr/share/tiny"), "tiny", 0o644)
	shell(t, `SOURCE_DATE_EPOCH=1234567890 dpkg-deb --root-owner-group -b "$1/p" "$1/tiny.deb" >/dev/null`, dir)
	d := deb{name: "tiny", file: filepath.Join(dir, "tiny.deb")}
	if got, err := epoch([]deb{d}); err != nil || got != 1234567890 {
		t.Errorf("epoch %d, %v", got, err)
	}
	if err := unpack(context.Background(), []deb{d}, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "out/usr/share/tiny")); err != nil || string(b) != "tiny" {
		t.Errorf("unpacked %q, %v", b, err)
	}
	write(t, filepath.Join(dir, "bad.deb"), strings.Repeat("x", 100), 0o644)
	if _, err := epoch([]deb{{file: filepath.Join(dir, "bad.deb")}}); err == nil {
		t.Error("any file was taken as a package")
	}
}
