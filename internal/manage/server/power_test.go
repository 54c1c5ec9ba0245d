package server

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

// bmcs makes nodes p1 to pN with a Redfish BMC each, and returns the machines and the BMCs.
func (r *rig) bmcs(n int) (machines []*powertest.Machine, bmcs []*vbmc.BMC) {
	r.t.Helper()
	add := api.NodeAdd{Range: fmt.Sprintf("p[1-%d]", n), Set: map[string]string{"bmc.user": "ops", "bmc.password": "secret", "firmware": "uefi"}, PerNode: map[node.Name]map[string]string{}}
	for i := range n {
		m := powertest.NewMachine()
		b := vbmc.New(m, "ops", "secret")
		srv := httptest.NewServer(b.Handler())
		r.t.Cleanup(srv.Close)
		machines, bmcs = append(machines, m), append(bmcs, b)
		add.PerNode[node.Name(fmt.Sprintf("p%d", i+1))] = map[string]string{"mac": fmt.Sprintf("52:54:00:00:01:%02x", i), "bmc": "redfish+http://" + strings.TrimPrefix(srv.URL, "http://")}
	}
	r.must("POST", "/v1/nodes", add, nil)
	return machines, bmcs
}

// A viewer sees what BMCs say, and changes nothing. Looks are no changes, so the audit log has none.
func TestViewersPower(t *testing.T) {
	r := start(t)
	machines, _ := r.bmcs(1)
	viewer := r.viewer("viewer")
	for _, ask := range []api.PowerDo{{Action: "status"}, {Action: "sensors"}, {Action: "log"}, {Action: "next-boot"}} {
		ask.Range = "p1"
		var res []api.PowerResult
		if code, e := r.call(viewer, "POST", "/v1/power", ask, &res); code != 200 || len(res) != 1 || res[0].Error != nil {
			t.Errorf("%s: %d %v %+v", ask.Action, code, e, res)
		}
	}
	for _, body := range []any{api.PowerDo{Action: "off"}, api.PowerDo{Action: "on"}, api.PowerDo{Action: "log", Clear: true}, api.PowerDo{Action: "next-boot", Device: "network"}, api.PowerDo{Action: "pxe"},
		api.PowerDo{Action: "identify-on"}, []byte(`{"range":"p1","action":"status","action":"cycle"}`), []byte(`{"range":"p1","action":"status"}{"range":"p1","action":"on"}`), []byte(`junk`)} {
		if ask, ok := body.(api.PowerDo); ok {
			ask.Range = "p1"
			body = ask
		}
		if code, _ := r.call(viewer, "POST", "/v1/power", body, nil); code != http.StatusForbidden {
			t.Errorf("%+v: %d", body, code)
		}
	}
	if did := machines[0].Log(); did != "" || machines[0].NextBoot() != "" {
		t.Errorf("the machine was made to %s, then to boot %s", did, machines[0].NextBoot())
	}
	if code, _ := r.call(viewer, "POST", "/v1/nodes/plan", api.PowerDo{Range: "p1", Action: "status"}, nil); code != http.StatusForbidden {
		t.Errorf("elsewhere: %d", code)
	}
}

func TestPowerStream(t *testing.T) {
	r := start(t)
	machines, bmcs := r.bmcs(12)
	bmcs[3].SetGone(true)
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "p5", Set: map[string]string{"bmc.password": "wrong"}}, nil)
	var got []api.PowerProgress
	err := r.admin.Stream(t.Context(), "POST", "/v1/power?stream=1", api.PowerDo{Range: "p[1-12],n1", Action: "on"}, func(data []byte) error {
		var p api.PowerProgress
		if err := json.Unmarshal(data, &p); err != nil {
			return err
		}
		got = append(got, p)
		return nil
	})
	if err != nil || len(got) < 15 || got[0].Done != 0 || got[0].Total != 13 || !got[len(got)-1].Finished || got[len(got)-1].Done != 13 {
		t.Fatalf("%v, %d messages", err, len(got))
	}
	seen := map[int]bool{}
	for _, p := range got {
		if p.Result == nil {
			continue
		}
		seen[p.Index] = true
		switch res := *p.Result; {
		case res.Node == "n1":
			if res.Error == nil || res.Error.Code != "by_hand" {
				t.Errorf("%+v", res)
			}
		case res.Node != node.Name(fmt.Sprintf("p%d", p.Index+1)) && res.Error == nil:
			t.Errorf("%s has the place %d", res.Node, p.Index)
		case res.Node == "p4":
			if res.Error == nil || res.Error.Code != "unreachable" || res.Error.Hint == "" {
				t.Errorf("%+v", res.Error)
			}
		case res.Node == "p5":
			if res.Error == nil || res.Error.Code != "denied" || !strings.Contains(res.Error.Hint, "bmc.user") {
				t.Errorf("%+v", res.Error)
			}
		case res.Error != nil || res.State != "on":
			t.Errorf("%s: %q, %v", res.Node, res.State, res.Error)
		}
	}
	if len(seen) != 13 {
		t.Errorf("%d places", len(seen))
	}
	for i, m := range machines {
		if m.Power() != (i != 3 && i != 4) {
			t.Errorf("p%d is on: %v", i+1, m.Power())
		}
	}
}

