package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/imaging/store/storetest"
	"mimeo/internal/manage/inventory"
)

// What a UEFI firmware starts after a deploy is kept until the node reports otherwise, and its disk is booted by that
// loader; one that no script can hold is left out.
func TestBootLoader(t *testing.T) {
	r := start(t)
	for _, c := range []struct{ reported, want string }{
		{`\EFI\debian\shimx64.efi`, `--filename \EFI\debian\shimx64.efi `},
		{"", `--filename \EFI\debian\shimx64.efi `}, // no entry for the disk
		{`\EFI\my system\x.efi`, `--filename \EFI\BOOT\BOOTX64.EFI `},
	} {
		if c.reported != "" {
			if err := r.Server.keepBoot(t.Context(), "n1", &api.HardwareBoot{Loader: c.reported}); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Server.keepHardware(t.Context(), "n1", api.Hardware{UEFI: true, Boot: &api.HardwareBoot{Loader: c.reported}}); err != nil {
			t.Fatal(err)
		}
		n, err := r.db.Node(t.Context(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		text, _, err := r.Server.script(t.Context(), n, netboot.KindIPXE, netboot.Ask{Firmware: node.UEFI, Arch: node.AMD64, IPXE: true, MAC: n.NICs[0].MAC}, netip.MustParseAddr("127.0.0.1"), false)
		if err != nil || !strings.Contains(text, "sanboot --no-describe --drive 0 "+c.want) {
			t.Errorf("%q: %v\n%s", c.reported, err, text)
		}
	}
}

// What every loader reads first is made for the address that was asked.
func TestCommonFiles(t *testing.T) {
	r := start(t)
	for path, want := range map[string]string{
		"/loaders/autoexec.ipxe":  "/boot/ipxe/${netX/mac:hexhyp}",
		"/loaders/grub/grub.cfg":  "configfile '(http," + r.http.Addr().String() + ")/boot/grub/'$net_default_mac",
		"/loaders//autoexec.ipxe": "/boot/ipxe/${netX/mac:hexhyp}",
		"/grub/grub.cfg":          "configfile '(http," + r.http.Addr().String() + ")/boot/grub/'$net_default_mac",
	} {
		if code, text := r.get("127.0.0.11", path); code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// A fake agent takes a capture from its script to the disk, over real TLS, with a watcher that sees the end.
func TestCapture(t *testing.T) {
	r := start(t)
	id := r.capture("n1")
	r.until("waiting for a person", func() bool { return r.job(id).Waiting != "" })
	var watched []api.Phase
	seen := make(chan error, 1)
	go func() {
		seen <- r.admin.Stream(t.Context(), "GET", "/v1/jobs/"+id+"/watch", nil, func(b []byte) error {
			var w api.Watch
			err := json.Unmarshal(b, &w)
			watched = append(watched, w.Job.Phase)
			return err
		})
	}()
	token := r.boot(1)
	task := r.hello(token, "b1")
	if task.Kind != api.TaskCapture || task.Job != id || task.Node != "n1" || task.Hostname != "n1" || task.Image != "web" || !task.Shrink || task.Attrs["NODE"] != "n1" || task.Attrs["JOB"] != id || task.Attrs["MASTER"] != "127.0.0.1" || task.Attrs["NODE_GROUPS"] != "rack1" {
		t.Fatalf("task %+v", task)
	}
	if st := r.node("n1"); st.Hardware == nil || st.Hardware.Product != "box" || st.SeenAt == nil || st.Job != id {
		t.Errorf("node %+v", st)
	}
	var reply api.ProgressReply
	if _, e := r.call(token, "POST", api.PathProgress, api.Progress{Job: id, BootID: "b1", Phase: api.PhaseCapturing, Done: 1, Total: 2}, &reply); e != nil || reply.Cancel {
		t.Fatal(e, reply)
	}
	cl, err := httpstore.NewClient(httpstore.Options{Base: "https://" + r.https.Addr().String(), Token: token, HTTP: r.from("127.0.0.11")})
	if err != nil {
		t.Fatal(err)
	}
	m, err := storetest.Image(t.Context(), cl, 20, func(i int) uint64 { return uint64(i) })
	if err != nil {
		t.Fatal(err)
	}
	mid, err := cl.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	done := api.Done{Job: id, BootID: "b1", OK: true, Manifest: mid.String(), Counts: map[string]int64{"new": 9}}
	r.until("leave to reboot", func() bool {
		var d api.DoneReply
		if _, e := r.call(token, "POST", api.PathDone, done, &d); e != nil {
			t.Fatal(e)
		}
		if d.Action == "reboot" && r.node("n1").Boot != node.BootDisk {
			t.Fatal("the node may reboot before its boot state is disk")
		}
		return d.Action == "reboot"
	})
	if code, text := r.get("127.0.0.11", script(1)); code != 200 || tokenIn.MatchString(text) {
		t.Fatalf("after the end: %d %s", code, text)
	}
	if err := <-seen; err != nil || len(watched) == 0 || watched[len(watched)-1] != api.PhaseDone {
		t.Errorf("watched %v, %v", watched, err)
	}
	var im api.ImageDetail
	r.must("GET", "/v1/images/web/1", nil, &im)
	if im.Node != "n1" || im.New != 9 || im.ID != mid.String() || r.job(id).Rev != 1 {
		t.Errorf("image %+v", im.Revision)
	}
	var last api.VerifyProgress
	if err := r.admin.Stream(t.Context(), "POST", "/v1/images/web/1/verify", nil, func(b []byte) error { return json.Unmarshal(b, &last) }); err != nil || !last.Finished || last.Error != nil || last.Done == 0 {
		t.Errorf("verify %+v, %v", last, err)
	}
	// The kinds of event that tell "why did n1 boot that?".
	var evs []api.Event
	r.must("GET", "/v1/nodes/n1/events", nil, &evs)
	kinds := ""
	for _, e := range evs {
		kinds += " " + e.Kind
	}
	for _, k := range []string{"script", "agent", "phase", "told-disk"} {
		if !strings.Contains(kinds, " "+k) {
			t.Errorf("no event %s in%s", k, kinds)
		}
	}
	// Deploy what was captured: the task carries the manifest, and the token only reads.
	var jobs []api.Job
	r.fails("POST", "/v1/jobs", api.JobNew{Key: "g", Kind: api.TaskDeploy, Range: "n2", Image: "web", Grow: "srv"}, "bad_request", `web@1: "srv" cannot grow`)
	r.fails("POST", "/v1/jobs", api.JobNew{Key: "g", Kind: api.TaskDeploy, Range: "n2", Image: "web", Trust: true, Full: true}, "bad_request", "trust_last")
	r.fails("POST", "/v1/jobs", api.JobNew{Key: "g", Kind: api.TaskCapture, Range: "n2", Image: "web", Trust: true}, "bad_request", "trust_last")
	r.must("POST", "/v1/jobs", api.JobNew{Key: "d", Kind: api.TaskDeploy, Range: "n2", Image: "web", Grow: "last", Trust: true}, &jobs)
	r.fails("DELETE", "/v1/images/web/1", nil, "conflict", "is being deployed")
	token = r.boot(2)
	if task := r.hello(token, "b2"); task.Kind != api.TaskDeploy || task.Manifest != mid.String() || !task.Force || task.Rev != 1 || task.Grow != "last" || task.Last == nil || task.Last.Deploy != nil {
		t.Errorf("task %+v", task)
	}
	had := api.LastDeploy{Image: "web", Rev: 1, Manifest: mid.String(), Disk: api.Disk{Serial: "S1"}}
	if err := r.Server.db.Update(t.Context(), func(x *inventory.Tx) error { return x.PutDeployed("n2", had) }); err != nil {
		t.Fatal(err)
	}
	if task := r.hello(token, "b2"); task.Last == nil || task.Last.Deploy == nil || *task.Last.Deploy != had {
		t.Errorf("task %+v", task)
	}
	if code, e := r.call(token, "GET", httpstore.Prefix+"manifests/"+mid.String(), nil, nil); code != 200 {
		t.Errorf("a deploy may not read a manifest: %v", e)
	}
	for _, p := range []string{"chunks", "flush", "manifests"} {
		if code, e := r.call(token, "POST", httpstore.Prefix+p, []byte("x"), nil); code != http.StatusUnauthorized {
			t.Errorf("a deploy may write to the store: %s: %d %v", p, code, e)
		}
	}
	if code, e := r.call(token, "GET", httpstore.Prefix+"images", nil, nil); code != 200 {
		t.Errorf("a deploy may not read the store: %v", e)
	}
	r.must("POST", "/v1/jobs/"+jobs[0].ID+"/cancel", nil, nil)
	if _, e := r.call(token, "POST", api.PathProgress, api.Progress{Job: jobs[0].ID, BootID: "b2", Phase: api.PhaseMapping}, &reply); e != nil || !reply.Cancel {
		t.Errorf("a cancelled agent is told %+v, %v", reply, e)
	}
}

// Every route, with every token that is not good for it.
func TestWhoMayWhat(t *testing.T) {
	r := start(t)
	first := r.capture("n1")
	ended := r.boot(1)
	r.must("POST", "/v1/jobs/"+first+"/cancel", nil, nil)
	id := r.capture("n1")
	good := r.boot(1)
	other := r.capture("n2")
	others := r.boot(2)
	r.hello(good, "b1")
	r.hello(others, "b2")
	viewer, operator := r.viewer("viewer"), r.viewer("operator")
	tampered := strings.Replace(good, "."+"n1"+".", ".n2.", 1)
	if tampered == good {
		t.Fatalf("token %q has another form", good)
	}
	agent := []struct{ method, path string }{{"POST", api.PathHello}, {"POST", api.PathProgress}, {"POST", api.PathDone}, {"POST", api.PathTrouble},
		{"POST", httpstore.Prefix + "missing"}, {"POST", httpstore.Prefix + "chunks"}, {"POST", httpstore.Prefix + "flush"}, {"POST", httpstore.Prefix + "get"},
		{"POST", httpstore.Prefix + "manifests"}, {"GET", httpstore.Prefix + "manifests/" + strings.Repeat("0", 64)}, {"GET", httpstore.Prefix + "images"}, {"GET", httpstore.Prefix + "images/web/revisions"}}
	for _, a := range agent {
		for name, tok := range map[string]string{"none": "", "junk": "junk", "dots": "job.." + ".", "admin": r.token, "viewer": viewer, "tampered": tampered, "cut": good[:len(good)-2]} {
			code, _ := r.call(tok, a.method, a.path, map[string]string{}, nil)
			want := code == http.StatusUnauthorized
			if strings.HasPrefix(a.path, httpstore.Prefix) && (name == "admin" || name == "viewer") {
				// Viewers read from the store, and write nothing to it.
				reads := name == "admin" || a.method == "GET" || strings.HasSuffix(a.path, "/missing") || strings.HasSuffix(a.path, "/get")
				want = !reads && code == http.StatusForbidden || reads && (code == http.StatusOK || code == http.StatusNoContent || code == http.StatusNotFound || code == http.StatusBadRequest)
			}
			if !want {
				t.Errorf("%s with %s: %d", a.path, name, code)
			}
		}
		if strings.HasPrefix(a.path, httpstore.Prefix) {
			if code, _ := r.call(ended, a.method, a.path, nil, nil); code != http.StatusUnauthorized {
				t.Errorf("%s with the token of an ended job: %d", a.path, code)
			}
		}
	}
	// A message that names another job than its token.
	for _, p := range []string{api.PathProgress, api.PathDone} {
		if code, _ := r.call(others, "POST", p, map[string]string{"job": id, "boot_id": "b1"}, nil); code != http.StatusUnauthorized {
			t.Errorf("%s for another job: %d", p, code)
		}
	}
	// An ended job's agent is sent away, and what it says is not believed.
	if task := r.hello(ended, "b0"); task.Kind != api.TaskReboot {
		t.Errorf("the agent of an ended job is told %+v", task)
	}
	before := r.node("n1")
	r.call(ended, "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "x", Hardware: api.Hardware{Product: "forged"}}, nil)
	r.call(ended, "POST", api.PathTrouble, api.Trouble{Stage: "forged"}, nil)
	if after := r.node("n1"); after.Hardware.Product != before.Hardware.Product || after.LastEvent != before.LastEvent {
		t.Error("an ended job's token changes what is known of its node")
	}
	var d api.DoneReply
	if _, e := r.call(ended, "POST", api.PathDone, api.Done{Job: first, BootID: "b0", OK: true}, &d); e != nil || d.Action != "reboot" || !r.job(id).Active {
		t.Errorf("done of an ended job: %+v, %v", d, e)
	}

	admin := []struct{ method, path string }{{"GET", "/v1/status"}, {"GET", "/v1/nodes"}, {"POST", "/v1/nodes"}, {"PATCH", "/v1/nodes"}, {"DELETE", "/v1/nodes?range=n1"}, {"GET", "/v1/nodes/n1/events"},
		{"GET", "/v1/nodes/n1/boot"}, {"POST", "/v1/boot"}, {"POST", "/v1/power"}, {"POST", "/v1/jobs"}, {"GET", "/v1/jobs"}, {"GET", "/v1/jobs/" + id}, {"GET", "/v1/jobs/" + id + "/events"},
		{"GET", "/v1/jobs/" + id + "/watch"}, {"POST", "/v1/jobs/" + id + "/cancel"}, {"POST", "/v1/jobs/" + id + "/retry"}, {"GET", "/v1/images"}, {"GET", "/v1/images/web"}, {"GET", "/v1/images/web/1"},
		{"DELETE", "/v1/images/web/1"}, {"POST", "/v1/images/web/1/verify"}, {"GET", "/v1/stateless"}, {"GET", "/v1/stateless/imaging"}, {"POST", "/v1/stateless"}, {"DELETE", "/v1/stateless/imaging"}, {"GET", "/v1/other"}}
	for _, a := range admin {
		for name, tok := range map[string]string{"none": "", "junk": "junk", "a node's": good} {
			if code, e := r.call(tok, a.method, a.path, map[string]string{}, nil); code != http.StatusUnauthorized || e.Hint == "" {
				t.Errorf("%s %s with token %s: %d", a.method, a.path, name, code)
			}
		}
		if a.method != "GET" {
			if code, _ := r.call(viewer, a.method, a.path, map[string]string{}, nil); code != http.StatusForbidden {
				t.Errorf("%s %s by a viewer: %d", a.method, a.path, code)
			}
		}
		if a.method == "DELETE" {
			if code, _ := r.call(operator, a.method, a.path, nil, nil); code != http.StatusForbidden {
				t.Errorf("%s %s by an operator: %d", a.method, a.path, code)
			}
		}
	}
	if !r.job(id).Active || !r.job(other).Active || r.node("n1").Boot != node.BootCapture {
		t.Error("something was changed")
	}
	if code, _ := r.call(viewer, "GET", "/v1/nodes", nil, nil); code != 200 {
		t.Errorf("a viewer may not look: %d", code)
	}
}

func TestScriptOnlyToItsNode(t *testing.T) {
	r := start(t)
	id := r.capture("n1")
	for _, tc := range []struct{ from, path string }{{"127.0.0.12", script(1)}, {"127.0.0.1", script(1)}, {"127.0.0.11", script(2)}, {"127.0.0.11", script(3)}, {"127.0.0.11", "/boot/ipxe/junk"}, {"127.0.0.11", "/boot/ipxe/..%2f..%2fkey"}} {
		if code, text := r.get(tc.from, tc.path); code != http.StatusNotFound || strings.Contains(text, api.ParamToken) {
			t.Errorf("%s from %s: %d %s", tc.path, tc.from, code, text)
		}
	}
	if p := r.job(id).Phase; p != api.PhaseQueued && p != api.PhasePowering && p != api.PhaseNetbooting || r.job(id).Waiting == "" && p == api.PhaseNetbooting {
		t.Errorf("strangers moved the job to %s", p)
	}
	if code, text := r.get("127.0.0.12", script(2)); code != 200 || tokenIn.MatchString(text) {
		t.Errorf("a node without a job: %d %s", code, text)
	}
	var ex api.BootExplain
	r.must("GET", "/v1/nodes/n1/boot", nil, &ex)
	if m := tokenIn.FindStringSubmatch(ex.Script); ex.Decision != "stateless imaging" || m == nil || m[1] != "***" {
		t.Errorf("%+v", ex)
	}
	if j := r.job(id); j.Try > 1 {
		t.Error("explaining counts as a netboot")
	}
}

func TestExplainBeforeTheFirstNetboot(t *testing.T) {
	r := start(t)
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: "n77", Set: map[string]string{"mac": "52:54:00:00:00:77"}}, nil)
	for state, want := range map[node.BootState]string{node.BootShell: "stateless imaging", node.BootDisk: "disk"} {
		r.must("POST", "/v1/boot", api.BootSet{Range: "n77", State: state}, nil)
		var ex api.BootExplain
		r.must("GET", "/v1/nodes/n77/boot", nil, &ex)
		if ex.Decision != want || !strings.Contains(ex.Why, "not netbooted yet") || ex.Script != "" || ex.Loader != "" {
			t.Errorf("%s: %+v", state, ex)
		}
	}
}

func TestStatelessFiles(t *testing.T) {
	r := start(t)
	path := "/boot/stateless/" + build + "/"
	if code, text := r.get("127.0.0.11", path+"rootimg"); code != 200 || text != "this is rootimg" {
		t.Errorf("%d %q", code, text)
	}
	for _, p := range []string{path + "record.json", path + "..%2f..%2f..%2f..%2fkey", "/boot/stateless/" + strings.Repeat("f", 32) + "/rootimg", "/loaders/..%2fkey", "/loaders/../key"} {
		if code, _ := r.get("127.0.0.11", p); code != http.StatusNotFound {
			t.Errorf("%s: %d", p, code)
		}
	}
	file := filepath.Join(r.cfg.State, "stateless", "imaging", "amd64", build, "vmlinuz")
	if err := os.WriteFile(file, []byte("that is vmlinuz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, text := r.get("127.0.0.11", path+"vmlinuz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "damaged") {
		t.Errorf("a file with another hash: %d %q", code, text)
	}
}

func TestShellOnce(t *testing.T) {
	r := start(t)
	if err := r.Server.db.Update(t.Context(), func(x *inventory.Tx) error { return x.PutDeployed("n1", api.LastDeploy{Image: "web"}) }); err != nil {
		t.Fatal(err)
	}
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell, Once: true, SSHKeys: []string{"ssh-ed25519 AAAA me"}}, nil)
	r.boot(1) // a loader that asks twice has not booted yet
	token := r.boot(1)
	for range 2 {
		if task := r.hello(token, "b1"); task.Kind != api.TaskShell || len(task.SSHKeys) != 1 || task.RetryMS == 0 {
			t.Errorf("task %+v", task)
		}
		if r.node("n1").Boot != node.BootDisk {
			t.Error("once is for ever")
		}
	}
	if last, err := r.Server.db.Deployed(t.Context(), "n1"); err != nil || last != nil {
		t.Errorf("in a shell anybody may write to the disk, and it is thought to hold %+v, %v", last, err)
	}
	if code, _ := r.call(token, "GET", httpstore.Prefix+"images", nil, nil); code != http.StatusUnauthorized {
		t.Errorf("a shell reaches the store: %d", code)
	}
	if code, text := r.get("127.0.0.11", script(1)); code != 200 || tokenIn.MatchString(text) {
		t.Errorf("second boot: %d %s", code, text)
	}
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootDisk}, nil)
	if task := r.hello(token, "b1"); task.Kind != api.TaskReboot {
		t.Errorf("task after boot disk: %+v", task)
	}
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell}, nil)
	if code, _ := r.call(token, "POST", api.PathHello, api.Hello{Version: api.AgentVersion}, nil); code != http.StatusUnauthorized {
		t.Errorf("the token of an earlier boot: %d", code)
	}
	r.fails("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootDeploy}, "bad_request", "comes with a job")
	r.fails("POST", "/v1/boot", api.BootSet{Range: "n1", State: "nothing"}, "bad_request", "none of")
	r.capture("n1")
	r.fails("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootDisk}, "conflict", "active job")
}

func TestBodiesAreBounded(t *testing.T) {
	r := start(t)
	id := r.capture("n1")
	token := r.boot(1)
	r.hello(token, "b1")
	big := []byte(`{"job":"` + id + `","log":["` + strings.Repeat("x", maxAgentBody+1))
	if code, e := r.call(token, "POST", api.PathProgress, big, nil); code != http.StatusBadRequest || !strings.Contains(e.Message, "too large") {
		t.Errorf("%d %v", code, e)
	}
	if code, e := r.call(r.token, "POST", "/v1/nodes", big[:maxAdminBody+1], nil); code != http.StatusBadRequest || !strings.Contains(e.Message, "too large") {
		t.Errorf("%d %v", code, e)
	}
	if code, _ := r.call(token, "POST", api.PathHello, api.Hello{Version: 99}, nil); code != http.StatusBadRequest {
		t.Errorf("an agent of another version: %d", code)
	}
}

// A server that stops does so soon, whoever watches, and finds all again.
func TestStopsSoon(t *testing.T) {
	r := start(t)
	id := r.capture("n1")
	token := r.boot(1)
	r.hello(token, "b1")
	got := make(chan struct{}, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- r.admin.Stream(context.Background(), "GET", "/v1/jobs/"+id+"/watch", nil, func([]byte) error { got <- struct{}{}; return nil })
	}()
	<-got
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %s", d)
	}
	<-ended
	again := startIn(t, r.cfg.State)
	if again.token != r.token || again.pin != r.pin || strings.Contains(again.out.String(), r.token) {
		t.Error("token or pin are new, or shown again")
	}
	if j := again.job(id); j.Phase != api.PhaseAgent {
		t.Errorf("job is %s", j.Phase)
	}
	if task := again.hello(token, "b1"); task.Kind != api.TaskCapture {
		t.Errorf("task %+v", task)
	}
}

