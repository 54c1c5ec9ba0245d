package server

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func (r *rig) wipe(node string) string {
	r.t.Helper()
	var jobs []api.Job
	r.must("POST", "/v1/jobs", api.JobNew{Key: fmt.Sprint(time.Now().UnixNano()), Kind: api.TaskWipe, Range: node}, &jobs)
	return jobs[0].ID
}

var wiped = api.Wiped{Disk: api.Disk{Name: "sda", Size: 1 << 30, Model: "A <B> & C", Serial: "S1"}, Asked: "auto", Method: "zero", Command: "zeros written to every block", Notes: []string{"a → b"},
	Start: time.Unix(1790000000, 0).UTC(), End: time.Unix(1790000100, 5e6).UTC(), Verified: "every block was read back as zeros", Read: 1 << 30}

// A wipe goes from the request to a signed certificate that another program can check, and that outlives the node.
func TestWipe(t *testing.T) {
	r := start(t)
	r.fails("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootWipe}, "bad_request", "comes with a job")
	for text, req := range map[string]api.JobNew{
		`none of auto`:   {Kind: api.TaskWipe, Method: "burn"},
		`has no image`:   {Kind: api.TaskWipe, Image: "web"},
		`are for a wipe`: {Kind: api.TaskCapture, Image: "web", AllDisks: true},
		"names no node":  {Kind: api.TaskWipe, Range: "n1,-n1"},
		"deploy or wipe": {Kind: "paint", Image: "web"},
	} {
		req.Key = "k"
		if req.Range == "" {
			req.Range = "n1"
		}
		code := "bad_request"
		if strings.Contains(text, "names no node") {
			code = "not_found"
		}
		r.fails("POST", "/v1/jobs", req, code, text)
	}
	id := r.wipe("n1")
	if n := r.node("n1"); n.Boot != node.BootWipe || n.Job != id {
		t.Fatalf("%+v", n)
	}
	r.fails("GET", "/v1/jobs/"+id+"/certificate", nil, "not_found", "no certificate")
	token := r.boot(1)
	task := r.hello(token, "b1")
	if task.Kind != api.TaskWipe || task.Job != id || task.Method != "auto" || task.AllDisks || task.Force {
		t.Fatalf("%+v", task)
	}
	if code, _ := r.call(token, "POST", "/v1/store/missing", []byte("[]"), nil); code != http.StatusUnauthorized && code != http.StatusNotFound {
		t.Errorf("a wipe may ask the store: %d", code)
	}
	done := api.Done{Job: id, BootID: "b1", OK: true, Touched: true, Counts: map[string]int64{"wiped": 1 << 30}, Wipe: &api.WipeReport{Agent: "1.2", Build: build, Disks: []api.Wiped{wiped}}}
	var reply api.DoneReply
	r.until("the answer reboot", func() bool {
		if _, e := r.call(token, "POST", api.PathDone, done, &reply); e != nil {
			t.Fatal(e)
		}
		return reply.Action == "reboot"
	})
	if j := r.job(id); j.Phase != api.PhaseRebooting || !j.Touched {
		t.Errorf("%+v", j)
	}
	if n := r.node("n1"); n.Boot != node.BootDisk || n.LastImage != "" {
		t.Errorf("%+v", n.Node)
	}
	if code, text := r.get("127.0.0.11", script(1)); code != 200 || !strings.Contains(text, "sanboot") {
		t.Errorf("%d %s", code, text)
	}
	if j := r.job(id); j.Phase != api.PhaseDone {
		t.Errorf("%+v", j)
	}
	r.must("DELETE", "/v1/nodes?range=n1", nil, nil)
	var s api.SignedCertificate
	r.must("GET", "/v1/jobs/"+id+"/certificate", nil, &s)
	var c api.Certificate
	if err := json.Unmarshal(s.Certificate, &c); err != nil || c.Job != id || c.Node != "n1" || c.Machine.Product != "box" || c.Agent != "1.2" || c.Server != "test" || c.Disks[0].Disk.Serial != "S1" || !c.Disks[0].End.Equal(wiped.End) {
		t.Errorf("%+v, %v", c, err)
	}
	if c.Disks[0].Disk.Model != "A -B- - C" || c.Disks[0].Notes[0] != "a - b" {
		t.Errorf("%+v", c.Disks[0])
	}
	var list []api.CertificateEntry
	r.must("GET", "/v1/certificates", nil, &list)
	if len(list) != 1 || list[0].Job != id || len(list[0].Disks) != 1 || list[0].Disks[0] != "S1" {
		t.Errorf("%+v", list)
	}
	openssl(t, s, true)
	s.Certificate = bytes.Replace(s.Certificate, []byte("zero"), []byte("none"), 1)
	openssl(t, s, false)
}

// openssl checks a signature as docs/formats/wipe-certificate.md has it, on what Python writes anew of it.
func openssl(t *testing.T, s api.SignedCertificate, good bool) {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	text, err := exec.Command("python3", "-c", "import json,sys; sys.stdout.write(json.dumps(json.loads(sys.argv[1]),separators=(',',':')))", string(s.Certificate)).Output()
	if err != nil || !bytes.Equal(text, s.Certificate) {
		t.Errorf("Python writes it as\n%s, %v, not\n%s", text, err, s.Certificate)
	}
	// SubjectPublicKeyInfo of an Ed25519 key, RFC 8410 section 4.
	spki := append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, s.Key...)
	key := put("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	out, err := exec.Command("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", put("text", text), "-sigfile", put("sig", s.Signature)).CombinedOutput()
	if (err == nil) != good {
		t.Errorf("openssl says: %v %s", err, out)
	}
}

// An agent that says done and cannot say what it did proves nothing: the job fails.
func TestWipeWithoutProof(t *testing.T) {
	r := start(t)
	other := wiped
	other.Asked = "crypto"
	vague := wiped
	vague.Verified = ""
	for i, report := range []*api.WipeReport{nil, {}, {Disks: []api.Wiped{wiped, wiped}}, {Disks: []api.Wiped{other}}, {Disks: []api.Wiped{vague}}} {
		id := r.wipe("n1")
		token, boot := r.boot(1), fmt.Sprint("b", i)
		r.hello(token, boot)
		if _, e := r.call(token, "POST", api.PathDone, api.Done{Job: id, BootID: boot, OK: true, Touched: true, Wipe: report}, nil); e != nil {
			t.Fatal(e)
		}
		r.until("the end", func() bool { return !r.job(id).Active })
		if j := r.job(id); j.Phase != api.PhaseFailed || j.Error.Code != "no_proof" || r.node("n1").Boot != node.BootDisk {
			t.Errorf("%d: %+v", i, j)
		}
		r.fails("GET", "/v1/jobs/"+id+"/certificate", nil, "not_found", "no certificate")
	}
	// A cancel after the first write says what is left.
	id := r.wipe("n1")
	token := r.boot(1)
	r.hello(token, "x")
	if _, e := r.call(token, "POST", api.PathProgress, api.Progress{Job: id, BootID: "x", Phase: api.PhaseWriting, Done: 5, Total: 10}, nil); e != nil {
		t.Fatal(e)
	}
	r.must("POST", "/v1/jobs/"+id+"/cancel", nil, nil)
	if _, e := r.call(token, "POST", api.PathDone, api.Done{Job: id, BootID: "x", Cancelled: true, Touched: true}, nil); e != nil {
		t.Fatal(e)
	}
	if j := r.job(id); j.Phase != api.PhaseCancelled || j.Error == nil || !strings.Contains(j.Error.Message, "may hold most of its data") {
		t.Errorf("%+v", j)
	}
}

// What would be erased is known before: the one disk of the rule, or all that are fixed.
func TestWipePreflight(t *testing.T) {
	r := start(t)
	token := func() string {
		r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell}, nil)
		return r.boot(1)
	}()
	hw := api.Hardware{Disks: []api.Disk{{Name: "sda", Serial: "A", Size: 1e9}, {Name: "sdb", Serial: "B", Size: 2e9}, {Name: "sdc", Serial: "C", Size: 3e9, Removable: true}}}
	if _, e := r.call(token, "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "b", Hardware: hw}, nil); e != nil {
		t.Fatal(e)
	}
	look := func(req api.JobNew) api.PreflightNode {
		var p api.Preflight
		req.Kind, req.Range = api.TaskWipe, "n1"
		r.must("POST", "/v1/jobs/preflight", req, &p)
		return p.Nodes[0]
	}
	if n := look(api.JobNew{}); n.Disk != nil || !strings.Contains(strings.Join(n.Warnings, " "), "exactly one fixed disk") {
		t.Errorf("%+v", n)
	}
	if n := look(api.JobNew{AllDisks: true}); n.Disk != nil || len(n.Disks) != 2 || n.Disks[1].Serial != "B" {
		t.Errorf("%+v", n)
	}
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"disk.serial": "B"}}, nil)
	if n := look(api.JobNew{}); n.Disk == nil || n.Disk.Serial != "B" || len(n.Disks) > 0 {
		t.Errorf("%+v", n)
	}
}
