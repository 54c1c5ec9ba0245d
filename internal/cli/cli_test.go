package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"mimeo": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs terminal sessions of the real command line against a small server with one known answer for each
// path; the real server is tested with its own package and in the lab.
func TestScripts(t *testing.T) {
	srv := httptest.NewServer(fakeServer())
	t.Cleanup(srv.Close) // the scripts run after this function has returned
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("MIMEO_SERVER", srv.URL)
			e.Setenv("MIMEO_TOKEN", "good")
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TZ", "UTC")
			return nil
		},
	})
}

func fakeServer() http.Handler {
	mux := http.NewServeMux()
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	answer := func(w http.ResponseWriter, v any) {
		if e, ok := v.(*api.Error); ok {
			w.WriteHeader(map[string]int{"not_found": 404, "conflict": 409, "denied": 401}[e.Code])
		}
		json.NewEncoder(w).Encode(v)
	}
	nodes := func(n int) (out []api.NodeStatus) {
		for i := range n {
			out = append(out, api.NodeStatus{Node: node.Node{Name: node.Name(fmt.Sprintf("n%02d", i+1)), Boot: node.BootDisk,
				NICs: []node.NIC{{MAC: fmt.Sprintf("52:54:00:00:00:%02d", i+1)}}, BMC: node.BMC{URL: fmt.Sprintf("ipmi://10.0.9.%d", i+1), User: "ops", HasPassword: true}}})
		}
		return out
	}
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		switch r.FormValue("range") {
		case "n01":
			answer(w, nodes(1))
		case "nope":
			answer(w, &api.Error{Code: "not_found", Message: `no node "nope"`, Hint: `"mimeo node list" shows all`})
		default:
			answer(w, nodes(3))
		}
	})
	pools := []api.DHCPNetwork{
		{Interface: "eth1", DHCP: "full", Network: "10.0.0.0/24", Server: "10.0.0.1", Pool: []string{"10.0.0.100-10.0.0.101"}, Size: 2, Leased: 1, Conflicts: 1, Refused: 12, RefusedAt: &when},
		{Interface: "eth1", DHCP: "full", Network: "10.8.0.0/16", Pool: []string{"10.8.0.5-10.8.0.9"}, Size: 5, Leased: 1, Free: 4},
		{Interface: "eth2", DHCP: "proxy", Network: "10.9.0.0/24", Server: "10.9.0.1"},
	}
	mux.HandleFunc("GET /v1/dhcp", func(w http.ResponseWriter, r *http.Request) {
		answer(w, api.DHCPStatus{Networks: pools, Leases: []api.DHCPLease{
			{Addr: "10.0.0.100", MAC: "52:54:00:00:00:01", Node: "n01", State: api.LeaseActive, Expires: when},
			{Addr: "10.0.0.101", MAC: "52:54:00:00:00:02", Node: "n02", State: api.LeaseConflict, Expires: when},
			{Addr: "10.8.0.5", MAC: "52:54:00:00:00:09", State: api.LeaseActive, Expires: when},
			{Addr: "10.8.0.6", MAC: "52:54:00:00:00:01", Node: "n01", State: api.LeaseEnded, Expires: when}}})
	})
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, api.ServerStatus{Version: "1", Interfaces: []api.InterfaceStatus{{Name: "eth1", Addr: "10.0.0.1/24", DHCP: "full", Networks: pools[:2]}}})
	})
	mux.HandleFunc("GET /v1/maintenance/usage", func(w http.ResponseWriter, r *http.Request) {
		answer(w, api.StoreUsage{Images: []api.StoreUsageImage{{Image: r.FormValue("image"), Revisions: []api.StoreUsageRevision{{Image: r.FormValue("image"), Rev: 2, Stored: 3 << 30, Unique: 1 << 20}}}}})
	})
	mux.HandleFunc("POST /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		var req api.NodeAdd
		json.NewDecoder(r.Body).Decode(&req)
		out := nodes(len(req.PerNode))
		for i := range out {
			out[i].BMC.URL = req.PerNode[out[i].Name]["bmc"]
			out[i].NICs[0].MAC = req.PerNode[out[i].Name]["mac"]
		}
		answer(w, out)
	})
	mux.HandleFunc("POST /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		var req api.JobNew
		json.NewDecoder(r.Body).Decode(&req)
		if req.Key == "" {
			t := &api.Error{Code: "conflict", Message: "no key"}
			answer(w, t)
			return
		}
		if strings.HasPrefix(req.Image, "busy") {
			answer(w, &api.Error{Code: "conflict", Message: "n01 has an active job, j7", Hint: "wait for it, or cancel it: mimeo job cancel j7"})
			return
		}
		if req.Skip {
			if req.Range != "n01,n02,n03" || !strings.HasSuffix(req.Image, "@4") { // what preflight showed, not @lab and the newest
				answer(w, &api.Error{Code: "conflict", Message: fmt.Sprintf("asked for %s on %s", req.Image, req.Range)})
				return
			}
			answer(w, batchJobs(req))
			return
		}
		answer(w, []api.Job{{ID: "j" + req.Image, Kind: req.Kind, Node: "n01", Image: req.Image, Phase: api.PhaseQueued, Active: true, Created: when}})
	})
	mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("batch") != "" {
			watchBatch(w)
			return
		}
		end := when.Add(90 * time.Second)
		j := api.Job{ID: r.FormValue("job"), Kind: api.TaskCapture, Node: "n01", Image: "pc", Rev: 3, Active: true, Created: when}
		send := func() {
			b, _ := json.Marshal(api.WatchJobs{Jobs: []api.Job{j}, Ended: !j.Active})
			fmt.Fprintf(w, "data: %s\n\n", b)
			w.(http.Flusher).Flush()
		}
		j.Phase, j.Done, j.Total, j.Rate, j.ETAMS = api.PhaseCapturing, 1<<30, 4<<30, 256<<20, 12000
		send()
		j.Active, j.Ended, j.Phase = false, &end, api.PhaseDone
		j.Counts = map[string]int64{"used": 4 << 30, "new": 5 << 20, "stored": 2 << 20}
		if j.ID == "jbad" {
			j.Phase, j.Error = api.PhaseFailed, &api.Error{Code: "disk", Message: "no disk matches serial=X", Hint: "the node has: vda, 3 GiB"}
			j.Outputs = []api.Output{{Name: "pre.sh", Exit: 7, Output: "boom\n"}}
		}
		send()
	})
	answerBatches(mux, answer)
	mux.HandleFunc("POST /v1/power", func(w http.ResponseWriter, r *http.Request) {
		power(w, r)
	})
	mux.HandleFunc("POST /v1/images/{name}/{rev}/boot-test", func(w http.ResponseWriter, r *http.Request) {
		var q api.BootTestNew
		json.NewDecoder(r.Body).Decode(&q)
		p := api.BootTestProgress{Finished: true, Result: &api.BootTest{Image: "pc", Rev: 1, Firmware: "bios", TookMS: 12300, Time: when, Booted: true, Match: "pc login:", Screen: true}}
		if r.PathValue("rev") == "2" {
			p.Result.Booted, p.Result.Match, p.Result.Why, p.Result.Console = false, "", fmt.Sprintf("%q was not seen within %d ms", q.Expect, q.TimeoutMS), "grub rescue>"
		}
		for _, v := range []api.BootTestProgress{{RunningMS: 1000}, p} {
			b, _ := json.Marshal(v)
			fmt.Fprintf(w, "data: %s\n\n", b)
		}
	})
	mux.HandleFunc("GET /v1/nodes/{name}/postscripts", func(w http.ResponseWriter, r *http.Request) {
		p := api.ScriptPlan{Node: node.Name(r.PathValue("name")), Task: api.TaskKind(r.FormValue("task")), Image: r.FormValue("image")}
		if p.Task == api.TaskDeploy {
			p.Scripts = []api.PlannedScript{
				{Stage: "pre", Name: "raid", From: api.FromProfile, Of: "imaging", Program: "in the profile", TimeoutMS: 90_000},
				{Stage: "root", Name: "gone", From: api.FromImage, Of: "web", Key: "postscripts.root", Program: "/p/gone", Error: &api.Error{Code: "bad_request", Message: "n01: gone is not there", Hint: "put it there"}}}
			p.Dropped = []api.PlannedScript{{Stage: "root", Name: "motd", From: node.FromGroup, Of: "gpu", Key: "postscripts.root", DroppedBy: "node n01"}}
		}
		answer(w, p)
	})
	mux.HandleFunc("PATCH /v1/images/{name}", func(w http.ResponseWriter, r *http.Request) {
		var s api.ImageSet
		json.NewDecoder(r.Body).Decode(&s)
		answer(w, api.Image{Name: r.PathValue("name"), Set: s.Set})
	})
	mux.HandleFunc("GET /v1/images/{name}/{rev}/boot-test/screen", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "a picture") })
	mux.HandleFunc("GET /v1/images/pc/1", func(w http.ResponseWriter, r *http.Request) {
		answer(w, api.ImageDetail{Revision: api.Revision{Image: "pc", Rev: 1, Created: when}, Manifest: map[string]any{},
			BootTest: &api.BootTest{Firmware: "uefi", Time: when, Why: "its kernel panicked"}})
	})
	old := api.ImageDetail{Revision: api.Revision{Image: "old", Rev: 1, ID: "abcd", Created: when}, Manifest: map[string]any{}}
	mux.HandleFunc("GET /v1/images/old/1", func(w http.ResponseWriter, r *http.Request) { answer(w, old) })
	mux.HandleFunc("PUT /v1/images/old/1/signature", func(w http.ResponseWriter, r *http.Request) {
		signed := old.Revision
		signed.Signatures = []api.Signature{{Key: "KEY1", Name: "this management node", State: "trusted"}, {Key: "KEY2", State: "unknown"}, {Key: "KEY3", Name: "site-b", State: "wrong"}}
		signed.Trusted = true
		answer(w, signed)
	})
	mux.HandleFunc("POST /v1/images/{name}/{rev}/verify", func(w http.ResponseWriter, r *http.Request) {
		b, _ := json.Marshal(api.VerifyProgress{Done: 1 << 20, Total: 1 << 20, Finished: r.PathValue("rev") == "1"})
		fmt.Fprintf(w, "data: %s\n\n", b)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			answer(w, &api.Error{Code: "denied", Message: "the token is not known"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 1536: "1.50 KiB", 10 << 20: "10.0 MiB", 999 << 20: "999 MiB", 1000 << 20: "0.98 GiB", 5 << 40: "5.00 TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestBrackets(t *testing.T) {
	for in, want := range map[string]string{"a[08-10,12]b": "a08b a09b a10b a12b", "x[1-3]": "x1 x2 x3"} {
		got, err := brackets(in)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("brackets(%q) = %v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"a[1-", "a[3-1]", "a[x-y]", "a[1-2][3-4]", "a[1-99999999]"} {
		if got, err := brackets(bad); err == nil {
			t.Errorf("brackets(%q) = %v, want an error", bad, got)
		}
	}
}