func TestPowerAsks(t *testing.T) {
	r := start(t)
	machines, bmcs := r.bmcs(1)
	m, b := machines[0], bmcs[0]
	one := func(do api.PowerDo) api.PowerResult {
		t.Helper()
		do.Range = "p1"
		var res []api.PowerResult
		r.must("POST", "/v1/power", do, &res)
		if len(res) != 1 || res[0].Error != nil {
			t.Fatalf("%+v: %+v", do, res)
		}
		return res[0]
	}
	for _, tc := range []struct {
		do         api.PowerDo
		boot, note string
	}{
		{api.PowerDo{Action: "pxe"}, "pxe once uefi", "network, once, UEFI"}, // as its firmware is
		{api.PowerDo{Action: "next-boot", Device: "disk", Persistent: true, Mode: "legacy"}, "disk", "disk, for every boot, legacy"},
		{api.PowerDo{Action: "next-boot", Device: "uefi:HD(1)"}, "uefi once uefi", "uefi:HD(1), once, UEFI"},
		{api.PowerDo{Action: "next-boot", Device: "setup"}, "setup once uefi", "setup, once, UEFI"},
		{api.PowerDo{Action: "next-boot"}, "setup once uefi", "setup, once, UEFI"},
		{api.PowerDo{Action: "next-boot", Device: "none"}, "", "none, by its own boot order"},
	} {
		if res := one(tc.do); res.Note != tc.note || m.NextBoot() != tc.boot {
			t.Errorf("%+v: %q, the machine was told %q; want %q, %q", tc.do, res.Note, m.NextBoot(), tc.note, tc.boot)
		}
	}
	if one(api.PowerDo{Action: "identify-on"}); b.LED() == 0 {
		t.Error("the light is off")
	}
	if res := one(api.PowerDo{Action: "sensors"}); len(res.Sensors) != 6 {
		t.Errorf("%+v", res.Sensors)
	}
	b.AddEvent(vbmc.Event{Time: time.Now(), Severity: "Warning", Text: "fan"})
	if res := one(api.PowerDo{Action: "log", Clear: true}); len(res.Log) != 1 || !res.Cleared || len(b.Events()) != 0 {
		t.Errorf("%+v", res)
	}
	one(api.PowerDo{Action: "on"})
	if res := one(api.PowerDo{Action: "soft"}); res.State != "off" || m.Power() {
		t.Errorf("soft: %+v", res)
	}
	var events []api.Event
	r.must("GET", "/v1/nodes/p1/events", nil, &events)
	if n := len(events); n == 0 || events[n-1].Text != "soft: off" {
		t.Errorf("%+v", events)
	}
	for _, bad := range []api.PowerDo{{Action: "next-boot", Device: "floppy"}, {Action: "on", Device: "disk"}, {Action: "next-boot", Device: "disk", Mode: "x"}, {Action: "next-boot", Mode: "uefi"},
		{Action: "next-boot", Device: "uefi:"}, {Action: "next-boot", Device: "uefi:HD(1)", Mode: "legacy"}, {Action: "status", Clear: true}, {Action: "identify"}} {
		bad.Range = "p1"
		r.fails("POST", "/v1/power", bad, "bad_request", "")
		r.fails("POST", "/v1/power?stream=1", bad, "bad_request", "")
	}
}

// TestUEFINotKept says what the BMC does not give back.
func TestUEFINotKept(t *testing.T) {
	r := start(t)
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	b.Faults.NotKeepUEFI = true
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go b.ServeIPMI(t.Context(), pc)
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"bmc": "ipmi://" + pc.LocalAddr().String(), "bmc.user": "ops", "bmc.password": "secret"}}, nil)
	var res []api.PowerResult
	r.must("POST", "/v1/power", api.PowerDo{Range: "n1", Action: "next-boot", Device: "network", Mode: "uefi"}, &res)
	if len(res) != 1 || res[0].Error != nil || !strings.Contains(res[0].Note, "does not give back that it is by UEFI") {
		t.Errorf("%+v", res)
	}
}

// TestWakeIsNoSuccess: nobody knows what came of a magic packet, and it is not called a success.
func TestWakeIsNoSuccess(t *testing.T) {
	r := start(t)
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"bmc": "wol://127.0.0.1"}}, nil)
	var res []api.PowerResult
	r.must("POST", "/v1/power", api.PowerDo{Range: "n1", Action: "on"}, &res)
	if len(res) != 1 || res[0].Error != nil || !res[0].Sent || res[0].State != "unknown" || !strings.Contains(res[0].Note, "magic packet was sent to 127.0.0.1") {
		t.Errorf("%+v", res)
	}
	r.must("POST", "/v1/power", api.PowerDo{Range: "n1", Action: "off"}, &res)
	if res[0].Error == nil || res[0].Error.Code != "by_hand" {
		t.Errorf("%+v", res)
	}
	// A command line does not come in by the API; nor does the name of one that is not configured.
	r.fails("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"bmc": "exec:/bin/sh -c reboot"}}, "bad_request", "exec:NAME")
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"bmc": "exec:pdu"}}, nil)
	r.must("POST", "/v1/power", api.PowerDo{Range: "n1", Action: "off"}, &res)
	if res[0].Error == nil || !strings.Contains(res[0].Error.Message, "there is no such command") || res[0].Error.Hint == "" {
		t.Errorf("%+v", res[0].Error)
	}
}
