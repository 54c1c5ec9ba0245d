package server

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/nfs"
	"mimeo/internal/manage/stateless"
)

func (r *rig) put(name, text string, mode os.FileMode) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.cfg.State, name), []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(r.cfg.State, name), mode); err != nil {
		r.t.Fatal(err)
	}
}

// A label of the node names postscripts, which come after those of the profile.
func TestNodesOwnScripts(t *testing.T) {
	r := start(t)
	r.put("profiles/imaging.yaml", "extends: imaging\npostscripts:\n  post:\n    - name: first\n      content: |\n        #!/bin/sh\n        true\n", 0o644)
	r.put("nfs/postscripts/a.sh", "#!/bin/sh\necho a\n", 0o755)
	r.put("nfs/postscripts/b", "#!/bin/sh\necho b\n", 0o755)
	r.put("nfs/postscripts/plain", "no program\n", 0o644)
	set := func(key, v string) api.NodeSet {
		return api.NodeSet{Range: "n1", Set: map[string]string{"label.postscripts." + key: v}}
	}
	r.fails("PATCH", "/v1/nodes", set("after", "a.sh"), "bad_request", "no stage")
	r.fails("PATCH", "/v1/nodes", set("post", "a.sh,../key"), "bad_request", "../key")
	job := func(key string) api.JobNew {
		return api.JobNew{Key: key, Kind: api.TaskCapture, Range: "n1", Image: "web"}
	}
	for v, want := range map[string]string{"missing": "no such file", "plain": "not executable", "a.sh,missing": "no such file"} {
		r.must("PATCH", "/v1/nodes", set("post", v), nil)
		e := r.fails("POST", "/v1/jobs", job(v), "bad_request", want)
		if !strings.Contains(e.Message, "n1: its label postscripts.post") || !strings.Contains(e.Hint, "nfs/postscripts") {
			t.Errorf("%+v", e)
		}
	}
	if r.node("n1").Boot != node.BootDisk {
		t.Error("a job that was refused left a boot state behind")
	}
	r.must("PATCH", "/v1/nodes", set("post", "a.sh,b"), nil)
	r.must("POST", "/v1/jobs", job("k"), nil)
	task := r.hello(r.boot(1), "b1")
	if len(task.Post) != 3 || task.Post[0].Name != "first" || task.Post[1].Name != "a.sh" || string(task.Post[2].Content) != "#!/bin/sh\necho b\n" || len(task.Pre)+len(task.Root) != 0 {
		t.Errorf("task %+v", task)
	}
	// A ready one needs no file, and is for its stage alone; a file of its name goes before it.
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n2", Set: map[string]string{"label.postscripts.pre": "network"}}, nil)
	r.fails("POST", "/v1/jobs", api.JobNew{Key: "r", Kind: api.TaskCapture, Range: "n2", Image: "db"}, "bad_request", "for stage root")
	var all []api.ReadyScript
	r.must("GET", "/v1/postscripts", nil, &all)
	var one api.ReadyScript
	r.must("GET", "/v1/postscripts/network", nil, &one)
	r.fails("GET", "/v1/postscripts/nope", nil, "not_found", "nope")
	own := r.node("n1").Node
	own.Labels["postscripts.root"] = "network"
	mine, err := (&Server{cfg: r.cfg}).nodeScripts(own, "root", nil)
	if err != nil || len(mine) != 1 || len(all) < 2 || one.Stage != "root" || one.Content == "" || string(mine[0].Content) != one.Content {
		t.Errorf("%v, %+v, %+v", err, mine, all)
	}
	r.put("nfs/postscripts/network", "#!/bin/sh\necho own\n", 0o755)
	if mine, err = (&Server{cfg: r.cfg}).nodeScripts(own, "root", nil); err != nil || string(mine[0].Content) != "#!/bin/sh\necho own\n" {
		t.Errorf("%v, %+v", err, mine)
	}
	// With the folder mounted they run from there, except in a deployed root.
	n := r.node("n1").Node
	n.Labels["postscripts.root"], n.Labels["postscripts.first"] = "b", "b"
	s := &Server{cfg: r.cfg, nfs: &nfs.Server{}}
	p, err := stateless.LoadProfile(r.cfg.State, "imaging")
	if err != nil {
		t.Fatal(err)
	}
	post, err := s.nodeScripts(n, "post", p.Mounts)
	if err != nil || len(post) != 2 || post[0].Path != "/mnt/postscripts/a.sh" || post[0].Content != nil {
		t.Errorf("%+v, %v", post, err)
	}
	for _, stage := range []string{"root", "first"} {
		inside, err := s.nodeScripts(n, stage, p.Mounts)
		if err != nil || len(inside) != 1 || inside[0].Path != "" || len(inside[0].Content) == 0 {
			t.Errorf("%s: %+v, %v", stage, inside, err)
		}
	}
	deploy := api.Task{Kind: api.TaskDeploy}
	if err := s.furnish(&deploy, n, netip.MustParseAddr("10.0.0.1")); err != nil || len(deploy.Root) != 1 || len(deploy.First) != 1 || deploy.First[0].Name != "b" {
		t.Errorf("%+v, %v", deploy, err)
	}
}

// A profile that is wrong is said when the job is made; one that becomes wrong later ends the job, and says so.
func TestProfileIsWrong(t *testing.T) {
	r := start(t)
	job := api.JobNew{Key: "k", Kind: api.TaskCapture, Range: "n1", Image: "web"}
	r.put("profiles/imaging.yaml", "extends: imaging\nmounts:\n- sauce: x\n", 0o644)
	r.fails("POST", "/v1/jobs", job, "bad_request", "sauce")
	os.Remove(filepath.Join(r.cfg.State, "profiles/imaging.yaml"))
	var jobs []api.Job
	r.must("POST", "/v1/jobs", job, &jobs)
	token := r.boot(1)
	r.put("profiles/imaging.yaml", "extends: imaging\nmounts:\n- sauce: x\n", 0o644)
	if task := r.hello(token, "b1"); task.Kind != api.TaskReboot {
		t.Errorf("task %+v", task)
	}
	j := r.job(jobs[0].ID)
	if j.Phase != api.PhaseFailed || j.Error == nil || !strings.Contains(j.Error.Message, "sauce") || r.node("n1").Boot != node.BootDisk {
		t.Errorf("%s, %+v", j.Phase, j.Error)
	}
	// A stateless boot is refused likewise; one whose profile becomes wrong later tells its agent, which asks again.
	r.fails("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootStateless}, "bad_request", "sauce")
	os.Remove(filepath.Join(r.cfg.State, "profiles/imaging.yaml"))
	r.must("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootStateless}, nil)
	token = r.boot(2)
	r.put("profiles/imaging.yaml", "extends: imaging\nmounts:\n- sauce: x\n", 0o644)
	code, e := r.call(token, "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "b2"}, nil)
	if code/100 == 2 || !strings.Contains(e.Message, "sauce") {
		t.Errorf("%d %+v", code, e)
	}
}
