package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
)

const stranger = "52:54:00:99:00:01"

// discovering is a rig whose loopback has discovery on, or off.
func discovering(t *testing.T, discovery string) (*rig, iface) {
	r := start(t)
	f, err := newIface(config.Interface{Name: "lo", DHCP: "proxy", Discovery: discovery})
	if err != nil {
		t.Fatal(err)
	}
	r.ifaces = []iface{f}
	return r, f
}

func pxe(mac string) dhcp.Request {
	return dhcp.Request{MAC: mac, VendorClass: "PXEClient:Arch:00000:UNDI:002001", Archs: []uint16{0}}
}

func strangerScript(mac string) string {
	return "/boot/ipxe/" + macID(mac) + "?firmware=bios&arch=amd64"
}

// A machine that nobody knows is answered, reports itself and nothing else, waits, and becomes a node.
func TestDiscovery(t *testing.T) {
	r, f := discovering(t, "on")
	if code, _ := r.get("127.0.0.50", strangerScript(stranger)); code != http.StatusNotFound {
		t.Errorf("a script for a card that never asked by DHCP: %d", code)
	}
	if _, ok := r.unknown(f, dhcp.Request{MAC: stranger, VendorClass: "MSFT 5.0"}); ok {
		t.Error("the system of a stranger is answered")
	}
	if n, ok := r.unknown(f, pxe(stranger)); !ok || n.Boot != node.BootDiscover || n.Name != "" {
		t.Fatalf("%+v, %v", n, ok)
	}
	if _, ok := r.unknown(f, dhcp.Request{MAC: stranger}); !ok {
		t.Error("the stateless image that it was given gets no address")
	}
	r.dhcpEvent(dhcp.Event{Kind: "dhcp-offer", MAC: stranger, Firmware: node.BIOS, Arch: node.AMD64, File: "undionly.kpxe"})
	code, text := r.get("127.0.0.50", strangerScript(stranger))
	m := tokenIn.FindStringSubmatch(text)
	if code != 200 || m == nil || !strings.Contains(text, "mimeo.node=new-52-54-00-99-00-01") || !strings.Contains(text, build) {
		t.Fatalf("%d\n%s", code, text)
	}
	hw := api.Hardware{Arch: "amd64", Product: "box", Serial: "X1", BMC: &api.HardwareBMC{Addr: "10.0.9.7", MAC: "52:54:00:99:00:ff"},
		NICs:  []api.HardwareNIC{{Name: "eth1", MAC: "52:54:00:99:00:02"}, {Name: "eth0", MAC: stranger, Booted: true}, {Name: "eth2", MAC: "52:54:00:00:00:01"}},
		Disks: []api.Disk{{Name: "sda", Size: 1e9}}}
	hello := func(token string) (task api.Task) {
		t.Helper()
		if _, e := r.call(token, "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "b", Hardware: hw}, &task); e != nil {
			t.Fatal(e)
		}
		return task
	}
	if task := hello(m[1]); task.Kind != api.TaskNone || !strings.Contains(task.Say, "mimeo node accept 52-54-00-99-00-01 NAME") || task.RetryMS == 0 {
		t.Errorf("%+v", task)
	}
	for _, path := range []string{api.PathProgress, api.PathDone, api.PathTrouble, "/v1/store/missing"} {
		if code, _ := r.call(m[1], "POST", path, map[string]string{}, nil); code != http.StatusUnauthorized && code != http.StatusNotFound {
			t.Errorf("%s with a stranger's token: %d", path, code)
		}
	}
	if code, _ := r.call(m[1], "GET", "/v1/nodes", nil, nil); code/100 == 2 {
		t.Errorf("the inventory with a stranger's token: %d", code)
	}
	var list []api.Discovered
	r.must("GET", "/v1/discovered", nil, &list)
	if len(list) != 1 || list[0].ID != "52-54-00-99-00-01" || list[0].Firmware != node.BIOS || list[0].Hardware == nil || list[0].Hardware.Serial != "X1" || list[0].Interface != "lo" || list[0].Addr == "" {
		t.Fatalf("%+v", list)
	}
	// This server is started anew: the machine comes back by itself.
	r.found.forget(stranger)
	hello(m[1])
	r.fails("POST", "/v1/discovered", api.DiscoveredAccept{ID: "52-54-00-99-00-77", Name: "n9"}, "not_found", "discovered")
	r.fails("POST", "/v1/discovered", api.DiscoveredAccept{ID: list[0].ID, Name: "n1"}, "conflict", "n1")
	r.must("POST", "/v1/discovered", api.DiscoveredAccept{ID: list[0].ID, Name: "n9", Set: map[string]string{"groups": "rack1"}}, nil)
	n := r.node("n9")
	if len(n.NICs) != 2 || n.NICs[0].MAC != stranger || n.NICs[1].MAC != "52:54:00:99:00:02" || n.BMC.URL != "ipmi://10.0.9.7" || n.Boot != node.BootDisk || n.Hardware == nil || len(n.Groups) != 1 {
		t.Errorf("%+v", n)
	}
	if task := hello(m[1]); task.Kind != api.TaskReboot {
		t.Errorf("%+v", task)
	}
	if r.must("GET", "/v1/discovered", nil, &list); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	r.fails("DELETE", "/v1/discovered/52-54-00-99-00-01", nil, "not_found", "discovered")
}

