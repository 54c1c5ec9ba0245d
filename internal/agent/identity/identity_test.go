package identity

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// system makes a small Debian-like root: path to content; "->" in front makes a link.
func system(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func apply(t *testing.T, root, host string) []string {
	t.Helper()
	done, err := Apply(root, Options{Hostname: host})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".mimeo") {
			t.Errorf("%s was left behind", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

const oldID = "0123456789abcdef0123456789abcdef"

func TestApply(t *testing.T) {
	root := system(t, map[string]string{
		"etc/hostname":                             "golden\n",
		"etc/hosts":                                "127.0.0.1 localhost\n127.0.1.1 golden\n::1 localhost ip6-localhost\n",
		"etc/machine-id":                           oldID + "\n",
		"var/lib/dbus/machine-id":                  "->/etc/machine-id",
		"var/lib/systemd/random-seed":              "seed",
		"etc/udev/rules.d/70-persistent-net.rules": "rule",
		"etc/ssh/sshd_config":                      "Port 22\n",
	})
	if err := os.Chmod(filepath.Join(root, "etc/machine-id"), 0o444); err != nil {
		t.Fatal(err)
	}
	done := apply(t, root, "n02")
	if got := content(t, root, "etc/hostname"); got != "n02\n" {
		t.Errorf("hostname %q", got)
	}
	if got, want := content(t, root, "etc/hosts"), "127.0.0.1 localhost\n127.0.1.1\tn02\n::1 localhost ip6-localhost\n"; got != want {
		t.Errorf("hosts:\n%s", got)
	}
	id := content(t, root, "etc/machine-id")
	if !regexp.MustCompile(`^[0-9a-f]{32}\n$`).MatchString(id) || strings.HasPrefix(id, oldID) {
		t.Errorf("machine-id %q", id)
	}
	if st, _ := os.Stat(filepath.Join(root, "etc/machine-id")); st.Mode().Perm() != 0o444 {
		t.Errorf("machine-id has mode %v", st.Mode())
	}
	if to, err := os.Readlink(filepath.Join(root, "var/lib/dbus/machine-id")); err != nil || to != "/etc/machine-id" {
		t.Errorf("D-Bus's link: %q, %v", to, err)
	}
	for _, f := range []string{"var/lib/systemd/random-seed", "etc/udev/rules.d/70-persistent-net.rules"} {
		if _, err := os.Stat(filepath.Join(root, f)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", f, err)
		}
	}
	if all := strings.Join(done, "; "); !strings.Contains(all, "host name n02") || !strings.Contains(all, "machine ID") || strings.Contains(all, "SSH") {
		t.Errorf("done: %s", all)
	}
	// Another system of the same image has another ID.
	other := system(t, map[string]string{"etc/machine-id": oldID + "\n", "var/lib/dbus/machine-id": oldID + "\n"})
	apply(t, other, "")
	if got := content(t, other, "etc/machine-id"); got == id || got == oldID+"\n" {
		t.Errorf("machine-id %q twice", got)
	} else if dbus := content(t, other, "var/lib/dbus/machine-id"); dbus != got {
		t.Errorf("D-Bus has %q, the system %q", dbus, got)
	}
}

func TestWhatASystemLacksIsNotMade(t *testing.T) {
	root := system(t, map[string]string{"etc/os-release": "ID=x\n", "etc/machine-id": "uninitialized\n"})
	apply(t, root, "n03.rack.example")
	if got := content(t, root, "etc/machine-id"); got != "uninitialized\n" {
		t.Errorf("machine-id %q: its first boot was to make one", got)
	}
	if got := content(t, root, "etc/hostname"); got != "n03.rack.example\n" {
		t.Errorf("hostname %q", got)
	}
	list, err := os.ReadDir(filepath.Join(root, "etc"))
	if err != nil || len(list) != 3 {
		t.Errorf("etc holds %v, %v", list, err)
	}
	if _, err := Apply(root, Options{Hostname: "not a name"}); err == nil {
		t.Error("a host name with blanks was written")
	}
	if _, err := Apply(filepath.Join(root, "none"), Options{}); err == nil {
		t.Error("a folder that is not there passed for a root")
	}
}

// A deployed system is not trusted: its links must not make the agent write elsewhere.
func TestLinksThatLeadOut(t *testing.T) {
	outside := system(t, map[string]string{"hostname": "mine\n", "machine-id": oldID + "\n", "ssh/ssh_host_rsa_key": "mine"})
	for _, files := range []map[string]string{
		{"etc/hostname": "->" + outside + "/hostname"},
		{"etc/hostname": "->../../../../../../../../../.." + outside + "/hostname"},
		{"etc/machine-id": "->" + outside + "/machine-id"},
		{"etc": "->" + outside},
		{"etc/ssh": "->" + outside + "/ssh"},
		{"etc/ssh/ssh_host_rsa_key": "->" + outside + "/ssh/ssh_host_rsa_key"},
		{"var/lib": "->" + outside, "etc/hostname": "x"},
	} {
		root := system(t, files)
		Apply(root, Options{Hostname: "n04"}) // an error or not, but never outside
		for name, want := range map[string]string{"hostname": "mine\n", "machine-id": oldID + "\n", "ssh/ssh_host_rsa_key": "mine"} {
			if got := content(t, outside, name); got != want {
				t.Errorf("%v: %s outside became %q", files, name, got)
			}
		}
		if list, _ := os.ReadDir(outside); len(list) != 3 {
			t.Errorf("%v: outside became %v", files, list)
		}
	}
	// A link within the system is followed as the system itself would.
	root := system(t, map[string]string{"etc/hostname": "->/var/hostname", "var/hostname": "golden\n"})
	apply(t, root, "n04")
	if got := content(t, root, "var/hostname"); got != "n04\n" {
		t.Errorf("behind the link is %q", got)
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct{ hosts, old, name, want string }{
		{"127.0.1.1 golden\n", "golden", "n02", "127.0.1.1\tn02\n"},
		{"127.0.1.1\tgolden.lab.example golden alias # made by the installer\n", "golden", "n02", "127.0.1.1\tn02.lab.example n02 # made by the installer\n"},
		{"127.0.1.1 golden.lab.example golden\n", "golden", "n02.other.example", "127.0.1.1\tn02.other.example n02\n"},
		{"127.0.0.1 localhost golden golden.lab\n::1 localhost golden\n", "golden", "n02", "127.0.0.1\tlocalhost n02 n02.lab\n::1\tlocalhost n02\n"},
		{"127.0.0.1 localhost\n10.0.0.1 golden\n# 127.0.1.1 golden\n\n", "golden", "n02", "127.0.0.1 localhost\n10.0.0.1 golden\n# 127.0.1.1 golden\n\n"},
		{"127.0.0.1 localhost\n", "localhost", "n02", "127.0.0.1 localhost\n"},
		{"127.0.1.1 whoever\n127.0.0.1 localhost", "", "n02", "127.0.1.1\tn02\n127.0.0.1 localhost"},
	} {
		if got := renameHosts(c.hosts, c.old, c.name); got != c.want {
			t.Errorf("%q as %s:\ngot  %q\nwant %q", c.hosts, c.name, got, c.want)
		}
	}
}

// TestHostKeys lets ssh-keygen make the old keys and judge the new ones.
func TestHostKeys(t *testing.T) {
	root := system(t, map[string]string{"etc/hostname": "golden\n", "etc/ssh/ssh_host_dsa_key": "old", "etc/ssh/ssh_host_dsa_key.pub": "old", "etc/ssh/ssh_host_rsa_key-cert.pub": "cert"})
	dir := filepath.Join(root, "etc/ssh")
	kinds := []struct{ kind, bits, says string }{{"rsa", "2048", "2048"}, {"ecdsa", "384", "384"}, {"ed25519", "", "256"}}
	old := map[string]string{}
	for _, k := range kinds {
		args := []string{"-q", "-N", "", "-t", k.kind, "-f", filepath.Join(dir, "ssh_host_"+k.kind+"_key"), "-C", "root@golden"}
		if k.bits != "" {
			args = append(args, "-b", k.bits)
		}
		if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
		old[k.kind] = content(t, root, "etc/ssh/ssh_host_"+k.kind+"_key.pub")
	}
	apply(t, root, "n02.rack")
	for _, k := range kinds {
		key := filepath.Join(dir, "ssh_host_"+k.kind+"_key")
		public := content(t, root, "etc/ssh/ssh_host_"+k.kind+"_key.pub")
		if public == old[k.kind] {
			t.Errorf("%s: the key is the captured one", k.kind)
		}
		for name, mode := range map[string]fs.FileMode{key: 0o600, key + ".pub": 0o644} {
			if st, err := os.Stat(name); err != nil || st.Mode().Perm() != mode {
				t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
			}
		}
		out, err := exec.Command("ssh-keygen", "-l", "-f", key+".pub").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), k.says+" ") || !strings.Contains(string(out), " root@n02 ") || !strings.Contains(string(out), strings.ToUpper(k.kind)) {
			t.Errorf("%s: ssh-keygen says %s (%v)", k.kind, out, err)
		}
		// -y makes the public key of the private one.
		out, err = exec.Command("ssh-keygen", "-y", "-f", key).CombinedOutput()
		if err != nil || strings.Join(strings.Fields(string(out))[:2], " ") != strings.Join(strings.Fields(public)[:2], " ") {
			t.Errorf("%s: the halves do not fit: %s (%v)", k.kind, out, err)
		}
		if _, err := ssh.ParsePrivateKey([]byte(content(t, root, "etc/ssh/ssh_host_"+k.kind+"_key"))); err != nil {
			t.Errorf("%s: %v", k.kind, err)
		}
	}
	for _, f := range []string{"ssh_host_dsa_key", "ssh_host_dsa_key.pub", "ssh_host_rsa_key-cert.pub"} {
		if _, err := os.Stat(filepath.Join(dir, f)); !os.IsNotExist(err) {
			t.Errorf("%s is still there", f)
		}
	}
}

func TestWriteHostKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for _, kind := range []string{"ed25519", "ecdsa", "ed25519"} {
		if err := WriteHostKey(path, kind, "n05"); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ssh.ParsePrivateKey(b); err != nil {
			t.Error(err)
		}
	}
	if err := WriteHostKey(path, "dsa", "n05"); err == nil {
		t.Error("a DSA key was made")
	}
}
