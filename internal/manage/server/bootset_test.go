package server

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

const otherBuild = "fedcba9876543210fedcba9876543210"

// A node that is stateless for good gets its own profile at each boot, over restarts of the server; its agent is not
// told to reboot when something else is set, and a job has the agent in place of the system's init.
func TestStatelessForGood(t *testing.T) {
	r := start(t)
	r.put("profiles/compute.yaml", "extends: imaging\ninit: /sbin/init\npostscripts:\n  pre: [{name: one, content: x}]\n", 0o644)
	e := r.fails("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootStateless, Profile: "compute"}, "no_image", "profile compute amd64")
	if !strings.Contains(e.Hint, "mimeo stateless build compute") || r.node("n1").Boot != node.BootDisk {
		t.Errorf("%+v", e)
	}
	r.imageOf("compute", otherBuild, "/sbin/init")
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootStateless, Profile: "compute", SSHKeys: []string{"ssh-ed25519 AAAA me"}}, nil)
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"hostname": "login"}}, nil)
	first := ""
	for try := range 3 {
		code, text := r.get("127.0.0.11", script(1))
		for _, want := range []string{"/boot/stateless/" + otherBuild + "/vmlinuz", "mimeo.init=/sbin/init", "mimeo.hostname=login", "mimeo.build=" + otherBuild} {
			if code != 200 || !strings.Contains(text, want) {
				t.Fatalf("boot %d: %d, no %s in:\n%s", try, code, want, text)
			}
		}
		task := r.hello(tokenIn.FindStringSubmatch(text)[1], "b"+string(rune('0'+try)))
		if task.Kind != api.TaskStateless || task.Hostname != "login" || len(task.Pre) != 1 || len(task.SSHKeys) != 1 || task.RetryMS < 30_000 {
			t.Errorf("boot %d: %+v", try, task)
		}
		key, err := ssh.ParsePrivateKey([]byte(task.HostKey))
		if err != nil {
			t.Fatal(err)
		}
		if pub := ssh.FingerprintSHA256(key.PublicKey()); first == "" {
			first = pub
		} else if pub != first {
			t.Error("its host key changes from boot to boot")
		}
		if try == 1 { // another server on the same state
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			r = startIn(t, r.cfg.State)
		}
	}
	// The group's profile counts where the node says none.
	r.must("POST", "/v1/groups", api.GroupChange{Names: []string{"rack1"}, Set: map[string]string{"profile": "compute"}}, nil)
	r.must("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootStateless}, nil)
	code, text := r.get("127.0.0.12", script(2))
	if code != 200 || !strings.Contains(text, "mimeo.init=/sbin/init") {
		t.Errorf("n2 does not inherit its profile: %d\n%s", code, text)
	}
	token := tokenIn.FindStringSubmatch(text)[1]
	other, err := ssh.ParsePrivateKey([]byte(r.hello(token, "x").HostKey))
	if err != nil || ssh.FingerprintSHA256(other.PublicKey()) == first {
		t.Errorf("two nodes with one host key, %v", err)
	}
	// What it says of its postscripts is kept.
	if _, e := r.call(token, "POST", api.PathProgress, api.Progress{BootID: "x", Phase: api.PhasePre, Outputs: []api.Output{{Name: "one", Exit: 7, Output: "no filer\n"}}, Log: []string{"this stateless system is up; failed: one"}}, nil); e != nil {
		t.Fatal(e)
	}
	var evs []api.Event
	r.must("GET", "/v1/nodes/n2/events", nil, &evs)
	said := ""
	for _, e := range evs {
		said += e.Kind + " " + e.Text + "\n"
	}
	if !strings.Contains(said, "postscript one: exit status 7\nno filer") || !strings.Contains(said, "log this stateless system is up; failed: one") {
		t.Errorf("events: %s", said)
	}
	// Another state is for its next boot: the system that runs is not rebooted.
	r.must("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootDisk}, nil)
	if task := r.hello(token, "x"); task.Kind != api.TaskNone {
		t.Errorf("a running system is told %s", task.Kind)
	}
	r.must("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootStateless}, nil)
	id := r.capture("n2")
	if _, text := r.get("127.0.0.12", script(2)); strings.Contains(text, "mimeo.init") || !strings.Contains(text, "/boot/stateless/"+otherBuild) {
		t.Errorf("job %s boots:\n%s", id, text)
	}
}
