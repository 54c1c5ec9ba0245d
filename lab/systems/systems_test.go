package systems

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/agent/firstboot"
	"mimeo/internal/agent/identity"
	"mimeo/internal/agent/postscript"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/uml"
	"mimeo/internal/manage/ready"
	"mimeo/internal/night"
)

// look is the first program of each first boot: what it finds is what the system's own programs have made of the files.
const look = `#!/bin/sh
echo "name $(hostname) $(cat /etc/hostname)"
echo "id $(cat /etc/machine-id 2>/dev/null)"
for i in 1 2 3 4 5 6 7 8 9 10; do ip -4 -o addr show dev eth0 | grep -q inet && break; sleep 1; done
ip -4 -o addr show dev eth0 | sed 's/  */ /g'
ip -4 route
echo "variables $NODE $LABEL_RACK ${DISK:-none} $HOME"
[ ! -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key
`

// off powers a system off when its boot is over: a unit, and a line for /etc/inittab.
const (
	off = `[Unit]
After=multi-user.target mimeo-first.service cloud-final.service
[Service]
Type=oneshot
ExecStart=/bin/systemctl --no-block poweroff
`
	offLine = "\nzz:2345:once:/sbin/poweroff\n"
)

var static = map[string]string{"LABEL_NET_ADDRESS": "10.9.0.7/24", "LABEL_NET_GATEWAY": "10.9.0.1", "LABEL_NET_DNS": "10.9.0.1", "LABEL_NET_CARD": "eth0"}

// TestFirstBoot does to installed systems what a deploy does, boots them, and asks them who they are.
func TestFirstBoot(t *testing.T) {
	night.Only(t) // the rack boots a deployed system by day
	cache, err := filepath.Abs("../../build/out/cache")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		system  string
		prepare string // run in the system before, as its admin would
		env     map[string]string
		ready   []string // postscripts in the root
		twice   bool     // one program fails at the first boot, and a second boot goes on from there
		want    string   // pattern in what the first boot finds
	}{
		{"bullseye", "systemctl enable -q systemd-networkd", nil, []string{"network"}, true, `inet 10\.9\.0\.5[0-9]/24 `},
		{"bookworm", "", static, []string{"network"}, false, `inet 10\.9\.0\.7/24 [^~]*default via 10\.9\.0\.1 dev eth0 proto static`},
		{"trixie", "systemctl enable -q systemd-networkd", static, []string{"network", "nocloud"}, false, `inet 10\.9\.0\.7/24 [^~]*default via 10\.9\.0\.1 dev eth0 proto static`},
		{"sysvinit", "", static, []string{"network"}, true, `inet 10\.9\.0\.7/24 [^~]*default via 10\.9\.0\.1 dev eth0`},
		{"openrc", "", static, []string{"network"}, false, `inet 10\.9\.0\.7/24 [^~]*default via 10\.9\.0\.1 dev eth0`},
	} {
		t.Run(c.system, func(t *testing.T) {
			t.Parallel()
			s := find(t, c.system)
			work, err := os.MkdirTemp("/var/tmp", "mimeo-system-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(work)
			root, disk := filepath.Join(work, "root"), filepath.Join(work, "disk")
			must(t, os.Mkdir(root, 0o755))
			must(t, s.Unpack(t.Context(), cache, root))
			chroot(t, root, `echo "/dev/ubda / ext4 defaults 0 0" >/etc/fstab; echo captured >/etc/hostname; printf '127.0.0.1 localhost\n127.0.1.1 captured\n' >/etc/hosts; `+c.prepare)
			key, _ := os.ReadFile(filepath.Join(root, "etc/ssh/ssh_host_ed25519_key.pub"))
			if s.Init == "systemd" {
				must(t, os.WriteFile(filepath.Join(root, "etc/systemd/system/off.service"), []byte(off), 0o644))
				must(t, os.Symlink("../off.service", filepath.Join(root, "etc/systemd/system/multi-user.target.wants/off.service")))
			} else {
				b, err := os.ReadFile(filepath.Join(root, "etc/inittab"))
				must(t, err)
				must(t, os.WriteFile(filepath.Join(root, "etc/inittab"), append(b, offLine...), 0o644))
			}

			_, err = identity.Apply(root, identity.Options{Hostname: "n07.rack"})
			must(t, err)
			env := map[string]string{"NODE": "n07", "HOSTNAME": "n07.rack", "JOB": "j1", "MAC": uml.NetMAC, "LABEL_RACK": "it's 7"}
			maps.Copy(env, c.env)
			var list []api.Postscript
			for _, name := range c.ready {
				r, ok := ready.Get(name)
				if !ok {
					t.Fatalf("no ready postscript %s", name)
				}
				list = append(list, api.Postscript{Name: name, Content: r.Content})
			}
			outs, err := postscript.Run(t.Context(), list, postscript.Options{Root: root, Dir: "/.mimeo", Env: env})
			if err != nil {
				t.Fatalf("%v: %+v", err, outs)
			}
			first := []api.Postscript{{Name: "look", Content: []byte(look)}, {Name: "last", Content: []byte("#!/bin/sh\necho the last\n")}}
			if c.twice {
				first = slices.Insert(first, 1, api.Postscript{Name: "again", Content: []byte("#!/bin/sh\necho once >>/root/times\n[ $(wc -l </root/times) = 2 ]\n")})
			}
			if init, err := firstboot.Place(root, first, env); err != nil || init != s.Init {
				t.Fatalf("%q, %v", init, err)
			}
			must(t, Disk(t.Context(), root, disk))

			console := uml.Boot(t, disk)
			log := file(t, disk, firstboot.Log)
			if c.twice && (!strings.Contains(log, "again failed: exit status 1.") || strings.Contains(log, "the last")) {
				t.Fatalf("first boot:\n%s\n%s", log, console)
			}
			for _, want := range []string{`(?m)^name n07(\.rack)? n07\.rack$`, `(?m)^variables n07 it's 7 none /root$`, c.want} {
				if !regexp.MustCompile(want).MatchString(log) {
					t.Errorf("want %s in\n%s", want, log)
				}
			}
			if id := file(t, disk, "/var/lib/cloud/data/instance-id"); slices.Contains(c.ready, "nocloud") && id != "mimeo-n07-j1\n" {
				t.Errorf("cloud-init says that it is instance %q:\n%s", id, console)
			}
			if k := strings.Fields(string(key)); len(k) > 1 && (strings.Contains(log, k[1]) || !strings.Contains(log, "ssh-ed25519 ")) {
				t.Errorf("the SSH host key is the captured one:\n%s", log)
			}
			if c.twice {
				console = uml.Boot(t, disk)
				log = file(t, disk, firstboot.Log)
			}
			if strings.Count(log, "look begins") != 1 || c.twice && strings.Count(log, "again begins") != 2 || !strings.Contains(log, "the last\n") || !strings.HasSuffix(log, "all is done\n") {
				t.Errorf("in the end:\n%s\n%s", log, console)
			}
			if out, err := exec.Command("debugfs", "-R", "ls /etc", disk).Output(); err != nil || strings.Contains(string(out), "mimeo-first") {
				t.Errorf("left behind, %v:\n%s", err, out)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, name string) System {
	t.Helper()
	for _, s := range All {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no system %s", name)
	return System{}
}

// chroot runs a script in the system below root.
func chroot(t *testing.T, root, script string) string {
	t.Helper()
	out, err := exec.Command("chroot", root, "/bin/sh", "-euc", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// file reads a file from a disk's filesystem.
func file(t *testing.T, disk, name string) string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", "cat "+name, disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