// A boot of the stateless image for good runs the profile's postscripts, with the node's attributes, and goes on.
func TestStatelessBoot(t *testing.T) {
	r := start(t)
	profile := "extends: imaging\npostscripts:\n  pre:\n    - name: hello\n      content: |\n        #!/bin/sh\n        echo hello\n"
	if err := os.WriteFile(filepath.Join(r.cfg.State, "profiles", "imaging.yaml"), []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"label.rack-row": "7"}}, nil)
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootStateless}, nil)
	token := r.boot(1)
	task := r.hello(token, "b1")
	if task.Kind != api.TaskStateless || len(task.Pre) != 1 || task.Attrs["TASK"] != "stateless" || task.Attrs["LABEL_RACK_ROW"] != "7" || task.Attrs["MAC"] != "52:54:00:00:00:01" {
		t.Fatalf("task %+v", task)
	}
	var reply api.ProgressReply
	p := api.Progress{BootID: "b1", Phase: api.PhasePre, Outputs: []api.Output{{Name: "hello", Stage: api.PhasePre, Output: "hello\n"}}}
	if _, e := r.call(token, "POST", api.PathProgress, p, &reply); e != nil || reply.Cancel {
		t.Errorf("its postscripts are stopped: %+v, %v", reply, e)
	}
	var evs []api.Event
	if r.must("GET", "/v1/nodes/n1/events?limit=1", nil, &evs); len(evs) != 1 || evs[0].Kind != "postscript" || !strings.Contains(evs[0].Text, "hello") {
		t.Errorf("events %+v", evs)
	}
}
