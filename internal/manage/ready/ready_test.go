package ready

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/node"
)

// system is a root with BusyBox and the given files; one that ends in "*" is a program, one with "->" a link.
func system(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	put("bin/busybox", string(program), 0o755)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "dev"), 0o755), unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	for _, a := range strings.Fields("sh tr grep cat chmod mv mkdir sed printf echo rm tee") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f, "*"); ok {
			put(name, "", 0o755)
		} else if name, ok := strings.CutSuffix(f, "->"); ok {
			put(name+"/../x", "", 0o644)
			if err := os.Symlink("/lib/unit", filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		} else {
			name, text, _ := strings.Cut(f, "=")
			put(name, text, 0o644)
		}
	}
	return dir
}

func run(t *testing.T, dir, name string, env ...string) (string, error) {
	t.Helper()
	s, ok := Get(name)
	if !ok {
		t.Fatalf("no script %s", name)
	}
	if err := os.WriteFile(filepath.Join(dir, "script"), s.Content, 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/script")
	c.Dir, c.Env = "/", append([]string{"PATH=/bin", "NODE=n07", "HOSTNAME=n07.rack", "JOB=j1", "MAC=52:54:00:00:00:0A"}, env...)
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	out, err := c.CombinedOutput()
	return string(out), err
}

func TestNames(t *testing.T) {
	for _, s := range List() {
		if !node.IsScript(s.Name) || !slices.Contains(node.ScriptStages, s.Stage) || s.About == "" || !strings.HasPrefix(string(s.Content), "#!/bin/sh\n") {
			t.Errorf("%s: stage %q, %q", s.Name, s.Stage, s.About)
		}
	}
	if _, ok := Get("../ready.go"); ok || len(List()) < 2 {
		t.Error("the list is wrong")
	}
}

func TestNetwork(t *testing.T) {
	static := []string{"LABEL_NET_ADDRESS=10.1.0.7/24", "LABEL_NET_GATEWAY=10.1.0.1", "LABEL_NET_DNS=10.1.0.2,fd00::2", "LABEL_NET_CARD=ens3"}
	networkd := "etc/systemd/system/multi-user.target.wants/systemd-networkd.service->"
	manager := []string{"usr/sbin/NetworkManager*", "etc/systemd/system/multi-user.target.wants/NetworkManager.service->"}
	interfaces := "etc/network/interfaces=source /etc/network/interfaces.d/*\n"
	for _, c := range []struct {
		name, file string
		system     []string
		env        []string
		want       string
	}{
		{"networkd, DHCP", "etc/systemd/network/05-mimeo.network", []string{networkd}, nil, "[Match]\nMACAddress=52:54:00:00:00:0a\nType=ether\n\n[Network]\nDHCP=yes\n"},
		{"networkd", "etc/systemd/network/05-mimeo.network", []string{networkd, "sbin/ifup*"}, static, "[Match]\nMACAddress=52:54:00:00:00:0a\nType=ether\n\n[Network]\nAddress=10.1.0.7/24\nGateway=10.1.0.1\nDNS=10.1.0.2\nDNS=fd00::2\n"},
		{"NetworkManager", "etc/NetworkManager/system-connections/mimeo.nmconnection", append(manager, networkd), static,
			"[connection]\nid=mimeo\ntype=ethernet\nautoconnect-priority=100\n\n[ethernet]\nmac-address=52:54:00:00:00:0a\n\n[ipv4]\nmethod=manual\naddress1=10.1.0.7/24,10.1.0.1\ndns=10.1.0.2;\n\n[ipv6]\nmethod=auto\ndns=fd00::2;\n"},
		{"ifupdown", "etc/network/interfaces.d/mimeo", []string{"sbin/ifup*", interfaces}, static, "auto ens3\niface ens3 inet static\n    address 10.1.0.7/24\n    gateway 10.1.0.1\n    dns-nameservers 10.1.0.2 fd00::2\n"},
	} {
		dir := system(t, c.system...)
		for range 2 { // a postscript may run more than once
			if out, err := run(t, dir, "network", c.env...); err != nil {
				t.Errorf("%s: %v: %s", c.name, err, out)
			}
		}
		if got, err := os.ReadFile(filepath.Join(dir, c.file)); err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n%s", c.name, err, got)
		}
		// Network programs that are not root must be able to enter the folder; what may hold a secret is root's alone.
		if st, err := os.Stat(filepath.Dir(filepath.Join(dir, c.file))); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: folder %v, %v", c.name, st, err)
		}
		if st, err := os.Stat(filepath.Join(dir, c.file)); err != nil || strings.HasSuffix(c.file, "nmconnection") != (st.Mode().Perm() == 0o600) {
			t.Errorf("%s: file %v, %v", c.name, st, err)
		}
	}
	for want, c := range map[string]struct{ system, env []string }{
		"found none":                {nil, nil},
		"label.net.card":            {[]string{"sbin/ifup*", interfaces}, nil},
		"has settings of ens3":      {[]string{"sbin/ifup*", interfaces + "iface ens3 inet dhcp\n"}, static},
		"without a prefix":          {[]string{networkd}, []string{"LABEL_NET_ADDRESS=10.1.0.7"}},
		"want one like":             {[]string{networkd}, []string{"LABEL_NET_ADDRESS=10.1.0.7/24\nX=y"}},
		"no MAC address":            {[]string{networkd}, []string{"MAC="}},
		"set without net.address":   {[]string{networkd}, []string{"LABEL_NET_GATEWAY=10.1.0.1"}},
		"does not read /etc/networ": {[]string{"sbin/ifup*", "etc/network/interfaces=\n"}, static},
	} {
		if out, err := run(t, system(t, c.system...), "network", c.env...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, %q; want %q", err, out, want)
		}
	}
}

