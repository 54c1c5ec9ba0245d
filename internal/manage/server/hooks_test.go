package server

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/hook"
)

// ear is somebody else's server, which is told things.
type ear struct {
	*httptest.Server
	mu    sync.Mutex
	heard []hook.Message
	bad   []string // what was no message
}

func newEar(t *testing.T) *ear {
	e := &ear{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var m hook.Message
		e.mu.Lock()
		defer e.mu.Unlock()
		if err != nil || json.Unmarshal(b, &m) != nil || r.Header.Get("Mimeo-Event") != m.Event {
			e.bad = append(e.bad, string(b))
		}
		e.heard = append(e.heard, m)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *ear) of(event string) (out []hook.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.heard {
		if m.Event == event {
			out = append(out, m)
		}
	}
	return out
}

// What happens to nodes, images and the store is told, each once; who asks for nothing is told of jobs that end.
func TestHooks(t *testing.T) {
	t.Parallel()
	all, ends := newEar(t), newEar(t)
	r := startIn(t, t.TempDir(), config.Web{URL: all.URL, Events: []string{"*"}}, config.Web{URL: ends.URL})
	r.image()
	lo, err := newIface(config.Interface{Name: "lo", DHCP: "proxy", Discovery: "on"})
	if err != nil {
		t.Fatal(err)
	}
	r.ifaces = []iface{lo}
	one := func(event, text string, node hook.Node) {
		t.Helper()
		r.until(event, func() bool { return len(all.of(event)) > 0 })
		m := all.of(event)
		if len(m) != 1 || m[0].Node == nil || *m[0].Node != node || !strings.Contains(m[0].Text, text) || m[0].Job != nil || m[0].Image != nil {
			t.Errorf("%s: %+v", event, m)
		}
	}
	// A machine is discovered, reports itself twice, and becomes a node.
	r.unknown(r.ifaces[0], pxe(stranger))
	r.dhcpEvent(dhcp.Event{Kind: "dhcp-offer", MAC: stranger, Firmware: node.BIOS, Arch: node.AMD64, File: "undionly.kpxe"})
	_, text := r.get("127.0.0.50", strangerScript(stranger))
	m := tokenIn.FindStringSubmatch(text)
	if m == nil {
		t.Fatal(text)
	}
	hw := api.Hardware{Arch: "amd64", Vendor: "Acme", Product: "box", Memory: 8 << 30, Disks: []api.Disk{{Name: "sda", Size: 1e9, Serial: "S1"}}}
	for range 2 {
		if _, e := r.call(m[1], "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "b", Hardware: hw}, nil); e != nil {
			t.Fatal(e)
		}
	}
	one("node.discovered", "Acme box", hook.Node{Addr: "127.0.0.1", MAC: stranger})
	r.must("POST", "/v1/discovered", api.DiscoveredAccept{ID: macID(stranger), Name: "n1", Set: map[string]string{"ip": "127.0.0.11", "mac": "52:54:00:00:00:01"}}, nil)
	one("node.added", "added", hook.Node{Name: "n1"})
	// A dry run tells nothing, nor what was refused.
	r.fails("POST", "/v1/nodes", api.NodeAdd{Range: "n1"}, "conflict", "n1")
	// Its disk is another one now, and half of its memory is gone.
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell}, nil)
	one("node.boot-state", "set to shell", hook.Node{Name: "n1"})
	token := r.boot(1)
	hw.Memory, hw.Disks = 4<<30, []api.Disk{{Name: "sda", Size: 2e9, Serial: "S2"}}
	for range 2 {
		if _, e := r.call(token, "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "c", Hardware: hw}, nil); e != nil {
			t.Fatal(e)
		}
	}
	one("node.hardware", "memory was 8192 MiB, is 4096 MiB; disk gone: 1.0 GB  S1; disk new: 2.0 GB  S2", hook.Node{Name: "n1", Addr: ""})
	if _, e := r.call(token, "POST", api.PathTrouble, api.Trouble{Stage: "rootimg", Error: &api.Error{Message: "it ends early"}}, nil); e != nil {
		t.Fatal(e)
	}
	one("node.trouble", "it ends early", hook.Node{Name: "n1", Addr: "127.0.0.1"})
	// A BMC that does not answer is told of; a node that has none is not.
	dead := httptest.NewServer(nil)
	dead.Close()
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"bmc": "redfish+http://" + strings.TrimPrefix(dead.URL, "http://"), "bmc.user": "u", "bmc.password": "p"}}, nil)
	power := func() {
		if err := r.admin.Stream(t.Context(), "POST", "/v1/power", api.PowerDo{Range: "n1", Action: "on"}, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	power()
	one("node.power-failed", "on: ", hook.Node{Name: "n1"})
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"bmc": "manual:"}}, nil)
	power()
	// A job: started, waiting for a person, ended. Only the end is for who asks for nothing.
	id := r.capture("n1")
	r.until("the job waits", func() bool { return len(all.of("job.waiting")) > 0 })
	r.must("POST", "/v1/jobs/"+id+"/cancel", nil, nil)
	r.until("the job ends", func() bool { return len(all.of("job.cancelled")) > 0 && len(ends.of("job.cancelled")) > 0 })
	if m := all.of("job.started"); len(m) != 1 || m[0].Job == nil || m[0].Job.ID != id || m[0].Node != nil {
		t.Errorf("%+v", m)
	}
	// The store is damaged, a revision removed, the node removed.
	rev := r.published("web", func(piece int) uint64 { return uint64(piece) })
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: "n2"}, nil)
	r.must("DELETE", "/v1/nodes?range="+url.QueryEscape("n2"), nil, nil)
	one("node.removed", "removed", hook.Node{Name: "n2"})
	maintain[api.StoreCheck](r, "POST", "check?read_data=1")
	packs, _ := filepath.Glob(filepath.Join(r.cfg.State, "store", "packs", "*.pack"))
	f, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 2, 3, 4}, 300); err != nil {
		t.Fatal(err)
	}
	f.Close()
	maintain[api.StoreCheck](r, "POST", "check?read_data=1")
	r.until("store.damaged", func() bool { return len(all.of("store.damaged")) > 0 })
	if m := all.of("store.damaged"); len(m) != 1 || !strings.HasPrefix(m[0].Text, "1 revisions are not whole, ") {
		t.Errorf("%+v", m)
	}
	r.must("DELETE", "/v1/images/web/1", nil, nil)
	r.until("image.removed", func() bool { return len(all.of("image.removed")) > 0 })
	if m := all.of("image.removed"); len(m) != 1 || *m[0].Image != (hook.Image{Name: "web", Rev: rev.Rev}) {
		t.Errorf("%+v", m)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if len(all.of("node.added")) != 2 || len(all.of("node.power-failed")) != 1 || len(all.bad)+len(ends.bad) > 0 {
		t.Errorf("%+v\n%q", all.heard, all.bad)
	}
	if len(ends.heard) != 1 {
		t.Errorf("who asks for nothing hears %+v", ends.heard)
	}
	for _, m := range all.heard {
		if !slices.Contains(config.HookEvents, m.Event) {
			t.Errorf("%s is no event that can be asked for", m.Event)
		}
	}
}