// Where discovery is off nobody is answered, whatever token or table says.
func TestDiscoveryOff(t *testing.T) {
	r, _ := discovering(t, "off")
	r.found.ask(stranger, "other", 10, time.Now())
	if code, _ := r.get("127.0.0.50", strangerScript(stranger)); code != http.StatusNotFound {
		t.Errorf("a script: %d", code)
	}
	r.found.forget(stranger)
	var task api.Task
	if _, e := r.call(r.Server.token(tokenNew, macID(stranger), "report"), "POST", api.PathHello, api.Hello{Version: api.AgentVersion}, &task); e != nil || task.Kind != api.TaskReboot || r.found.has(stranger) {
		t.Errorf("%+v, %v", task, e)
	}
	d := r.newDHCP(r.ifaces[0])
	if d.Unknown != nil {
		t.Error("DHCP answers strangers")
	}
	big := api.Hello{Version: api.AgentVersion, Hardware: api.Hardware{CPU: strings.Repeat("x", maxReport)}}
	if code, _ := r.call(r.Server.token(tokenNew, macID(stranger), "report"), "POST", api.PathHello, big, nil); code != http.StatusBadRequest {
		t.Errorf("a report of 64 KiB: %d", code)
	}
}

// MACs cost nothing: those that are made up fill neither memory nor the pool, and give way to others in time.
func TestHostileMACs(t *testing.T) {
	r, _ := discovering(t, "on")
	f, err := newIface(config.Interface{Name: "lo", DHCP: "full", Discovery: "on", Pool: []string{"127.0.1.1-127.0.1.40"}})
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for i := range 5000 {
		if _, ok := r.unknown(f, pxe(fmt.Sprintf("52:54:01:00:%02x:%02x", i>>8, i&255))); ok {
			answered++
		}
	}
	if answered != 20 || len(r.found.list()) != 20 {
		t.Errorf("%d of 5000 were answered with a pool of 40; %d are kept", answered, len(r.found.list()))
	}
	now := time.Now()
	if r.found.ask(stranger, "lo", 20, now.Add(foundFor-time.Minute)) {
		t.Error("one gives way at once")
	}
	if !r.found.ask(stranger, "lo", 20, now.Add(foundFor+time.Minute)) || len(r.found.list()) != 20 {
		t.Error("none ever gives way")
	}
}

// Machines become nodes by the first rule that fits, each with a name that no other has.
func TestAcceptRules(t *testing.T) {
	r, f := discovering(t, "on")
	cfg := config.Config{State: t.TempDir(), Accept: []config.Accept{
		{Names: map[string]string{"SN-1": "first", "sn-2": "n1"}, Set: map[string]string{"label.serial": "{serial}"}},
		{Switch: "sw-*", Port: "gi1/0/*", Name: "r3n{port:2}", BMC: "reported", Set: map[string]string{"groups": "rack3", "label.port": "{port}"}},
		{Serials: []string{"X*"}, MACs: []string{"52:54:00:98:*"}, Name: "x{seq:3}"},
		{MACs: []string{"52:54:00:97:*"}, Name: "p{port}"},
	}}
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	r.Server.cfg.Accept = cfg.Accept
	gi := func(port string) *api.HardwareSwitch {
		return &api.HardwareSwitch{Chassis: "00:11:22:33:44:55", Name: "SW-R3", Port: port}
	}
	for i, c := range []struct {
		mac, serial string
		plug        *api.HardwareSwitch
		name        node.Name // "" waits,
		note        string    // which says that
	}{
		{"52:54:00:99:01:01", "sn-1", nil, "first", ""},
		{"52:54:00:99:01:02", "SN-2", nil, "", "rule 1 of accept fits, and does not make it a node: there is a node n1 already"},
		{"52:54:00:99:01:03", "", gi("Gi1/0/7"), "r3n07", ""},
		{"52:54:00:99:01:04", "", gi("Gi1/0/07"), "", "r3n07 already"},
		{"52:54:00:99:01:05", "", gi("Te1/0/7"), "", ""},
		{"52:54:00:98:01:01", "X1", nil, "x001", ""},
		{"52:54:00:98:01:02", "X2", nil, "x002", ""},
		{"52:54:00:98:01:03", "Y2", nil, "", ""},
		{"52:54:00:97:01:03", "Y3", nil, "", "the machine has no {port}"},
	} {
		if _, ok := r.unknown(f, pxe(c.mac)); !ok {
			t.Fatal(c.mac)
		}
		hw := api.Hardware{Arch: "amd64", Serial: c.serial, BMC: &api.HardwareBMC{Addr: fmt.Sprintf("10.0.9.%d", 10+i)},
			NICs: []api.HardwareNIC{{Name: "eth0", MAC: c.mac, Booted: true, Switch: c.plug}}}
		var task api.Task
		if _, e := r.call(r.Server.token(tokenNew, macID(c.mac), "report"), "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "b", Hardware: hw}, &task); e != nil {
			t.Fatal(e)
		}
		if c.name == "" {
			if d, ok := r.found.get(c.mac); task.Kind != api.TaskNone || !ok || !strings.Contains(d.Note, c.note) || c.note == "" && d.Note != "" {
				t.Errorf("%s: %+v, %q", c.mac, task, d.Note)
			}
			continue
		}
		if task.Kind != api.TaskReboot || task.Node != c.name {
			t.Errorf("%s: %+v", c.mac, task)
			continue
		}
		n := r.node(string(c.name))
		bmc := ""
		if c.name == "r3n07" {
			if bmc = "ipmi://10.0.9.12"; n.Labels["port"] != "7" || len(n.Groups) != 1 || n.Groups[0] != "rack3" {
				t.Errorf("%+v", n)
			}
		}
		if n.NICs[0].MAC != c.mac || n.BMC.URL != bmc || n.Boot != node.BootDisk || n.Hardware == nil {
			t.Errorf("%+v", n)
		}
	}
	if n := r.node("first"); n.Labels["serial"] != "sn-1" {
		t.Errorf("%+v", n.Labels)
	}
}
