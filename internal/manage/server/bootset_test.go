package server

import (
	"strings"
	"testing"
	"time"

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

// memtest is loaded by iPXE, for good or once, and refused where it could not run.
func TestMemtest(t *testing.T) {
	r := start(t)
	r.fails("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootMemtest}, "no_image", "not among the loaders")
	r.put("loaders/memtest.bin", "a kernel", 0o644)
	r.put("loaders/loaders.json", `{"version":1,"memtest":"x","files":{"memtest.bin":{"size":8}}}`, 0o644)
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootMemtest}, nil)
	load := func() {
		t.Helper()
		code, text := r.get("127.0.0.11", script(1))
		if code != 200 || !strings.Contains(text, "/loaders/memtest.bin || goto failed") || strings.Contains(text, "mimeo.token") {
			t.Fatalf("%d\n%s", code, text)
		}
		if code, text := r.get("127.0.0.11", "/loaders/memtest.bin"); code != 200 || text != "a kernel" {
			t.Errorf("%d %s", code, text)
		}
	}
	load()
	load()
	if n := r.node("n1"); n.Boot != node.BootMemtest {
		t.Errorf("%+v", n.Node)
	}
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootMemtest, Once: true}, nil)
	r.get("127.0.0.11", script(1)) // a script that is fetched twice is no boot
	load()
	r.until("its disk", func() bool { return r.node("n1").Boot == node.BootDisk })
	if code, text := r.get("127.0.0.11", script(1)); code != 200 || !strings.Contains(text, "sanboot") {
		t.Errorf("%d\n%s", code, text)
	}
	var e api.BootExplain
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootMemtest}, nil)
	if r.must("GET", "/v1/nodes/n1/boot", nil, &e); e.Decision != "memtest" || !strings.Contains(e.Script, "memtest.bin") {
		t.Errorf("%+v", e)
	}
	for key, value := range map[string]string{"arch": "arm64", "firmware": "opal", "knobs.loader": "shim"} {
		r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n2", Set: map[string]string{"arch": "amd64", "firmware": "uefi", "knobs.loader": ""}}, nil)
		r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n2", Set: map[string]string{key: value}}, nil)
		r.fails("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootMemtest}, "bad_request", "n2: ")
	}
}

// discover reports the hardware; for once, the node goes back to its disk.
func TestDiscoverKnown(t *testing.T) {
	r := start(t)
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootDiscover}, nil)
	if task := r.hello(r.boot(1), "a"); task.Kind != api.TaskNone || r.node("n1").Boot != node.BootDiscover {
		t.Errorf("%+v", task)
	}
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootDiscover, Once: true}, nil)
	r.boot(1) // a script that is fetched twice is no boot
	token := r.boot(1)
	if code, _ := r.get("127.0.0.11", "/boot/stateless/"+build+"/vmlinuz"); code != 200 {
		t.Errorf("vmlinuz: %d", code)
	}
	r.until("its disk", func() bool { return r.node("n1").Boot == node.BootDisk })
	if task := r.hello(token, "b"); task.Kind != api.TaskReboot {
		t.Errorf("%+v", task)
	}
	if n := r.node("n1"); n.Boot != node.BootDisk || n.Hardware == nil || n.Hardware.Product != "box" {
		t.Errorf("%+v", n)
	}
}

// A node that fetches its script and is not seen to load anything does not boot the same for ever.
func TestOnceEnds(t *testing.T) {
	r := start(t)
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell, Once: true}, nil)
	r.boot(1)
	r.boot(1)
	r.once.Store(node.Name("n1"), time.Now().Add(-2*onceAgain))
	if code, text := r.get("127.0.0.11", script(1)); code != 200 || !strings.Contains(text, "sanboot") || r.node("n1").Boot != node.BootDisk {
		t.Errorf("%d %s", code, text)
	}
	// Asked for anew, it counts anew.
	r.once.Store(node.Name("n1"), time.Now().Add(-2*onceAgain))
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell, Once: true}, nil)
	r.boot(1)
	// What was said meanwhile is not undone by a boot that was under way.
	was, err := r.db.Node(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootStateless}, nil)
	r.booted(t.Context(), was)
	if got := r.node("n1").Boot; got != node.BootStateless {
		t.Errorf("boot state %s", got)
	}
	// For good is for good.
	r.must("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootShell}, nil)
	r.once.Store(node.Name("n2"), time.Now().Add(-2*onceAgain))
	r.boot(2)
}