func TestHardwareChanges(t *testing.T) {
	old := api.Hardware{Vendor: "Acme", Product: "box", BIOS: "1.0", CPU: "x", CPUs: 8, Memory: 64 << 30,
		NICs:  []api.HardwareNIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Link: true}},
		Disks: []api.Disk{{Name: "sda", Size: 1e9, Serial: "S1"}, {Name: "sdb", Size: 2e9, WWN: "W2"}, {Name: "sdc", Size: 3e9, Bus: "usb"}}}
	same := old
	same.Memory -= 100 << 20
	same.NICs = []api.HardwareNIC{{Name: "enp1s0", MAC: "52:54:00:00:00:01"}}
	same.Disks = []api.Disk{{Name: "sdb", Size: 2e9, WWN: "W2"}, {Name: "sda", Size: 1e9, Serial: "S1"}}
	if got := hardwareChanges(old, same); len(got) != 0 {
		t.Errorf("%q", got)
	}
	other := same
	other.BIOS, other.SecureBoot, other.CPUs, other.NICs = "1.1", true, 4, nil
	want := []string{"BIOS was 1.0, is 1.1", "Secure Boot was off, is on", "CPU was 8 × x, is 4 × x", "network card gone: 52:54:00:00:00:01"}
	if got := hardwareChanges(old, other); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