func TestNetplan(t *testing.T) {
	dir := system(t, "usr/sbin/netplan*")
	if out, err := run(t, dir, "network", "LABEL_NET_ADDRESS=fd00::7/64", "LABEL_NET_GATEWAY=fd00::1", "LABEL_NET_DNS=fd00::2,10.0.0.2"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got struct {
		Network struct {
			Version   int
			Ethernets map[string]struct {
				Match       map[string]string
				DHCP4       bool
				Addresses   []string
				Routes      []map[string]string
				Nameservers map[string][]string
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "etc/netplan/99-mimeo.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	e := got.Network.Ethernets["mimeo"]
	if got.Network.Version != 2 || e.Match["macaddress"] != "52:54:00:00:00:0a" || e.DHCP4 || !slices.Equal(e.Addresses, []string{"fd00::7/64"}) ||
		len(e.Routes) != 1 || e.Routes[0]["via"] != "fd00::1" || e.Routes[0]["to"] != "::/0" || !slices.Equal(e.Nameservers["addresses"], []string{"fd00::2", "10.0.0.2"}) {
		t.Errorf("%+v\n%s", got, text)
	}
}

func TestNoCloud(t *testing.T) {
	if out, err := run(t, system(t), "nocloud"); err == nil || !strings.Contains(out, "no cloud-init") {
		t.Errorf("%v, %q", err, out)
	}
	dir := system(t, "usr/bin/cloud-init*", "var/lib/cloud/seed/nocloud/user-data=#cloud-config\nssh_pwauth: false\n")
	if out, err := run(t, dir, "nocloud"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var meta map[string]string
	text, err := os.ReadFile(filepath.Join(dir, "var/lib/cloud/seed/nocloud/meta-data"))
	if err != nil || yaml.Unmarshal(text, &meta) != nil || meta["instance-id"] != "mimeo-n07-j1" || meta["local-hostname"] != "n07.rack" {
		t.Errorf("%v, %s", err, text)
	}
	if cfg, err := os.ReadFile(filepath.Join(dir, "etc/cloud/cloud.cfg.d/99-mimeo.cfg")); err != nil || string(cfg) != "datasource_list: [NoCloud, None]\npreserve_hostname: true\n" {
		t.Errorf("%v, %s", err, cfg)
	}
	if user, err := os.ReadFile(filepath.Join(dir, "var/lib/cloud/seed/nocloud/user-data")); err != nil || !strings.Contains(string(user), "ssh_pwauth") {
		t.Errorf("user data of the image were not kept: %v, %s", err, user)
	}
}

// TestDomainJoin sees what the programs that join are given: no domain was to be had.
func TestDomainJoin(t *testing.T) {
	labels := []string{"LABEL_DOMAIN_NAME=corp.example.org", "LABEL_DOMAIN_USER=joiner", "LABEL_DOMAIN_PASSWORD=pass word", "LABEL_DOMAIN_OU=OU=Nodes,DC=corp"}
	const fake = "#!/bin/sh\n{ printf '%s' \"${0##*/}\"; printf ' [%s]' \"$@\"; echo; echo \"passwd ${PASSWD:-none}\"; cat; echo; } >>/said\n[ \"$1\" != leave ] || exit 1\nprintf 'xN07$y' >/etc/krb5.keytab\n"
	for want, c := range map[string]struct{ system, env []string }{
		"realm [join] [--unattended] [--computer-ou=OU=Nodes,DC=corp] [--user=joiner] [corp.example.org]\npasswd none\npass word\n\n":                              {[]string{"bin/realm=" + fake, "bin/adcli=" + fake}, labels},
		"realm [join] [--unattended] [--one-time-password=once] [corp.example.org]\npasswd none\n\n":                                                               {[]string{"bin/realm=" + fake}, []string{labels[0], "LABEL_DOMAIN_PASSWORD=once"}},
		"realm [leave] [corp.example.org]\npasswd none\n\nrealm [join] [--unattended] [--user=joiner] [corp.example.org]\npasswd none\nfrom the file\n\n":          {[]string{"bin/realm=" + fake, "etc/krb5.keytab=GOLDEN$", "etc/mimeo-domain-password=from the file\n"}, labels[:3]},
		"net [ads] [join] [-U] [joiner] [createcomputer=OU=Nodes,DC=corp]\npasswd pass word\n\n":                                                                   {[]string{"bin/net=" + fake, "bin/adcli=" + fake, "etc/samba/smb.conf=[global]\n security = ADS\n"}, labels},
		"adcli [join] [--domain=corp.example.org] [--computer-name=n07] [--host-fqdn=n07.rack] [--login-user=joiner] [--stdin-password]\npasswd none\npass word\n": {[]string{"bin/net=" + fake, "bin/adcli=" + fake}, labels[:3]},
	} {
		dir := system(t, append(c.system, "etc/x=")...)
		for _, p := range []string{"realm", "net", "adcli"} {
			os.Chmod(filepath.Join(dir, "bin", p), 0o755) // those that there are
		}
		for i := range 2 {
			if out, err := run(t, dir, "domain-join", c.env...); err != nil || !strings.Contains(out, "n07 is in corp.example.org"+[]string{", by ", " already"}[i]) {
				t.Errorf("%v: %s", err, out)
			}
		}
		if got, err := os.ReadFile(filepath.Join(dir, "said")); err != nil || string(got) != want {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
		if _, err := os.Stat(filepath.Join(dir, "etc/mimeo-domain-password")); err == nil {
			t.Error("the password's file is still there")
		}
	}
	for want, c := range map[string]struct{ system, env []string }{
		"none of realm":        {nil, labels},
		"label domain.name":    {nil, nil},
		"there is no password": {[]string{"bin/realm*"}, labels[:2]},
		"more than 15":         {[]string{"bin/realm*"}, append([]string{"HOSTNAME=n07-of-the-second-rack"}, labels...)},
	} {
		if out, err := run(t, system(t, c.system...), "domain-join", c.env...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, %q; want %q", err, out, want)
		}
	}
}
