package boot_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/node"
)

// other is somebody else's DHCP server at 10.77.0.2, with a pool from 10.77.0.200 on.
type other struct {
	name  string // of the snippet
	check func(t *testing.T, dir, snippet string) string
	start func(t *testing.T, ns, dir string) *buffer
}

var others = []other{
	{"dnsmasq", func(t *testing.T, dir, snippet string) string {
		conf := "port=0\nuser=root\ngroup=root\nno-ping\nlog-dhcp\nlog-facility=-\npid-file=\ndhcp-range=10.77.0.200,10.77.0.210,1h\ndhcp-leasefile=" + dir + "/leases\nconf-file=" + dir + "/snippet\n"
		write(t, dir+"/conf", conf)
		return run(t, "dnsmasq", "--test", "--conf-file="+dir+"/conf")
	}, func(t *testing.T, ns, dir string) *buffer {
		d := &buffer{}
		start(t, d, "ip", "netns", "exec", ns, "dnsmasq", "--keep-in-foreground", "--conf-file="+dir+"/conf")
		waitFor(t, d, "DHCP, IP range", 5*time.Second)
		return d
	}},
	{"isc", func(t *testing.T, dir, snippet string) string {
		write(t, dir+"/conf", "authoritative;\nping-check false;\nsubnet 10.77.0.0 netmask 255.255.255.0 {\n  range 10.77.0.200 10.77.0.210;\n}\ninclude \""+dir+"/snippet\";\n")
		write(t, dir+"/leases", "")
		return run(t, dir+"/dhcpd", "-t", "-4", "-cf", dir+"/conf", "-lf", dir+"/leases")
	}, func(t *testing.T, ns, dir string) *buffer {
		d := &buffer{}
		start(t, d, "ip", "netns", "exec", ns, dir+"/dhcpd", "-4", "-f", "-d", "--no-pid", "-cf", dir+"/conf", "-lf", dir+"/leases", "eth0")
		waitFor(t, d, "Sending on   Socket/fallback", 5*time.Second)
		return d
	}},
	{"kea", func(t *testing.T, dir, snippet string) string {
		write(t, dir+"/conf", `{ "Dhcp4": { "interfaces-config": { "interfaces": [ "eth0" ] }, "lease-database": { "type": "memfile", "persist": false },
"loggers": [ { "name": "kea-dhcp4", "severity": "INFO", "output_options": [ { "output": "stdout" } ] } ],
"subnet4": [ { "subnet": "10.77.0.0/24", "pools": [ { "pool": "10.77.0.200-10.77.0.210" } ] } ]`+comma(snippet)+`
<?include "`+dir+`/snippet"?> } }`)
		return run(t, "ip", "netns", "exec", "dns", "env", "KEA_LOCKFILE_DIR="+dir, "KEA_PIDFILE_DIR="+dir, dir+"/kea-dhcp4", "-t", dir+"/conf")
	}, func(t *testing.T, ns, dir string) *buffer {
		d := &buffer{}
		start(t, d, "ip", "netns", "exec", ns, "env", "KEA_LOCKFILE_DIR="+dir, "KEA_PIDFILE_DIR="+dir, dir+"/kea-dhcp4", "-c", dir+"/conf")
		waitFor(t, d, "DHCP4_STARTED", 10*time.Second)
		return d
	}},
}

func comma(s string) string {
	if strings.TrimSpace(s) == "" {
		return ""
	}
	return ","
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// runOther starts the server with a snippet, after it has judged it.
func runOther(t *testing.T, o other, snippet string) *buffer {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "snippet"), snippet)
	// Debian's AppArmor profiles hold for the installed programs, and keep them from files of a test.
	for _, name := range []string{"dhcpd", "kea-dhcp4"} {
		run(t, "cp", "/usr/sbin/"+name, dir)
	}
	ns := station(t, "dns", "52:54:00:77:00:fe")
	run(t, "ip", "-n", ns, "addr", "add", "10.77.0.2/24", "dev", "eth0")
	if out := o.check(t, dir, snippet); strings.Contains(strings.ToLower(out), "warn") {
		t.Errorf("%s warns:\n%s", o.name, out)
	}
	return o.start(t, ns, dir)
}

// TestSnippetsBoot has each server that we print configuration for judge it, and machines of all firmwares boot with it:
// they must be told what our own DHCP would tell them, and get it.
func TestSnippetsBoot(t *testing.T) {
	var nodes []node.Node
	mac := func(i int) string { return fmt.Sprintf("52:54:00:77:02:%02x", i) }
	for i, f := range firmwares {
		ip := ""
		if i%2 == 0 {
			ip = fmt.Sprintf("10.77.0.%d", 50+i)
		}
		nodes = append(nodes, f.node(fmt.Sprintf("n%02d", i), mac(i), ip))
	}
	serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "this is ", r.URL) }))
	serveFiles(t)
	for _, o := range others {
		t.Run(o.name, func(t *testing.T) {
			var snippet bytes.Buffer
			if err := netboot.Snippet(&snippet, o.name, netboot.Site{Server: netip.MustParseAddr("10.77.0.1"), Base: base, Nodes: nodes, Again: "mimeo dhcp snippet"}); err != nil {
				t.Fatal(err)
			}
			d := runOther(t, o, snippet.String())
			h := newHall(t, 0)
			for i, f := range firmwares {
				m := &machine{hall: h, mac: mac(i), fw: f, try: time.Second}
				ack, err := m.configure()
				if err != nil {
					t.Fatalf("%v\n%s", err, tail(d.String()))
				}
				if ip := nodes[i].NICs[0].IP; ip != "" && m.addr.String() != ip {
					t.Errorf("%s got %s, not %s", f.name, m.addr, ip)
				}
				want := decide(t.Context(), nodes[i], requestOf(m)).File
				if f.ipxe {
					want = base + netboot.PathLoaders + netboot.FileAutoexec
				}
				if f.name == "OPAL" {
					config := string(ack.GetOneOption(dhcpOption(209)))
					if want := netboot.ScriptURL(base, netboot.KindPetitboot, m.mac, node.OPAL, node.PPC64EL); config != want {
						t.Errorf("OPAL's configuration is %q, not %q", config, want)
					}
					continue
				}
				if file := bootFile(ack); file != want {
					t.Errorf("%s is told to load %q, not %q", f.name, file, want)
					continue
				}
				if strings.HasPrefix(f.class, "HTTPClient") && ack.ClassIdentifier() != "HTTPClient" {
					t.Errorf("%s: vendor class %q", f.name, ack.ClassIdentifier())
				}
				if f.ipxe && !bytes.HasPrefix(ack.GetOneOption(dhcpOption(175)), []byte{176, 1, 1}) {
					t.Errorf("%s: option 175 is %x", f.name, ack.GetOneOption(dhcpOption(175)))
				}
				if err := m.up(); err != nil {
					t.Fatal(err)
				}
				if b, err := m.load(want, ack.ServerIPAddr); err != nil || !strings.HasPrefix(string(b), "this is ") {
					t.Errorf("%s: %q, %v", f.name, b, err)
				}
			}
			// A machine that is no node gets an address and nothing to boot.
			stranger := &machine{hall: h, mac: "52:54:00:77:03:01", fw: firmwares[0], try: time.Second}
			ack, err := stranger.configure()
			if err != nil || bootFile(ack) != "" {
				t.Errorf("a stranger is told %v, %v", ack, err)
			}
			if t.Failed() {
				t.Logf("%s says:\n%s", o.name, tail(d.String()))
			}
		})
	}
}
