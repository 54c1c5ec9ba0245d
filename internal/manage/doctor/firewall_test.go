package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/manage/config"
)

// script is what a child of the test does in namespaces of its own before it looks at the firewall.
const script = "MIMEO_TEST_SCRIPT"

func TestMain(m *testing.M) {
	text := os.Getenv(script)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := look(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func look(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-euc", prepare+text)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	c := config.Config{Interfaces: []config.Interface{{Name: "eth1", DHCP: "full"}}}
	if err := c.Complete(); err != nil {
		return err
	}
	d := &doctor{Options: Options{Config: c}}
	if strings.HasPrefix(text, machine) {
		d.Config.State, d.Config.Store = "/mnt/state", "dir:/mnt/store"
		d.ports()
		d.folders()
		d.clock()
	} else {
		d.firewall(ctx)
	}
	return json.NewEncoder(os.Stdout).Encode(d.list)
}

// machine begins a script after which ports, folders and the clock are looked at, and not the firewall.
const machine = "# machine\n"

// prepare keeps what the tools write from this machine.
const prepare = `
	mount --make-rprivate /
	mount -t proc proc /proc
	mount -t tmpfs tmpfs /mnt
	for dir in ufw firewalld default; do cp -a /etc/$dir /mnt/; mount --bind /mnt/$dir /etc/$dir; done
	mount -t tmpfs tmpfs /run
	ip link set lo up; ip link add eth1 type veth peer name wire1; ip addr add 10.79.0.1/24 dev eth1; ip link set eth1 up
`

// firewalld starts it, with a bus of its own.
const firewalld = `
	mkdir -p /run/dbus; dbus-daemon --system --fork --nopidfile
	firewalld --nofork --nopid >/mnt/log 2>&1 &
	for i in $(seq 100); do firewall-cmd --state && break; sleep 0.1; done
	firewall-cmd --zone=public --change-interface=eth1
`

// inNamespaces runs a script in namespaces of its own, and returns what is found there.
func inNamespaces(t *testing.T, do string) (found []Finding) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), script+"="+do)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &found)
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, said.String())
	}
	return found
}

// TestFirewalls has the firewalls themselves make their rules.
func TestFirewalls(t *testing.T) {
	ports := func(with string) string {
		var b strings.Builder
		for _, p := range []string{"udp 67", "udp 4011", "udp 69", "tcp 4480", "tcp 4443", "tcp 4449"} {
			proto, port, _ := strings.Cut(p, " ")
			b.WriteString(strings.NewReplacer("PROTO", proto, "PORT", port).Replace(with) + "\n")
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		do   string
		bad  string // what the warning has; "" for none
		hint string
	}{
		"none":                   {"true", "", ""},
		"nftables, open":         {`nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy accept; }; add rule inet f in tcp dport 22 counter accept'`, "", ""},
		"nftables, policy":       {`nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }; add rule inet f in tcp dport 22 counter accept'`, "nftables drops", `iifname "eth1" accept`},
		"nftables, last rule":    {`nft 'add table ip f; add chain ip f in { type filter hook input priority 0; }; add rule ip f in tcp dport 22 accept; add rule ip f in counter reject'`, "69/udp, 67/udp, 4011/udp, 4480/tcp, 4443/tcp, 4449/tcp", ""},
		"nftables, interface":    {`nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }; add rule inet f in iifname { "eth0", "eth1" } counter accept comment "nodes"'`, "", ""},
		"nftables, forwarded":    {`nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }; add chain inet f through { type filter hook forward priority 0; policy drop; }; add rule inet f through iifname "eth1" accept'`, "nftables drops", ""},
		"nftables, ports":        {`nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }; add rule inet f in udp dport { 67, 69, 4000-4020 } accept; add rule inet f in iifname "eth1" tcp dport 4440-4480 accept'`, "", ""},
		"nftables, some ports":   {`nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }; add rule inet f in udp dport { 67, 69 } accept; add rule inet f in tcp dport 4440-4480 accept'`, "not reach 4011/udp", ""},
		"nftables, IPv6 alone":   {`nft 'add table ip6 f; add chain ip6 f in { type filter hook input priority 0; policy drop; }'`, "", ""},
		"iptables-nft":           {"iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT; iptables-nft -P INPUT DROP", "iptables drops", "iptables -I INPUT -i eth1 -j ACCEPT"},
		"iptables-nft, open":     {"iptables-nft -P INPUT DROP; iptables-nft -I INPUT -i eth1 -j ACCEPT", "", ""},
		"iptables-legacy":        {"iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT; iptables-legacy -A INPUT -j REJECT", "iptables drops", "iptables -I INPUT -i eth1 -j ACCEPT"},
		"iptables-legacy, open":  {"iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -i eth+ -j ACCEPT", "", ""},
		"iptables-legacy, ports": {"iptables-legacy -P INPUT DROP\n" + ports("iptables-legacy -A INPUT -p PROTO --dport PORT -j ACCEPT"), "", ""},
		"iptables-legacy, multi": {"iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -p udp -m multiport --dports 67,69,4011 -j ACCEPT; iptables-legacy -A INPUT -i eth0 -p tcp -j ACCEPT", "not reach 4480/tcp, 4443/tcp, 4449/tcp", ""},
		"both":                   {`iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -i eth1 -j ACCEPT; nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }'`, "nftables drops", ""},
		"ufw":                    {"ufw --force enable", "ufw drops", "ufw allow in on eth1"},
		"ufw, open":              {"ufw --force enable; ufw allow in on eth1", "", ""},
		"ufw, ports":             {"ufw --force enable\n" + ports("ufw allow PORT/PROTO"), "", ""},
		"firewalld":              {firewalld, "firewalld drops", "firewall-cmd --permanent --zone=trusted --change-interface=eth1"},
		"firewalld, trusted":     {firewalld + "firewall-cmd --zone=trusted --change-interface=eth1", "", ""},
		"firewalld, ports":       {firewalld + "firewall-cmd --zone=public --add-service=tftp --add-service=dhcp --add-service=proxy-dhcp; firewall-cmd --zone=public --add-port=4440-4480/tcp", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := inNamespaces(t, c.do)
			if len(found) != 1 {
				t.Fatalf("%+v", found)
			}
			f := found[0]
			if c.bad == "" && f.State != OK || c.bad != "" && (f.State != Warn || !strings.Contains(f.Text, c.bad)) || !strings.Contains(f.Hint, c.hint) {
				t.Errorf("%+v", f)
			}
		})
	}
}
